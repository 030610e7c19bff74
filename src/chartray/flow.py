"""How a cohort came about: the content of its flow file, which a store and the manifest of a run repeat."""

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StrictInt, StrictStr
from pydantic.dataclasses import dataclass


@dataclass(frozen=True)
class FlowStep:
    """One step of the flow: rows in, rows out, and why rows were left out (or a note)."""

    step: StrictStr
    rows_in: StrictInt
    rows_out: StrictInt
    why: StrictStr = ""


class _Read(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="allow", validate_by_name=True)


class FlowNote(_Read):
    """A warning about a variable or a label: how many images it is about, and what to do."""

    of: str
    what: str
    images: int = Field(0, alias="films")
    remedy: str = "nothing"


class SplitSize(_Read):
    """How large a split is."""

    images: int
    patients: int


class BlankCells(_Read):
    """The blank cells of a label, and what they count as."""

    cells: int
    mean: str


class CohortFlow(_Read):
    """The flow: source, steps, links, splits, missing cells and warnings; other entries are kept as they are."""

    source: str
    release: str | None = None
    layout: str | None = None
    rules: str | None = None
    steps: list[FlowStep] = Field(default_factory=list, strict=False)
    links: dict[str, int] = Field(default_factory=dict)
    splits: dict[str, SplitSize] = Field(default_factory=dict)
    missing: dict[str, dict[str, int]] = Field(default_factory=dict)
    absent_labels: list[str] = Field(default_factory=list)
    blank_labels: dict[str, BlankCells] = Field(default_factory=dict)
    cautions: list[FlowNote] = Field(default_factory=list)

    def content(self) -> dict[str, JsonValue]:
        """As the file has it: what was never said stays out."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)
