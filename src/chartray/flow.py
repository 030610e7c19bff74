"""How a cohort came about: the content of its flow file, which a store and the manifest of a run repeat."""

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr
from pydantic.dataclasses import dataclass


@dataclass(frozen=True)
class FlowStep:
    """One step of the flow: rows in, rows out, and why rows were left out (or a note)."""

    step: StrictStr
    rows_in: StrictInt
    rows_out: StrictInt
    why: StrictStr = ""


class _Read(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="allow")


class FlowNote(_Read):
    """A warning about a variable or a label: how many images it is about, and what to do."""

    of: str
    what: str
    images: int = Field(0, alias="films")
    remedy: str = "nothing"


class CohortFlow(_Read):
    """The flow: the source, its steps, warnings, links and missing cells; whatever else it says is kept as it is."""

    source: str
    release: str | None = None
    rules: str | None = None
    steps: list[FlowStep] = Field(default_factory=list, strict=False)
    cautions: list[FlowNote] = Field(default_factory=list)
    links: dict[str, int] = Field(default_factory=dict)
    missing: dict[str, dict[str, int]] = Field(default_factory=dict)
    absent_labels: list[str] = Field(default_factory=list)
