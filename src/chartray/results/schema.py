"""What is measured, as typed frozen records: one class for each kind of row, each field with its meaning.

The records are the rows of the files of a results folder, which `results.folder` writes and reads. docs/results.md is
generated from this module. A number that does not exist is None, null on disk; NaN becomes None.
"""

import math
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_serializer, model_validator

from chartray.results.arm import Arm
from chartray.results.verdict import Verdict, seen_in_few, why_no_claim
from chartray.statistics.metrics import FEW_POSITIVE_PATIENTS

MACRO = "macro"
# The metrics in sentences, in their order.
METRIC_WORDS = {
    "auroc": "AUROC",
    "average_precision": "average precision",
    "brier": "Brier score",
    "ece": "expected calibration error",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
}


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def as_tuple(value: Any) -> Any:
    """JSON has lists where frozen records have tuples."""
    return tuple(value) if isinstance(value, list) else value


def _verdict(value: Any) -> Any:
    return Verdict(value) if type(value) is str and value in set(Verdict) else value


Number = Annotated[float | None, BeforeValidator(_finite)]
Texts = Annotated[tuple[str, ...], BeforeValidator(as_tuple)]
Numbers = Annotated[tuple[float, ...], BeforeValidator(as_tuple)]
Said = Annotated[Verdict | None, BeforeValidator(_verdict)]

# The fields of an arm in a row, in which the two arms of a comparison have the endings _a and _b.
ARM_COLUMNS = {
    "chart": "chart",
    "control": "control",
    "use": "chart_use",
    "on": "on",
    "objective": "objective",
    "settings": "settings_hash",
    "public": "public",
}


