"""Every name, unit, level and label that crosses from one room to the next, and the cohort's metadata."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

METADATA_KEY = b"chartray"
COHORT_FORMAT = 1
SPLITS = ("train", "validate", "test")
# Of patients, where a source has no splits of its own.
SPLIT_SHARES = {"train": 0.8, "validate": 0.1, "test": 0.1}
EHR_PREFIX = "ehr."
LABEL_PREFIX = "label."
# Optional column beside a label, only where it does not go without saying (where it is not just the label's nulls):
# whether the source left the label's cell blank. A null that is no blank is a cell that could not be read, or an image
# that the source's label file does not name; a value that is a blank is what the mapping says a blank means.
BLANK_PREFIX = "blank."
# `simulate` leaves this file in each folder it draws, so that whatever comes of its images can say that none is real.
SIMULATED_FILE = "SIMULATED"
# Optional column: whether radiologists read the image's study, so that its labels are theirs and not the labeller's.
READ_COLUMN = "read_by_radiologists"

# METHOD.md section 3: the labeller's 14 findings, as written in the CheXpert and MIMIC-CXR csv files.
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
# Cohorts keep the names of their source; two names of one finding meet here, by name and never by position.
SAME_FINDING = {"Effusion": "Pleural Effusion"}

AGE_RANGE = (0.0, 110.0)  # years; outside it an age is missing
SEX_LEVELS = ("male", "female")
VIEW_LEVELS = ("PA", "LATERAL", "AP", "LL")
POSITION_LEVELS = ("Erect", "Recumbent")
MORTALITY_LEVELS = ("alive", "died")
ICU_LEVELS = ("icu", "not_icu")

Rules = Literal["strict", "published"]  # METHOD.md section 2


class Variable(BaseModel):
    """One chart variable of a cohort: `ehr.<name>`.

    `kind` is numeric (float64 column), categorical (string column, one of `levels`) or boolean (bool column).
    `range` is inclusive. `columns` are the source columns it was made from. `known_at_film` false: a fact that
    is known only after the image was taken, refused for pretraining unless named.
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

    `blank` is what a cell means that the source leaves blank: negative for labellers, which write nothing of what a
    report does not mention; positive, negative or uncertain where a mapping says so; else unknown. None: a cohort of
    an earlier Chartray, which does not say.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    columns: tuple[str, ...] = ()
    blank: Literal["negative", "positive", "uncertain", "unknown"] | None = None


class CohortMetadata(BaseModel):
    """What the Parquet schema metadata of a cohort says (key `chartray`, JSON)."""

    model_config = ConfigDict(extra="forbid")

    format: int = COHORT_FORMAT
    source: str
    release: str | None = None
    rules: Rules = "strict"
    variables: dict[str, Variable] = Field(default_factory=dict)
    labels: dict[str, LabelSource] = Field(default_factory=dict)
    # Labels of the source's published list that its files do not hold.
    absent_labels: list[str] = Field(default_factory=list)
    # The image folder that `path` is relative to.
    image_root: str = ""
    # The images and charts were drawn by `chartray simulate`.
    simulated: bool = False


def to_metadata(metadata: CohortMetadata) -> dict[bytes, bytes]:
    """The entry for `pa.Schema.with_metadata`."""
    return {METADATA_KEY: metadata.model_dump_json().encode()}


def from_metadata(schema_metadata: dict[bytes, bytes] | None) -> CohortMetadata:
    """Reads what `to_metadata` wrote; raises KeyError if the table is no cohort."""
    entries: dict[str, Any] = json.loads((schema_metadata or {})[METADATA_KEY])
    return CohortMetadata.model_validate(entries)


def finding(label: str) -> str:
    """The name under which one finding meets itself across data sets.

    >>> finding("Effusion"), finding("Edema")
    ('Pleural Effusion', 'Edema')
    """
    return SAME_FINDING.get(label, label)


def patient_key(source: str, patient_id: str) -> str:
    """What stands for a patient where only sameness matters: 16 hex digits of a hash.

    No anonymisation: who can list the identifiers of a source can hash them all, so keys stay beside the data.
    """
    return hashlib.sha256(f"chartray/{source}/{patient_id}".encode()).hexdigest()[:16]


def hashed(identifiers: Sequence[str]) -> list[str]:
    """A short name for each identifier, the same one each time, that cannot be turned back by trying identifiers.

    The key is made of all identifiers together: who holds the cohort can find an image again, who guesses one
    accession number cannot test the guess.
    """
    key = hashlib.blake2b("\n".join(identifiers).encode(), digest_size=32).digest()
    return [hashlib.blake2b(one.encode(), key=key, digest_size=4).hexdigest() for one in identifiers]
