"""The declared question of a study: what it was to answer, fixed and hashed before the test split was scored."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from chartray.outputs.json_file import digest
from chartray.results.arm import BASELINES
from chartray.results.schema import Record, as_tuple

Role = Literal["primary", "family", "exploratory"]
EXPLORATORY = "no claim: exploratory, not in the declared question"


def _pairs(value: Any) -> Any:
    return tuple(as_tuple(each) for each in value) if isinstance(value, list | tuple) else value


ArmPair = Annotated[tuple[str, str], BeforeValidator(as_tuple)]
ArmPairs = Annotated[tuple[tuple[str, str], ...], BeforeValidator(_pairs)]
Names = Annotated[tuple[str, ...], BeforeValidator(as_tuple)]


class Question(Record):
    """What a study is to answer: is the first arm of `primary` better than the second, or no different by `margin`?"""

    primary: ArmPair = Field(description="the two arms, by their names in the study file, or a baseline")
    evaluation: str = Field(description="name of the evaluation in the study file")
    dataset: str = Field(description="the data set that is scored")
    metric: str = Field("auroc", description="auroc or average_precision")
    label: str = Field("macro", description="a label, or `macro`")
    fraction: float = Field(1.0, description="share of the training patients that is learnt from")
    margin: float | None = Field(
        None, gt=0, description="the largest difference that does not matter; null: none declared"
    )
    family: ArmPairs = Field(description="pairs of arms that are corrected together, the primary one first")

    def role(self, a: str, b: str) -> Role:
        """The role of a pair of arms, in either order."""
        if {a, b} == set(self.primary):
            return "primary"
        return "family" if any({a, b} == set(pair) for pair in self.family) else "exploratory"

    @property
    def control(self) -> str | None:
        """The arm that all pairs of a family of two or more have in common."""
        common = set(self.family[0]).intersection(*self.family[1:])
        return common.pop() if len(self.family) > 1 and len(common) == 1 else None


class DeclaredQuestion(Record):
    """A question with the time of its declaration, and what its words meant then."""

    question: Question = Field(description="the question")
    arms: dict[str, Names] = Field(description="name of an arm in the study file -> names of its runs")
    settings: dict[str, str] = Field(description="arm or evaluation -> SHA-256 of its settings in the study file")
    sha256: str = Field(description="SHA-256 of question, arms and settings as canonical JSON")
    when: str = Field(description="time of the declaration (UTC)")
    test_scored: int = Field(0, description="how often a test split of the study had been scored before")
    test_scored_by: int = Field(0, description="runs that had been scored on a test split before")

    @property
    def before_test(self) -> bool:
        """Whether it was declared before any test split was scored."""
        return self.test_scored == 0


def question_hash(question: Question, arms: dict[str, Names], settings: dict[str, str]) -> str:
    """SHA-256 of all that a declaration fixes, as canonical JSON: sorted keys, no spaces.

    >>> question = Question(primary=("real", "none"), evaluation="mimic", dataset="mimic", family=(("real", "none"),))
    >>> question_hash(question, {"real": ("real-0",)}, {})[:12]
    'dab22fedc1c9'
    """
    return digest({"question": question.model_dump(mode="json"), "arms": arms, "settings": settings})


def known_arms(names: Sequence[str]) -> list[str]:
    """What a question may name: the arms of the study, and the baselines."""
    return [*names, *(name for name in BASELINES if name not in names)]


class Scorings(Record):
    """How often the test split of a store was scored, by its ledger."""

    dataset: str = Field(description="the data set")
    hash: str = Field(description="SHA-256 of the store's content")
    times: int = Field(description="how often `evaluate` or `audit` scored its test split")
    runs: int = Field(description="different runs among them")
    first: str | None = Field(None, description="time of the first (UTC)")
    last: str | None = Field(None, description="time of the last (UTC)")
    unreadable: int = Field(0, description="entries of the ledger that cannot be read or were changed")
    note: str | None = Field(None, description="why the number may be too small")