class Record(BaseModel):
    """A frozen row: unknown fields and values of another type are refused."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)
    arm_fields: ClassVar[dict[str, str]] = {}  # fields that hold an Arm, and the ending of its parts in the row

    def replaced(self, **changes: Any) -> Self:
        """The same row with other values in some fields, checked as any row."""
        return type(self).model_validate({name: getattr(self, name) for name in self.model_fields_set} | changes)

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, row: Any) -> Any:
        """The flat parts of each arm of a row become one Arm."""
        if isinstance(row, dict):
            for field, ending in cls.arm_fields.items():
                if field not in row:
                    parts = {name: row[flat + ending] for name, flat in ARM_COLUMNS.items() if flat + ending in row}
                    flat = {flat + ending for flat in ARM_COLUMNS.values()}
                    row = {name: value for name, value in row.items() if name not in flat} | {field: parts}
        return row

    @model_serializer(mode="wrap")
    def _flatten(self, handler: Any) -> dict[str, Any]:
        row = dict(handler(self))
        for field, ending in self.arm_fields.items():
            row.pop(field)
            arm: Arm = getattr(self, field)
            row |= {flat + ending: getattr(arm, name) for name, flat in ARM_COLUMNS.items()}
        return row


class Interval(Record):
    """What every value or difference with an interval has."""

    ci_low: Number = Field(None, description="lower end of the interval; null where there is none")
    ci_high: Number = Field(None, description="upper end of the interval")
    reason: str | None = Field(None, description="why there is no value or no interval, in words; null where there is")


class ArmRow(Record):
    """What every row of one arm says."""

    arm_fields: ClassVar[dict[str, str]] = {"arm": ""}

    arm: Arm = Field(description="the arm")
    run: str = Field(description="the encoder's run; in rows of a baseline the run that it was scored with")
    run_seed: int | None = Field(None, description="seed of its pretraining")


class ArmPairRow(Record):
    """What every row of two arms says."""

    arm_fields: ClassVar[dict[str, str]] = {"arm_a": "_a", "arm_b": "_b"}

    arm_a: Arm = Field(description="the first arm")
    arm_b: Arm = Field(description="the second arm or baseline")
    a: str = Field(description="name of the first arm, or of its run where the row is of one run")
    b: str = Field(description="name of the second arm, baseline or run")
    seeds: int = Field(1, description="pretraining seeds behind each arm's mean")
    claim: str | None = Field(None, description="why nothing may be claimed; null where a claim is possible")


class ArmDifferenceRow(ArmPairRow, Interval):
    """What every difference of two arms says: a minus b, paired by patient."""

    difference: Number = Field(None, description="value of a minus value of b, each a mean over seeds and draws")
    value_a: Number = Field(None, description="value of a")
    value_b: Number = Field(None, description="value of b")
    p: Number = Field(None, description="two-sided p of Student's t")
    patient_se: Number = Field(
        None, description="standard error of the difference from the patients (docs/statistics.md)"
    )
    seed_se: Number = Field(None, description="two seeds or more: standard error from the seeds")
    degrees_of_freedom: Number = Field(None, description="of the t interval")
    p_holm: Number = Field(
        None,
        description="Holm's p over the labels or attributes of this pair, data set, fraction and metric; of a macro p",
    )
    levels: str = Field("patients", description="what varies in the interval: patients, and seeds, and draws")
    verdict: Said = Field(None, description="the verdict (`results.verdict`), from p_holm; null where there is no p")
    run_seed: int | None = Field(None, description="seed of the pretraining where the row is of one run")

    def in_words(self, a: str, b: str) -> str:
        """What may be said, with the arms by the names of a reader; why there is nothing to say where that is so."""
        if self.difference is None or self.ci_low is None or self.ci_high is None:
            return self.reason or "no interval"
        if why_no_claim(self.seeds):
            return seen_in_few(a, b, self.ci_low, self.ci_high, self.seeds, self.run_seed)
        return self.claim or (self.verdict.named(a, b) if self.verdict is not None else "no verdict")


class MeasuredRow(Record):
    """What every row of an evaluation says of how its value was reached."""

    home: str = Field(description="the data set of STORE, whose training images everything was fitted on")
    dataset: str = Field(description="the data set that is scored")
    protocol: str = Field(description="linear, knn, finetune or published")
    split: str = Field(description="the split that is scored: test or validate")
    fraction: float = Field(1.0, description="share of the training and validation patients that was learnt from")
    draw_by: str | None = Field(
        None,
        description="how the patients of a fraction below 1 were drawn: simple (at random) or stratified (by their "
        "rarest finding)",
    )
    uncertain: str | None = Field(None, description="what an uncertain label (-1) counts as: ignore, zeros or ones")
    blank: str | None = Field(None, description="what a blank label counts as: source, negative or ignore")
    after_film: Texts = Field((), description="chart variables known only after the image that pretraining was allowed")

    @property
    def place(self) -> str:
        """The data set, and whose probe was scored there, as a key."""
        return f"{self.dataset}<{self.home}" if self.home else self.dataset


class Score(MeasuredRow, ArmRow, Interval):
    """A row of results.jsonl (by image), studies.jsonl (by study) or draws.jsonl (one draw, no interval).

    One value of one arm: a metric of a label, or the macro mean over labels.
    """

    store: str = Field("", description="name of the folder of the store that is scored")
    label: str = Field(description="a label of STORE, or `macro`: the mean over `labels`")
    metric: str = Field(description="auroc, average_precision, brier, ece, sensitivity or specificity")
    value: Number = Field(None, description="the metric's value; null where it cannot be computed")
    unit: Literal["film", "study"] = Field(
        "film", description="what is scored: `film` is an image; a study's score is the mean of its images' scores"
    )
    n: int | None = Field(None, description="images (or studies) of known truth; of the macro in any of its labels")
    n_positive: int | None = Field(None, description="positive ones among them; null for the macro")
    n_blank: int | None = Field(None, description="negative ones whose label is blank")
    n_patients: int | None = Field(None, description="patients of known truth")
    n_positive_patients: int | None = Field(None, description="patients with a positive image")
    n_negative_patients: int | None = Field(None, description="patients with a negative image")
    labels: Texts | None = Field(None, description="macro rows: the labels that the mean is over")
    resamples: int | None = Field(None, description="resamples of the patients behind the interval")
    redrawn: int | None = Field(None, description="resamples that were drawn again because a class was missing")
    level: float | None = Field(None, description="coverage of the interval, such as 0.95")
    draws: int = Field(1, description="random training subsets that the value is a mean over; 1 at fraction 1")
    draws_without_probe: int = Field(
        0,
        description="training subsets in which the label has one class: no probe can be fitted, all images score alike",
    )
    draw: int | None = Field(None, description="draws.jsonl: which of them this row is of")
    seed: int | None = Field(None, description="--seed of the evaluation")
    holds_fixed: str | None = Field(None, description="what the interval holds fixed, in words")
    threshold: Number = Field(None, description="sensitivity, specificity: the threshold, chosen on validation")
    at_specificity: float | None = Field(None, description="the specificity on validation it was chosen for")
    interval: str | None = Field(
        None,
        description="how the interval was made (docs/statistics.md): score (auroc), bias-corrected logit "
        "(average_precision), logit (brier), exact (sensitivity, specificity, values of 0 or 1), mirrored percentiles "
        "(ece), from the labels' intervals (macro)",
    )
    bias: Number = Field(
        None, description="average_precision: estimated bias of the value; the interval lies around value - bias"
    )
    delong_low: Number = Field(None, description="auroc: DeLong's interval, images clustered by patient")
    delong_high: Number = Field(None, description="its upper end")
    by_chance: Number = Field(None, description="ece: the error that perfect probabilities of as many images show")
    strength: Number = Field(None, description="linear: the probe's L2 penalty")
    validation_auroc: Number = Field(None, description="linear: the validation AUROC that the penalty was chosen for")
    neighbours: int | None = Field(None, description="knn: the number of neighbours")
    best_epoch: int | None = Field(None, description="published, finetune: the epoch that validation chose")
    chosen_by: str | None = Field(
        None,
        description="what the penalty or the number of neighbours was chosen on: validation, cross-validation (by "
        "patient, in training, where validation has fewer than 10 patients of a class), other labels, nothing",
    )

    @property
    def pretraining_seed(self) -> int | None:
        """The seed that tells scores of one arm apart: of the evaluation where no other enters, else of the run."""
        return self.seed if self.arm.is_fixed or self.run_seed is None else self.run_seed

    @property
    def few_positives(self) -> bool:
        """Whether the row is of a label with fewer than `FEW_POSITIVE_PATIENTS` positive patients."""
        return self.n_positive_patients is not None and self.n_positive_patients < FEW_POSITIVE_PATIENTS


class Comparison(MeasuredRow, ArmDifferenceRow):
    """A row of comparisons.jsonl: arm a minus arm b on the same patients, in one metric of one label or the macro."""

    label: str = Field(description="a label, or `macro`")
    labels: Texts | None = Field(None, description="macro rows: the labels that the mean is over")
    metric: str = Field(description="auroc or average_precision")
    delong_p: Number = Field(None, description="auroc, one seed and one draw: DeLong's p, images clustered by patient")
    level: float = Field(0.95, description="coverage of the interval")
    draw_se: Number = Field(None, description="two draws or more: standard error from the draws of training patients")
    seed_correlation: Number = Field(None, description="paired seeds: correlation of the arms' values over seeds")
    by_seed: Numbers = Field((), description="the differences of the seeds that both arms have")
    note: str | None = Field(None, description="settings in which the pretraining of the two differs")
    role: Literal["primary", "family", "exploratory"] | None = Field(
        None, description="part in the declared question (`results.question`); null where none was declared"
    )
    p_family: Number = Field(
        None, description="p corrected over the declared family: Dunnett's, step down, against one control, else Holm's"
    )
    family_size: int | None = Field(None, description="primary, family: how many pairs p_family is corrected for")
    margin: Number = Field(None, description="primary, family: the declared margin of equivalence")
    p_equivalence: Number = Field(
        None,
        description="primary, family: p of two one-sided tests against the margin, Holm's over the family; null with "
        "fewer than 50 test patients",
    )
    detectable: Number = Field(
        None, description="smallest true difference that this design would have shown with 80 % power"
    )
    seeds_needed: int | None = Field(
        None, description="seeds an arm that show the margin with 80 % power on these patients; null: no number does"
    )
    patients_needed: int | None = Field(
        None, description="test patients that show the margin with 80 % power and these seeds; null: no number does"
    )

    @property
    def within_margin(self) -> bool:
        """Whether it is shown that the arms differ by no more than the margin (two one-sided tests)."""
        return self.claim is None and self.p_equivalence is not None and self.p_equivalence <= 1 - self.level

    @property
    def reversed(self) -> Self:
        """b minus a."""
        low, high = (None if value is None else -value for value in (self.ci_high, self.ci_low))
        return self.replaced(
            arm_a=self.arm_b,
            arm_b=self.arm_a,
            a=self.b,
            b=self.a,
            value_a=self.value_b,
            value_b=self.value_a,
            difference=None if self.difference is None else -self.difference,
            ci_low=low,
            ci_high=high,
            verdict=None if self.verdict is None else self.verdict.reversed,
            by_seed=tuple(-value for value in self.by_seed),
        )


class Interaction(ArmPairRow):
    """A row of interactions.jsonl: whether a minus b, in one metric of one label or the macro, differs by data set.

    The macro is over the labels that the macro means of all data sets have, so its differences may not be those of
    comparisons.jsonl, each over the labels of its data set. A part of a data set is no further data set.
    """

    home: str = Field(description="the data set of STORE, whose training images everything was fitted on")
    protocol: str = Field(description="linear, knn, finetune or published")
    split: str = Field(description="the split that is scored: test or validate")
    fraction: float = Field(1.0, description="share of the training and validation patients that was learnt from")
    label: str = Field(description="a label, or `macro`")
    labels: Texts | None = Field(
        None, description="macro rows: the labels that the mean is over; those that all data sets count"
    )
    metric: str = Field(description="auroc or average_precision")
    datasets: Texts = Field(description="the data sets that have the label")
    differences: Numbers = Field(description="a minus b on each")
    statistic: Number = Field(None, description="F (docs/statistics.md)")
    degrees_of_freedom: Numbers = Field((), description="the two of F")
    p: Number = Field(None, description="of equal differences on all data sets")
    p_holm: Number = Field(None, description="Holm's p over the labels of this pair and metric; of a macro p")
    level: float = Field(0.95, description="p_holm at most 1 - level: the difference differs by data set")

    @property
    def differs(self) -> bool:
        """Whether it is shown that the difference differs by data set."""
        return self.claim is None and self.p_holm is not None and self.p_holm <= 1 - self.level


class CalibrationBin(MeasuredRow, ArmRow, Interval):
    """A row of calibration.jsonl: of the images of one bin of scores the mean score and the observed rate."""

    draw: int = Field(0, description="the random training subset: always the first")
    label: str = Field(description="a label")
    bin: int = Field(description="number of the bin, from 0, by rising score")
    bins: int = Field(description="number of bins")
    n: int = Field(description="images in the bin")
    n_patients: int | None = Field(None, description="their patients")
    score: Number = Field(None, description="their mean score")
    observed: Number = Field(None, description="share of them that is positive; the interval is of this")


class Prediction(Record):
    """A row of predictions.parquet of an evaluation: a label of an image, by one arm, fraction and training subset."""

    image_id: str = Field(description="the image")
    study_id: str | None = Field(None, description="its study; null where the cohort does not say")
    patient_id: str = Field(description="its patient")
    label: str = Field(description="a label of STORE")
    truth: float | None = Field(None, description="1 or 0; null: ignored")
    score: float = Field(description="the score of the arm's probe; higher is more likely")
    draw: int = Field(0, description="the random training subset, from 0")
    dataset: str = Field(description="the data set that is scored")
    split: str = Field(description="the split that is scored")
    run: str = Field(description="the encoder's run")
    control: str = Field(description="the arm's control or baseline")
    chart: str = Field(description="the arm's chart")
    fraction: float = Field(description="share of the training patients that was learnt from")


class Embedding(Record):
    """A row of embeddings.parquet: the encoder's features of an image (protocols linear and knn).

    All images that were used are there, training and validation images of STORE too.
    """

    dataset: str = Field(description="the data set")
    split: str = Field(description="the image's split")
    image_id: str = Field(description="the image")
    patient_id: str = Field(description="its patient")
    embedding: Numbers = Field(description="what the probe read (the class token, or as --pool says), float32")
