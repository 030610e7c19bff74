"""Earlier names of options and knobs: one release accepts them, on the command line and in YAML, and says the new one.

Remove an entry in the release after the one that renamed it, but keep those of knobs: config.yaml of earlier runs have
them, and `settings_hash` is taken over the first name of a knob, so that the same recipe keeps its hash.
"""

from collections.abc import Mapping, Sequence

from pydantic import JsonValue

from chartray.config.section import Knobs
from chartray.outputs.notices import notice

RENAMED = {
    "floors": "baselines",
    "floor_chart": "baseline_chart",
    "looks": "saliency",
    "objective.centre_momentum": "objective.center_momentum",
    "objective.normalise_patches": "objective.norm_pix_loss",
}


def renamed_tokens(tokens: Sequence[str]) -> list[str]:
    """A command line with today's names.

    >>> renamed_tokens(["evaluate", "run", "--no-floors", "--looks=3"])
    ['evaluate', 'run', '--no-baselines', '--saliency=3']
    """
    return [_renamed_token(token) if token.startswith("--") else token for token in tokens]


def renamed_keys(tree: Mapping[str, JsonValue], before: str = "", *, quietly: bool = False) -> Knobs:
    """A mapping of YAML with today's names, nested or dotted; if the new name is there too, its value is used.

    >>> renamed_keys({"objective": {"centre_momentum": 0.5}, "train.epochs": 3})
    {'objective': {'center_momentum': 0.5}, 'train.epochs': 3}
    """
    found: Knobs = {}
    for key, value in tree.items():
        name = f"{before}{key}"
        new = RENAMED.get(name, name).removeprefix(before)
        if new != key and not quietly:
            notice(f"{name} is now {before}{new}")
        if new not in found or new == key:
            found[new] = renamed_keys(value, f"{name}.", quietly=quietly) if isinstance(value, Mapping) else value
    return found


def first_names(section: str, knobs: Mapping[str, JsonValue]) -> Knobs:
    """The knobs of a section under the first name that each had."""
    first = {new: old for old, new in RENAMED.items()}
    return {
        first.get(f"{section}.{name}", f"{section}.{name}").removeprefix(f"{section}."): knobs[name] for name in knobs
    }


def _renamed_token(token: str) -> str:
    given, equals, value = token.removeprefix("--").partition("=")
    no, name = ("no-", given.removeprefix("no-")) if given.startswith("no-") else ("", given)
    new = RENAMED.get(name.replace("-", "_"))
    if new is None:
        return token
    flag = f"--{no}{new.replace('_', '-')}"
    notice(f"--{given} is now {flag}")
    return f"{flag}{equals}{value}"
