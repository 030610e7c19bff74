"""The patients of pretraining: train_patients.txt next to `encoder/`, which may leave the hospital without it.

One `schema.patient_key` a line. The manifest and the encoder record their number and the SHA-256 of the file, so that
an empty, truncated or foreign file is refused.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from chartray.errors import InputError
from chartray.networks.description import Init, Provenance
from chartray.outputs.replacing import replaced_file, settle

PATIENTS_FILE = "train_patients.txt"


def patients_sha256(keys: Sequence[str]) -> str:
    """The SHA-256 of the file."""
    return hashlib.sha256(_text(keys).encode()).hexdigest()


def write_patients(run: Path, keys: Sequence[str]) -> None:
    """Writes the file of a RUN, whole or not at all."""
    with replaced_file(run / PATIENTS_FILE) as partial:
        partial.write_text(_text(keys), encoding="utf-8")


def read_patients(run: Path, said: Provenance | Init) -> frozenset[str] | None:
    """The keys of the patients that a RUN was pretrained on; None for an encoder outside a RUN, without the file.

    Args:
        run: the folder of the RUN, or the folder of an encoder.
        said: the encoder's own provenance, which holds their number and the SHA-256 of the file.

    Raises:
        InputError: the file was changed, is missing from a RUN that should have it, or no SHA-256 of it is known.
    """
    file = run / PATIENTS_FILE
    settle(file)
    wanted = said.patients_sha256
    if not file.exists():
        if wanted is None or not (run / "manifest.json").exists():
            return None
        raise InputError(
            f"expected the {said.patients} patients of pretraining in {file}, found no such file; restore it: "
            "without it, training patients in a test set cannot be detected"
        )
    try:
        content = file.read_bytes()
    except OSError as error:
        raise InputError(f"expected the patients of pretraining in {file}, found: {error.strerror}") from None
    if hashlib.sha256(content).hexdigest() != wanted:
        found = "other content" if wanted else "no SHA-256 of it in encoder.json, so it belongs to another run"
        raise InputError(
            f"expected the {said.patients} patients of pretraining in {file} as they were written, found "
            f"{found}; restore a complete copy of the RUN"
        )
    return frozenset(content.decode().split())


def _text(keys: Sequence[str]) -> str:
    return "".join(f"{key}\n" for key in keys)
