"""The rows of an audit, as typed frozen records (`results.schema`): one class for each kind of row."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from chartray.results.schema import ArmDifferenceRow, ArmRow, Interval, Number, Record, Texts, as_tuple
from chartray.statistics.metrics import MINIMUM_PATIENTS

# How the reason begins of a subgroup so small that not even its size is shown.
SUPPRESSED = f"fewer than {MINIMUM_PATIENTS} patients: suppressed"


class AuditPrediction(Record):
    """A row of predictions.parquet of an audit: every number of the audit can be computed from these."""

    part: Literal["readability", "disease", "removed"] = Field(description="the part of the audit")
    run: str = Field(description="the encoder's run")
    control: str = Field(description="the arm's control or baseline")
    chart: str = Field(description="the arm's chart")
    dataset: str = Field(description="the data set that is audited")
    split: str = Field(description="the split that is audited")
    attribute: str | None = Field(None, description="the attribute that is read or removed")
    target: str = Field(description="the level of the attribute, or the disease label")
    image_id: str = Field(description="the image")
    patient_id: str = Field(description="its patient")
    truth: float | None = Field(None, description="the truth; null: not known")
    score: float = Field(description="the score of the probe")


class AuditRow(Interval):
    """What every row of audit.jsonl says; `part` tells the kinds apart."""

    dataset: str = Field(description="the data set that is audited")
    attribute: str = Field(description="a chart variable, or `coin (control)`: a random coin flip per patient")
    split: str = Field(description="the split that is audited")
    resamples: int = Field(description="resamples of the patients behind the interval")
    seed: int = Field(description="--seed of the audit")
    level_of_interval: float = Field(0.95, description="coverage of the interval")
    holds_fixed: str = Field("", description="what the interval holds fixed, in words")


class AttributeProbe(AuditRow, ArmRow):
    """Part `readability`: how well a linear probe predicts an attribute from frozen features of the image."""

    part: Literal["readability"] = Field("readability", description="the kind of the row")
    unit: str | None = Field(None, description="unit of a numeric attribute")
    known_at_film: bool = Field(True, description="whether the attribute is known when the image is taken")
    level: str | None = Field(None, description="a level of the attribute; null: the macro over levels, or a number")
    levels: Texts = Field((), description="macro rows: the levels that the mean is over")
    metric: str = Field(description="auroc of a category; r2 or mae of a number")
    value: Number = Field(None, description="the metric's value")
    n: int = Field(description="images of which the attribute is known")
    n_patients: int = Field(description="their patients")
    n_level: int | None = Field(None, description="images of this level")
    n_level_patients: int | None = Field(None, description="their patients")
    p: Number = Field(
        None, description="macro rows, auroc and r2: two-sided p against chance, by t (docs/statistics.md)"
    )
    p_holm: Number = Field(None, description="Holm's p within the row's family (docs/statistics.md)")
    corrected_over: int = Field(0, description="size of the family")
    standard_error: Number = Field(None, description="macro rows, auroc and r2: SD of the resamples")
    detectable: Number = Field(
        None, description="the smallest value that is told from chance in 80 % of such audits, after correction"
    )
    without: Texts = Field((), description="chart baselines: variables of the chart left out, as they give it away")


class AttributeDifference(AuditRow, ArmDifferenceRow):
    """Part `difference`: how much better an attribute is predicted from a than from b, paired by patient."""

    part: Literal["difference"] = Field("difference", description="the kind of the row")
    metric: str = Field(description="auroc or r2")
    corrected_over: int = Field(0, description="how many attributes p_holm is corrected for")
    without: Texts = Field((), description="variables left out of the chart of b, as they give the attribute away")


class SubgroupRow(AuditRow, ArmRow):
    """Part `group`: a metric of the disease probe in one subgroup, or (metric `gap`) the gap between subgroups."""

    part: Literal["group"] = Field("group", description="the kind of the row")
    group: str | None = Field(None, description="the subgroup; null for a gap")
    label: str = Field(description="a label, or `macro`: the mean over `labels`")
    labels: Texts | None = Field(None, description="macro rows: the labels that every subgroup has")
    metric: str = Field(
        description="auroc, calibration, false_negative_rate, false_positive_rate, positive_predictive_value, or gap"
    )
    of: str | None = Field(None, description="gap: the metric it is a gap of")
    value: Number = Field(None, description="the metric's value; a gap is the largest subgroup minus the smallest")
    n: int | None = Field(None, description="images of the subgroup of known truth")
    n_positive: int | None = Field(None, description="positive ones among them")
    n_patients: int | None = Field(None, description="their patients")
    threshold: str | None = Field(
        None, description="shares at a threshold: `common` to all subgroups, or the subgroup's `own`; else null"
    )
    cut: Number = Field(None, description="the threshold: an image with a higher score is called positive")
    specificity: float = Field(description="the specificity on validation that thresholds were chosen for")
    interval: str | None = Field(
        None,
        description="how the interval was made: score (auroc), t (calibration), exact (shares), from the labels' "
        "intervals (macro); of gaps at a threshold bootstrap or exact",
    )
    largest: str | None = Field(None, description="gap: the subgroup with the largest value")
    smallest: str | None = Field(None, description="gap: the subgroup with the smallest value")
    expected: Number = Field(
        None, description="gap: its mean between subgroups that are equal and have these standard errors"
    )
    expected_high: Number = Field(None, description="gap: the 95th percentile of that")
    p: Number = Field(None, description="gap: p of a studentised permutation of patients (docs/statistics.md)")
    p_holm: Number = Field(None, description="Holm's p within the row's family (docs/statistics.md)")
    corrected_over: int = Field(0, description="size of the family")


class RemovalRow(AuditRow, ArmRow):
    """Part `removed`: disease AUROC before and after the attribute's directions are removed (LEACE)."""

    part: Literal["removed"] = Field("removed", description="the kind of the row")
    label: str = Field(description="a label, or `macro`: the mean over `labels`")
    labels: Texts | None = Field(None, description="macro rows: the labels that the mean is over")
    metric: str = Field("auroc", description="auroc")
    directions: int = Field(description="directions that were removed")
    before: Number = Field(None, description="disease AUROC with the attribute")
    after: Number = Field(None, description="disease AUROC without it")
    difference: Number = Field(None, description="after minus before")
    random_after: Number = Field(
        None, description="disease AUROC without as many random directions, the mean of `random_draws`"
    )
    random_draws: int = Field(0, description="how many draws of random directions")
    beyond_random: Number = Field(None, description="after minus random_after: what the attribute costs beyond them")
    beyond_low: Number = Field(None, description="lower end of its interval: patients and draws vary")
    beyond_high: Number = Field(None, description="upper end")
    p: Number = Field(None, description="two-sided p of beyond_random")
    p_holm: Number = Field(None, description="Holm's p within the row's family (docs/statistics.md)")
    corrected_over: int = Field(0, description="size of the family")
    attribute_metric: str = Field(description="auroc or r2: the metric of the attribute")
    attribute_before: Number = Field(None, description="the attribute by a linear probe, before removal")
    attribute_after: Number = Field(None, description="the same after removal; 0.5 by construction for a category")
    attribute_random: Number = Field(None, description="the same after removal of as many random directions")
    attribute_beyond: Number = Field(None, description="attribute_after minus attribute_random")
    attribute_beyond_low: Number = Field(None, description="lower end of its interval: patients and draws vary")
    attribute_beyond_high: Number = Field(None, description="upper end")
    neighbours_before: Number = Field(None, description="AUROC of a category by 50 nearest neighbours, before removal")
    neighbours_after: Number = Field(None, description="the same after removal")


class LeakExample(Record):
    """A pair of images that two splits share."""

    row: int = Field(description="row of the first split's store")
    other_row: int = Field(description="row of the second split's store")
    distance: int = Field(description="number of the 256 hash bits that differ")


class Leak(Record):
    """A row of leaks.jsonl: what two splits share; `count` 0 where they share nothing."""

    kind: Literal["patient", "exact film", "near film", "variable"] = Field(
        description="patient, exact film, near film (an image scaled, mirrored or encoded anew), variable"
    )
    between: Texts = Field(
        description="the two splits: pretraining, or one split of one store; of variables pretraining and `chart`"
    )
    count: int = Field(description="patients, images of the second split, or variables")
    examples: Annotated[tuple[str | LeakExample, ...], BeforeValidator(as_tuple)] = Field(
        (), description="keys of patients, names of variables, or rows of images; ten at most"
    )
    distance: int | None = Field(None, description="near film: the largest distance of hashes that counts")
    note: str | None = Field(None, description="further remarks")
