"""An export that stands at --out already: what another one would take from it is not taken unasked."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chartray.errors import InputError
from chartray.evaluation.results import IDENTITY
from chartray.networks.description import DESCRIPTION_FILE, WEIGHTS_FILE
from chartray.outputs.guard import refuse_other
from chartray.outputs.json_file import read_object
from chartray.outputs.replacing import settle
from chartray.outputs.seal import SUMS_FILE

CARD_FILE, CONFIG_FILE = "README.md", "config.json"
_FILES = {WEIGHTS_FILE, DESCRIPTION_FILE, CONFIG_FILE, CARD_FILE, SUMS_FILE}
# The card's headings of this level stand over numbers and over nothing else.
_NUMBERS = "\n### "


def check_export_replaceable(out: Path) -> None:
    """Raises InputError unless `out` is a new or empty folder, or an earlier export."""
    refuse_other(out, lambda names: "" if names <= _FILES else "other files than an earlier export")


def refuse_to_lose(out: Path, made: Mapping[str, Any], results: Sequence[Path]) -> None:
    """Raises InputError if `out` is an export of another encoder than `made` describes, or its card has numbers and
    there are no `results` to write them from again.
    """
    settle(out)
    before = _provenance(out / DESCRIPTION_FILE)
    differing = [key for key in IDENTITY if before is not None and before.get(key) != made.get(key)]
    if before is not None and differing:
        key = differing[0]
        raise InputError(
            f"expected an export of the same encoder as --out, found one with {key} {before.get(key)} instead of "
            f"{made.get(key)} in {out}; choose another --out, or remove it first"
        )
    card = out / CARD_FILE
    if not results and card.is_file() and _NUMBERS in card.read_text(encoding="utf-8", errors="replace"):
        raise InputError(
            f"expected the results whose numbers stand on the card {card}, found no --results; name them with "
            "--results, or choose another --out"
        )


def _provenance(description: Path) -> dict[str, Any] | None:
    """What an earlier export says of its encoder; None where it is not to be read."""
    try:
        found = read_object(description, "the description of an encoder").get("provenance")
    except InputError:
        return None
    return found if isinstance(found, dict) else None
