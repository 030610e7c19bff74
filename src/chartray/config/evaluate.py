"""The options of `chartray evaluate` and `chartray compare`, and those that evaluations and audits share."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from cyclopts import Parameter
from pydantic import BeforeValidator, Field, field_validator, model_validator

from chartray.config.public import PublicOptions
from chartray.config.section import Knobs, Only, Options, separated

Protocol = Literal["linear", "knn", "finetune", "published"]
Split = Literal["test", "validate"]
Uncertain = Literal["ignore", "zeros", "ones"]
# `source`: as the cohort's metadata says of each label (`schema.LabelSource.blank`); the others overrule it.
Blank = Literal["source", "negative", "ignore"]
DrawBy = Literal["simple", "stratified"]
Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["fp32", "bf16"]
# Protocols that train by gradient descent, and those of frozen features, which pixels and charts can have too.
TRAINED, FROZEN = ("published", "finetune"), ("linear", "knn")
# Warm-up of full fine-tuning: epochs, or this share of all epochs where that is less.
WARMUP_EPOCHS, WARMUP_SHARE = 5.0, 0.1


def _spaced(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:g}" for value in values)


Names = Annotated[tuple[str, ...] | None, BeforeValidator(separated), Parameter(negative=(), metavar="NAME,...")]
Fraction = Annotated[float, Field(gt=0, le=1)]


class IntervalOptions(Options):
    """How intervals are made."""

    level: ClassVar[float] = 0.95  # of all intervals

    resamples: int = Field(1000, ge=1, description="Bootstrap resamples, by patient")
    seed: int = Field(0, ge=0, description="Seed of all random draws")


class CompareOptions(IntervalOptions):
    """Options of `chartray compare`."""

    pair_seeds: bool = Field(
        False, description="Pair equal seeds of two arms: only if they share initialization and order of images"
    )
    question: Path | None = Field(None, description="The question.json of a study, which the comparison answers")
    evaluation: str | None = Field(
        None, description="Name of these evaluations in the study; by default the one that the question is about"
    )


class PlanOptions(IntervalOptions):
    """Options of `chartray plan`."""

    metric: Literal["auroc", "average_precision"] = Field("auroc", description="Metric")
    margin: float | None = Field(None, gt=0, lt=1, description="Also tell what shows this difference: seeds, patients")
    arms: int = Field(2, ge=2, description="Arms of the planned study that seed variance is pooled over; 2: Welch")


class ScoringOptions(IntervalOptions, PublicOptions):
    """What evaluations and audits share."""

    external: Annotated[tuple[Path, ...], Parameter(negative=(), show_default=False)] = Field(
        (), description="Another store to score; may be repeated"
    )
    split: Split = Field("test", description="Split to score")
    uncertain: Uncertain = Field("ignore", description="How uncertain labels (-1) count")
    blank: Blank = Field("source", description="How blank labels count; source: as the cohort defines for each label")
    baselines: bool = Field(True, description="Score baselines: untrained encoder, pixels, chart, image + chart")
    baseline_chart: str | None = Field(
        None,
        description="Feature set of the baselines chart-only and image+chart. By default that of the run; "
        "demographic-norm for a run without a chart",
    )
    device: Device = Field("auto", description="Device of the encoder")
    precision: Precision = Field("fp32", description="Precision of the encoder")

    def recorded(self) -> Knobs:
        """As evaluation.json and audit.json have them; both list the stores separately."""
        return self.model_dump(mode="json", exclude={"external"}) | {"level": self.level}

    @model_validator(mode="after")
    def _baselines_read_a_chart(self) -> "ScoringOptions":
        if self.baseline_chart is not None and not self.baselines:
            raise ValueError("expected --baseline-chart only with --baselines, found --no-baselines; leave one out")
        return self


class EvaluateOptions(ScoringOptions):
    """Options of `chartray evaluate`."""

    protocol: Protocol = Field(
        "linear", description="Linear probe, k nearest neighbors, or training by gradient descent"
    )
    data_percent: Annotated[
        tuple[Fraction, ...], Parameter(negative=(), consume_multiple=True, show_default=_spaced)
    ] = Field(
        (1.0,),
        min_length=1,
        description="Fractions of the training and validation patients; each subset contains the smaller ones",
        json_schema_extra={"hint": "0.05 means 5 %"},
    )
    draws: int = Field(5, ge=1, description="Random patient subsets for each fraction below 1")
    draw_by: DrawBy = Field(
        "simple",
        description="How the subsets are drawn. simple: random patients, whatever their labels. stratified: with equal "
        "shares of patients by their rarest finding, for which the labels of all patients are read",
    )
    labels: Names = Field(None, description="Labels to evaluate, separated by commas; by default all")
    saliency: int = Field(12, ge=0, description="Number of images with saliency maps (linear, knn); 0 for none")
    freeze: Annotated[bool, Only("published")] = Field(
        True, description="Train the linear layer alone; --no-freeze trains the encoder too"
    )
    scheduler: Annotated[Literal["cosine", "reduce"], Only(*TRAINED)] = Field(
        "cosine", description="Learning-rate schedule: cosine, or reduce on plateau"
    )
    learning_rate: Annotated[float | None, Only(*TRAINED)] = Field(
        None, gt=0, description="Initial learning rate; by default 1e-3, or 1e-4 if the encoder is trained"
    )
    max_epochs: Annotated[int, Only(*TRAINED)] = Field(50, ge=1, description="Maximum epochs")
    layer_decay: Annotated[float, Only("finetune")] = Field(
        0.75, gt=0, le=1, description="Layer-wise learning-rate decay, block by block"
    )
    drop_path: Annotated[float, Only("finetune")] = Field(
        0.1, ge=0, lt=1, description="Stochastic-depth rate of the last block"
    )
    warmup_epochs: Annotated[float | None, Only("finetune")] = Field(
        None, ge=0, description="Warm-up epochs; by default 5, at most a tenth of --max-epochs"
    )
    mixup: Annotated[float, Only("finetune")] = Field(0.0, ge=0, description="Mixup alpha; 0 for no mixup")

    @field_validator("data_percent")
    @classmethod
    def _each_once(cls, fractions: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(sorted(set(fractions)))

    @model_validator(mode="after")
    def _protocol_fits(self) -> "EvaluateOptions":
        for name in sorted(self.model_fields_set):
            for only in (each for each in type(self).model_fields[name].metadata if isinstance(each, Only)):
                if self.protocol not in only.protocols and getattr(self, name) is not None:
                    raise ValueError(
                        f"expected --{name.replace('_', '-')} only with {only.words}, found it with {self.protocol}; "
                        "leave it out"
                    )
        if self.baseline_chart is not None and self.protocol not in FROZEN:
            raise ValueError(
                f"expected --baseline-chart only with --protocol {' or '.join(FROZEN)}, found it with {self.protocol}; "
                "leave it out"
            )
        if self.warmup_epochs is not None and self.warmup_epochs >= self.max_epochs:
            raise ValueError(
                f"expected --warmup-epochs in [0, {self.max_epochs}), below --max-epochs, found {self.warmup_epochs:g}"
            )
        return self
