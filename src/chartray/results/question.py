"""The declared question of a study: what it was to answer, fixed and hashed before the test split was scored."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from chartray.outputs.json_file import digest
from chartray.results.arm import BASELINES, dataset_name
from chartray.results.schema import MACRO, METRIC_WORDS, Comparison, Record, as_tuple
from chartray.results.verdict import Verdict
from chartray.wording import p_said, plural

Role = Literal["primary", "family", "exploratory"]
EXPLORATORY = "no claim: exploratory, not in the declared question"
DECLARED_LATE = "no claim: the question was declared after test had been scored"


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
    test_scored: int = Field(0, description="how often runs of the study had been scored on a test split before")
    test_scored_by: int = Field(0, description="how many of its runs had been")
    test_scored_by_others: int = Field(0, description="how often other runs had been scored on the same test splits")

    @property
    def before_test(self) -> bool:
        """Whether it was declared before any run of the study was scored on a test split."""
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


def arm_titles(declared: DeclaredQuestion, runs: Mapping[str, Iterable[str]]) -> dict[str, str]:
    """What the comparison calls each declared arm, where that is another name; `runs` as for `question_line`."""
    return {
        name: title
        for title, here in runs.items()
        for name, there in declared.arms.items()
        if title != name and set(here) <= set(there)
    }


def question_line(declared: DeclaredQuestion, runs: Mapping[str, Iterable[str]]) -> str:
    """The question in words; `runs`: title of each arm of the comparison -> the names of its runs."""
    asked = declared.question
    titles = arm_titles(declared, runs)
    a, b = (f"{name} ({titles[name]})" if name in titles else name for name in asked.primary)
    what = f"{'macro ' if asked.label == MACRO else ''}{METRIC_WORDS[asked.metric]}"
    what += "" if asked.label == MACRO else f" of {asked.label}"
    margin = "" if asked.margin is None else f" (margin {asked.margin:g})"
    over = "" if len(asked.family) == 1 else f", corrected with {plural(len(asked.family) - 1, 'other pair')}"
    return f"Do {a} and {b} differ in {what} on {dataset_name(asked.dataset)}{margin}{over}?"


def declaration_line(declared: DeclaredQuestion, earlier: Sequence[DeclaredQuestion] = ()) -> str:
    """When it was declared, and what had been seen of the test split by then."""
    said = f"The question was declared on {declared.when[:16].replace('T', ' ')} UTC (SHA-256 {declared.sha256[:12]}), "
    others = declared.test_scored_by_others
    if declared.before_test:
        said += "before any run of this study was scored on test"
        said += f"; other runs had been scored on it {_times(others)}" if others else ""
    else:
        said += (
            f"after runs of this study had been scored on test {_times(declared.test_scored)} "
            f"({plural(declared.test_scored_by, 'run')}): the answer is exploratory"
        )
    if earlier:
        said += f". {plural(len(earlier), 'other question')} had been declared before, first {earlier[0].when[:10]}"
    return said + "."


def answer_lines(rows: Iterable[Comparison]) -> list[str]:
    """The answer of the primary pair, and of each other pair of the family, a line each."""
    asked = [row for row in rows if row.role in ("primary", "family")]
    return [answer(row) for row in sorted(asked, key=lambda row: row.role != "primary")]


def answer(row: Comparison) -> str:
    """What may be said, the numbers, and, where the answer is open, what could have been seen."""
    if row.difference is None:
        return f"{row.a} minus {row.b}: no value ({row.reason})."
    interval = "" if row.ci_low is None or row.ci_high is None else f" [{row.ci_low:+.3f}, {row.ci_high:+.3f}]"
    size = row.family_size or 1
    over = "" if size == 1 else f" over {plural(size, 'pair')}"
    p = "" if row.p_family is None else f", {p_said(row.p_family)}{over}"
    numbers = f"{row.a} minus {row.b} {row.difference:+.3f}{interval}{p}"
    if row.claim is not None or row.verdict in (None, Verdict.NO_CLAIM):
        return f"{numbers}; {row.claim or row.reason or Verdict.NO_CLAIM}."
    said = row.verdict.named(row.a, row.b) if row.verdict is not None else ""
    if row.within_margin and row.p_equivalence is not None:
        small = f"no difference larger than {row.margin:g} (two one-sided tests, {p_said(row.p_equivalence)}{over})"
        return f"{numbers}; {small if row.verdict == Verdict.NO_DIFFERENCE else f'{said}, but {small}'}."
    if row.verdict != Verdict.NO_DIFFERENCE:
        return f"{numbers}; {said}."
    return f"{numbers}; {said}{could_be_seen(row)}."


def could_be_seen(row: Comparison) -> str:
    """What goes with an open verdict: what would have been seen, and what it would take to see the margin."""
    if row.detectable is None:
        return ""
    said = f"; {row.detectable:.3f} could have been seen with 80 % power"
    if row.margin is None or row.detectable <= row.margin:
        return said
    ways = [] if row.seeds_needed is None else [f"{row.seeds_needed} seeds an arm"]
    ways += [] if row.patients_needed is None else [f"{row.patients_needed:,} test patients"]
    needs = " or ".join(ways) or "more seeds and more test patients together"
    return f"{said}; {row.margin:g} would need {needs}"


def scored_line(scorings: Scorings) -> str:
    """How often a test split was scored."""
    said = f"The test split of {dataset_name(scorings.dataset)} was scored {_times(scorings.times)} by "
    said += plural(scorings.runs, "run")
    if scorings.unreadable:
        said += f"; {plural(scorings.unreadable, 'line')} of its ledger cannot be read or was changed"
    return said + (f" ({scorings.note})" if scorings.note else "") + "."


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count:,} times"
