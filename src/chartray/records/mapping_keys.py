"""Which keys of a mapping mean something for an entry's kind, and what is said of one that is not as expected."""

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from chartray.wording import nearest

_OF_VARIABLES = {"kind", "group", "unit", "known_at_film"}
_TIMED = {"column", "days_from_film", "window_days"}
_MEANINGS = {"true", "false", "present_means", "absent_means"}
_INTERVAL = {"starts", "ends", "absent_means"}
_LABEL = {"kind", "column", "uncertain"} | _MEANINGS
# For each section and kind; a label is of the kind label unless it says otherwise.
KEYS = {
    "ehr": {
        "interval": _OF_VARIABLES | _INTERVAL,
        "categorical": _OF_VARIABLES | _TIMED | {"levels"},
        "numeric": _OF_VARIABLES | _TIMED | {"range"},
        "boolean": _OF_VARIABLES | _TIMED | _MEANINGS,
    },
    "labels": {"label": _LABEL, "boolean": _LABEL, "interval": {"kind"} | _INTERVAL},
}
# A likeness below this names another word (`values` is no `false`).
_TYPING_ERROR = 0.6
_LONGEST = 300
_NOUNS = {"ehr": "variable", "labels": "label"}
_EVERY = {section: set[str]().union(*kinds.values()) for section, kinds in KEYS.items()}


def keys_of(section: str, entry: Any) -> list[str]:
    """The keys that an entry of `ehr` or `labels` may have, in order; those of every kind where it says none."""
    return sorted(KEYS[section].get(_kind(entry), _EVERY[section]))


def refuse_other_keys(entry: Any, section: str) -> Any:
    """The entry as it is; raises ValueError for a key that means something for another kind alone.

    What is wrong in the value of such a key does not matter, so this comes before the values are read.
    """
    if isinstance(entry, dict):
        meant = keys_of(section, entry)
        for name in sorted(entry.keys() & _EVERY[section] - set(meant)):
            kind = _kind(entry)
            what = {"interval": "an interval", "label": "a label"}.get(kind, f"a {kind} {_NOUNS[section]}")
            raise ValueError(f"{name!r} means nothing for {what}, which has {', '.join(meant)}")
    return entry


def _kind(entry: Any) -> str:
    return str(entry.get("kind", "label")) if isinstance(entry, dict) else ""


def sentence(error: ValidationError, tree: dict[str, Any], keys: Sequence[str]) -> str:
    """What the first thing is that is wrong with the mapping `tree`, which may have the `keys`."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        section, *inner = (str(part) for part in first["loc"])
        known = keys_of(section, tree[section].get(inner[0], {})) if len(inner) > 1 else keys
        close = nearest(str(first["loc"][-1]), known, likeness=_TYPING_ERROR)
        return f"expected only known keys, found {_short(repr(where))}{close or '; there are ' + ', '.join(known)}"
    if first["type"] == "missing":
        return f"expected {where!r}, found none; it is required"
    message = _short(str(first["msg"]).removeprefix("Value error, "))
    if not where:
        return message
    if first["type"] == "value_error":
        return f"expected another {where!r}: {message}"
    message = message.removeprefix("Input should be ").partition(" or instance of")[0]
    return f"expected {where!r} to be {message}, found {_short(repr(first['input']))}"


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."
