"""An earlier export at --out: it is replaced only by one of the same encoder that loses no numbers."""

from collections.abc import Sequence
from pathlib import Path

from chartray.errors import InputError
from chartray.networks.description import DESCRIPTION_FILE, WEIGHTS_FILE, Provenance, checked
from chartray.networks.public_folder import CONFIG_FILE, PREPARATION_FILE
from chartray.outputs.guard import refuse_other
from chartray.outputs.json_file import read_object
from chartray.outputs.replacing import settle
from chartray.outputs.seal import SUMS_FILE
from chartray.results.manifest import differing, identity

CARD_FILE, PARITY_FILE, ONNX_FILE = "README.md", "parity.json", "model.onnx"
_FILES = {WEIGHTS_FILE, DESCRIPTION_FILE, CONFIG_FILE, PREPARATION_FILE, ONNX_FILE, PARITY_FILE, CARD_FILE, SUMS_FILE}
# The card has headings of this level above numbers only.
_NUMBERS = "\n### "


def check_export_replaceable(out: Path) -> None:
    """Raises InputError unless `out` is a new or empty folder, or an earlier export."""
    refuse_other(out, lambda names: "" if names <= _FILES else "other files than an earlier export")


def refuse_to_lose(out: Path, made: Provenance, results: Sequence[Path]) -> None:
    """Raises InputError if `out` is an export of another encoder than `made` describes, or its card has numbers and
    there are no `results` to write them from again.
    """
    settle(out)
    before = _provenance(out / DESCRIPTION_FILE)
    other = [] if before is None else differing(identity(before), identity(made))
    if other:
        raise InputError(
            f"expected an export of the same encoder as --out, found one with {other[0]} in {out}; choose another "
            "--out, or remove it first"
        )
    card = out / CARD_FILE
    if not results and card.is_file() and _NUMBERS in card.read_text(encoding="utf-8", errors="replace"):
        raise InputError(
            f"expected --results with the numbers of the card {card}, found none; name the results with --results, or "
            "choose another --out"
        )


def _provenance(description: Path) -> Provenance | None:
    """What an earlier export says of its encoder; None where that cannot be read."""
    try:
        content = read_object(description, "the description of an encoder").get("provenance")
        return checked(Provenance, content, str(description)) if isinstance(content, dict) else None
    except InputError:
        return None
