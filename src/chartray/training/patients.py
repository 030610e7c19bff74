"""Whom a run was pretrained on: train_patients.txt beside `encoder/`, not in it, since that may leave the house.

One `schema.patient_key` a line. The manifest and the encoder say how many they are and the SHA-256 of the file: what
guards against patients that were seen must not open for a file that is empty, cut short or of another run.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chartray.errors import InputError
from chartray.outputs.replacing import replaced_file, settle

PATIENTS_FILE = "train_patients.txt"


def told(keys: Sequence[str]) -> dict[str, Any]:
    """What a manifest says of the file."""
    return {"patients": len(keys), "patients_sha256": hashlib.sha256(_text(keys).encode()).hexdigest()}


def write_patients(run: Path, keys: Sequence[str]) -> None:
    """Writes the file of a RUN, whole or not at all."""
    with replaced_file(run / PATIENTS_FILE) as partial:
        partial.write_text(_text(keys), encoding="utf-8")


def read_patients(run: Path, said: Mapping[str, Any]) -> frozenset[str] | None:
    """The keys of the patients that a RUN was pretrained on; None where there is no file and no RUN around it.

    Args:
        run: the folder of the RUN, or whatever folder an encoder lies in.
        said: what the encoder's own provenance says (`told`).

    Raises:
        InputError: the file is not as it was written, or missing from a RUN that says that it has one, or nothing says
            what it held.
    """
    file = run / PATIENTS_FILE
    settle(file)
    wanted = said.get("patients_sha256")
    if not file.exists():
        if wanted is None or not (run / "manifest.json").exists():
            return None
        raise InputError(
            f"expected the {said.get('patients')} patients of pretraining in {file}, found no such file; put it back: "
            "without it nobody can say whether patients are tested that were trained on"
        )
    try:
        content = file.read_bytes()
    except OSError as error:
        raise InputError(f"expected the patients of pretraining in {file}, found: {error.strerror}") from None
    if hashlib.sha256(content).hexdigest() != wanted:
        found = "other content" if wanted else "no SHA-256 of it in encoder.json, so it is of another run"
        raise InputError(
            f"expected the {said.get('patients')} patients of pretraining in {file} as they were written, found "
            f"{found}; put back a whole copy of the RUN"
        )
    return frozenset(content.decode().split())


def _text(keys: Sequence[str]) -> str:
    return "".join(f"{key}\n" for key in keys)
