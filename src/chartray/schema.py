"""The names, units, levels and labels that all rooms share, and the cohort's metadata."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

METADATA_KEY = b"chartray"
COHORT_FORMAT = 1
SPLITS = ("train", "validate", "test")
# Of patients, where a source has no splits.
SPLIT_SHARES = {"train": 0.8, "validate": 0.1, "test": 0.1}
EHR_PREFIX = "ehr."
LABEL_PREFIX = "label."
# Optional column of a label: whether its cell is blank in the source. It is left out if the blanks are exactly the
# label's nulls. A null that is not blank is an unreadable cell, or an image that is not in the source's label file. A
# value that is blank has the meaning that the mapping gives a blank.
BLANK_PREFIX = "blank."
# Optional columns of a cohort made from DICOM: what the tags say of an image (modality, body_part, burned_in, turned).
SCAN_PREFIX = "scan."
# `simulate` writes this file into each of its folders, so that later files can say that the data are not real.
SIMULATED_FILE = "SIMULATED"
# Optional column: whether an image's labels are the radiologists', not the labeller's.
READ_COLUMN = "read_by_radiologists"

# The labeller's 14 findings, as in the CheXpert and MIMIC-CXR csv files.
CHEXPERT_LABELS = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Enlarged Cardiomediastinum",
    "Fracture",
    "Lung Lesion",
    "Lung Opacity",
    "No Finding",
    "Pleural Effusion",
    "Pleural Other",
    "Pneumonia",
    "Pneumothorax",
    "Support Devices",
)
NIH_LABELS = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)
# Cohorts keep the names of their source; this maps two names of the same finding.
SAME_FINDING = {"Effusion": "Pleural Effusion"}

AGE_RANGE = (0.0, 110.0)  # years; outside it an age is missing
SEX_LEVELS = ("male", "female")
VIEW_LEVELS = ("PA", "LATERAL", "AP", "LL")
POSITION_LEVELS = ("Erect", "Recumbent")
MORTALITY_LEVELS = ("alive", "died")
ICU_LEVELS = ("icu", "not_icu")

Rules = Literal["strict", "published"]  # docs/method.md


class Variable(BaseModel):
    """One chart variable of a cohort: `ehr.<name>`.

    `kind` is numeric (float64 column), categorical (string column, one of `levels`) or boolean (bool column).
    `range` is inclusive. `columns` are the source columns it was made from. `known_at_film` is false for a fact that is
    known only after the image was taken; pretraining refuses it unless it is named.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["numeric", "categorical", "boolean"]
    levels: tuple[str, ...] = ()
    range: tuple[float, float] | None = None
    unit: str | None = None
    group: str | None = None
    known_at_film: bool = True
    columns: tuple[str, ...] = ()


class LabelSource(BaseModel):
    """Where a label came from: the source columns, so that a chart variable made from one of them can be refused.

    `blank` is the meaning of a blank cell: negative for labellers, which leave findings blank that a report does not
    mention; positive, negative or uncertain if a mapping says so; else unknown. None: a cohort of an earlier Chartray.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    columns: tuple[str, ...] = ()
    blank: Literal["negative", "positive", "uncertain", "unknown"] | None = None


class CohortMetadata(BaseModel):
    """The metadata of a cohort, in its Parquet schema (key `chartray`, JSON)."""

    model_config = ConfigDict(extra="forbid")

    format: int = COHORT_FORMAT
    source: str
    release: str | None = None
    rules: Rules = "strict"
    variables: dict[str, Variable] = Field(default_factory=dict)
    labels: dict[str, LabelSource] = Field(default_factory=dict)
    # Labels of the source's published list that are not in its files.
    absent_labels: list[str] = Field(default_factory=list)
    # The image folder that `path` is relative to.
    image_root: str = ""
    # Whether the data were made by `chartray simulate`.
    simulated: bool = False


def to_metadata(metadata: CohortMetadata) -> dict[bytes, bytes]:
    """The entry for `pa.Schema.with_metadata`."""
    return {METADATA_KEY: metadata.model_dump_json().encode()}


def from_metadata(schema_metadata: dict[bytes, bytes] | None) -> CohortMetadata:
    """Reads what `to_metadata` wrote; raises KeyError if the table is not a cohort."""
    entries: dict[str, Any] = json.loads((schema_metadata or {})[METADATA_KEY])
    return CohortMetadata.model_validate(entries)


def finding(label: str) -> str:
    """The name of a finding that is shared across data sets.

    >>> finding("Effusion"), finding("Edema")
    ('Pleural Effusion', 'Edema')
    """
    return SAME_FINDING.get(label, label)


def patient_key(source: str, patient_id: str) -> str:
    """A key to compare patients by: 16 hex digits of a hash.

    It is not anonymous: anyone who can list a source's identifiers can hash them all. So keys stay with the data.
    """
    return hashlib.sha256(f"chartray/{source}/{patient_id}".encode()).hexdigest()[:16]


def hashed(identifiers: Sequence[str], *, size: int = 4) -> list[str]:
    """A short, reproducible name of 2 x `size` hex digits for each identifier, which cannot be found by guessing.

    The salt is made of all identifiers together, so each project has its own: the holder of the cohort can find an
    image again, but others cannot test a guessed accession number.

    >>> hashed(["a", "b", "a"])[0] == hashed(["a", "b", "a"])[2] != hashed(["a", "c", "a"])[0]
    True
    """
    salt = hashlib.blake2b("\n".join(identifiers).encode(), digest_size=32).digest()
    return [hashlib.blake2b(one.encode(), key=salt, digest_size=size).hexdigest() for one in identifiers]
