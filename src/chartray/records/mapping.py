"""The mapping file of a hospital's own table: its columns and the meaning of their cells.

examples/hospital.yaml explains every key.
"""

import math
from collections.abc import Mapping as Mapped
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from chartray.errors import InputError
from chartray.records.mapping_entries import Column, LabelMapping, VariableMapping, list_of_cells
from chartray.records.mapping_keys import sentence
from chartray.records.parsing import is_date_format
from chartray.records.same_patient import SPELLING, Same, checked_same
from chartray.schema import SPLIT_SHARES, SPLITS
from chartray.yaml_file import read_yaml

# The columns of a chart of events that name the patient.
PATIENT_KEYS = {"meds": ("subject_id",), "omop": ("person_id", "person_source_value")}
# Those of OMOP's image_occurrence that name the image instead.
IMAGE_KEYS = ("image_study_uid", "image_series_uid")


class ChartMapping(BaseModel):
    """How rows of a second table, the chart, belong to the images: by equal ids, and by time if `time` is given.

    `on`: column of the table -> column of the chart. With `time` each column has its last value at or before the image,
    at most `within_days` old. Without it an id has one row, or the `majority` of the values of several rows.
    `model`: the chart is a MEDS data set or an OMOP base, and each entry of `ehr` names its codes; `stored` is the
    column with the time since which a value was known.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    on: dict[Column, Column]
    model: Literal["meds", "omop"] | None = None
    stored: Column | None = None
    time: Column | None = None
    time_format: tuple[str, ...] = ()
    within_days: float | None = Field(None, gt=0, allow_inf_nan=False)
    several: Literal["majority"] | None = None
    same_id: Literal["spelling"] | None = None

    @field_validator("on", mode="before")
    @classmethod
    def _pairs(cls, on: Any) -> Any:
        """One column that both have, or pairs of columns."""
        if isinstance(on, str):
            return {on: on}
        if isinstance(on, dict) and on:
            return on
        raise ValueError("needs the columns that hold the same id, {column of the table: column of the chart}")

    @field_validator("time_format", mode="before")
    @classmethod
    def _formats(cls, formats: Any) -> Any:
        return _date_formats(formats)

    @model_validator(mode="after")
    def _fitting(self) -> "ChartMapping":
        timed = [key for key in ("time_format", "within_days") if getattr(self, key)]
        if timed and self.time is None:
            raise ValueError(f"{timed[0]!r} needs 'time', the column with the times of the chart")
        if self.model is not None:
            other = next((key for key in ("time", "within_days", "several", "same_id") if getattr(self, key)), None)
            if other:
                raise ValueError(f"{other!r} does not apply to a chart of events: each entry has its window_days")
            keys = PATIENT_KEYS[self.model] + (IMAGE_KEYS if self.model == "omop" else ())
            if len(self.on) != 1 or next(iter(self.on.values())) not in keys:
                raise ValueError(f"needs the column of the patient under 'on', {{column: {' or '.join(keys)}}}")
        elif self.stored is not None:
            raise ValueError("'stored' needs 'model', a chart of events")
        if self.several is not None and self.time is not None:
            raise ValueError("expected 'several' or 'time', which chooses one of several values, found both")
        return self


class Mapping(BaseModel):
    """The whole mapping file; `name` is the name of the data set in results (default: the table's name).

    Without a `split` column, patients are split by a salted hash into `split_shares`; with both, those of its training
    split are.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str | None = None
    image_id: Column
    patient_id: Column
    path: Column
    study_id: Column | None = None
    taken_at: Column | None = None
    taken_at_format: tuple[str, ...] = ()
    same_patient: Same = None
    exact_ids: tuple[str, ...] = ()
    split: Column | None = None
    split_shares: dict[str, float] = Field(default_factory=lambda: dict(SPLIT_SHARES))
    keep: dict[Column, tuple[str, ...]] = Field(default_factory=dict)
    charts: ChartMapping | None = None
    ehr: dict[str, VariableMapping] = Field(default_factory=dict)
    labels: dict[str, LabelMapping] = Field(default_factory=dict)

    @field_validator("taken_at_format", mode="before")
    @classmethod
    def _formats(cls, formats: Any) -> Any:
        return _date_formats(formats)

    @field_validator("keep", mode="before")
    @classmethod
    def _kept(cls, keep: Any) -> Any:
        """Lists of cells by column."""
        if not isinstance(keep, dict):
            raise ValueError("needs the cells of a column whose rows are kept, {column: [cell, ...]}")
        return {column: list_of_cells(cells) for column, cells in keep.items()}

    @field_validator("exact_ids", mode="before")
    @classmethod
    def _exact(cls, keys: Any) -> Any:
        """One id key or a list of them."""
        listed = [keys] if isinstance(keys, str) else keys
        if not isinstance(listed, list) or not all(key in ("image_id", "patient_id", "study_id") for key in listed):
            raise ValueError(f"needs a list of image_id, patient_id and study_id, [patient_id], found {keys!r}")
        return listed

    @field_validator("same_patient", mode="before")
    @classmethod
    def _same(cls, same: Any) -> Any:
        return checked_same(same)

    @model_validator(mode="after")
    def _fitting(self) -> "Mapping":
        shares = self.split_shares
        if set(shares) != set(SPLITS) or min(shares.values()) < 0 or not 0 < sum(shares.values()) < math.inf:
            raise ValueError(f"'split_shares' needs a share of at least 0 for each of {', '.join(SPLITS)}")
        # --ehr and --labels take comma-separated names; `--ehr none` means no chart, the label `macro` is the mean.
        for section, names, taken in (("ehr", self.ehr, "none"), ("labels", self.labels, "macro")):
            for name in names:
                if not name.strip() or "," in name or name == taken:
                    raise ValueError(f"'{section}' needs names without a comma, other than {taken!r}, found {name!r}")
        if self.split is not None and "split_shares" in self.model_fields_set and shares["test"]:
            raise ValueError(
                "give 'split' (a column) or 'split_shares' (drawn by patient), not both, or with 'split' the shares of "
                "its training patients, {train: 0.9, validate: 0.1, test: 0}"
            )
        if self.same_patient == SPELLING and "patient_id" in self.exact_ids:
            raise ValueError("expected 'same_patient: spelling' or patient_id in 'exact_ids', found both")
        coded = next((name for name, entry in self.ehr.items() if entry.codes), None)
        if coded is not None and (self.charts is None or self.charts.model is None):
            raise ValueError(f"'codes' of {coded!r} needs charts: {{model: meds}} or {{model: omop}}")
        during = next((name for name, entry in self.ehr.items() if entry.during), None)
        if during is not None and self.charts is not None and self.charts.model == "meds":
            raise ValueError(
                f"'during' of {during!r} needs visits with an end, which MEDS does not have; give the codes that begin "
                "a visit and a window_days"
            )
        if self.charts is not None and self.charts.model is not None and self.taken_at is None:
            raise ValueError("a chart of events needs 'taken_at', the time of the image")
        if self.taken_at_format and self.taken_at is None:
            raise ValueError("'taken_at_format' needs 'taken_at', the column with these times")
        return self


def read_mapping(file: Path, given: Mapped[str, Any] | None = None) -> Mapping:
    """Reads and checks a mapping file; `given`: what it need not say, its `ehr` is added to.

    Raises InputError with the first problem of the file.
    """
    tree = read_yaml(file, "a mapping file")
    if given is not None:
        variables = tree.get("ehr", {})
        both = {**given.get("ehr", {}), **variables} if isinstance(variables, dict) else variables
        tree = {**given, **tree, "ehr": both}
    try:
        return Mapping.model_validate(tree)
    except ValidationError as error:
        said = sentence(error, tree, sorted(Mapping.model_fields), {"charts": sorted(ChartMapping.model_fields)})
        raise InputError(f"{said} (mapping {file})") from None


def _date_formats(formats: Any) -> Any:
    """One strptime format or a list of them, each with a full date."""
    listed = [formats] if isinstance(formats, str) else formats
    if not isinstance(listed, (list, tuple)) or not all(isinstance(form, str) for form in listed):
        raise ValueError("needs a format such as '%d.%m.%Y %H:%M', or a list of them")
    for form in listed:
        if not is_date_format(form):
            raise ValueError(f"needs a format with a day, a month and a year, such as '%d.%m.%Y %H:%M', found {form!r}")
    return listed
