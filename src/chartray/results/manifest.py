"""What evaluation.json, compare.json and audit.json say: how the rows of the folder were made, as typed records."""

from typing import Annotated, ClassVar, Final, Literal

from pydantic import BeforeValidator, ConfigDict, Field, PlainSerializer

from chartray.networks.description import Architecture, Provenance
from chartray.results.arm import Arm, arm_of
from chartray.results.question import DeclaredQuestion, Scorings
from chartray.results.schema import Number, Numbers, Record, Texts, as_tuple

# Raised whenever a field changes; other formats are refused.
RESULTS_FORMAT: Final = 4
# Of an encoder's provenance: two that agree in all of these are one encoder.
IDENTITY = ("run", "seed", "store_hash", "settings_hash", "chart", "chart_use", "control")
# And two that agree in these have one embedding: their numbers are of the same.
READING = (*IDENTITY, "pooling")

Made = Annotated[Provenance, PlainSerializer(lambda made: made.model_dump(exclude_unset=True))]


class EncoderEntry(Record):
    """The encoder that was evaluated or audited."""

    run: str = Field("", description="its name: that of its run, else of its folder")
    path: str = Field("", description="the RUN or encoder folder")
    size: int | None = Field(None, description="side of the image it takes, in pixels")
    grey_mean: float | None = Field(None, description="mean grey of its training images")
    grey_std: float | None = Field(None, description="their standard deviation")
    interpolation: str | None = Field(None, description="how an image is resized for it")
    architecture: Architecture | None = Field(None, description="arguments of timm.create_model")
    provenance: Made = Field(description="how it was pretrained")

    @property
    def arm(self) -> Arm:
        """The arm that it is a run of."""
        return arm_of_run(self.provenance)


class Settings(Record):
    """The choices of the command."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    protocol: str = Field("", description="linear, knn, finetune or published")
    split: str = Field(description="the split that is scored")
    uncertain: str = Field(description="what an uncertain label counts as")
    blank: str = Field(description="what a blank label counts as")
    resamples: int = Field(1000, description="resamples of the patients behind each interval")
    level: float = Field(0.95, description="coverage of the intervals")
    seed: int = Field(0, description="--seed")
    data_percent: Annotated[tuple[float, ...], BeforeValidator(as_tuple)] = Field(
        (1.0,), description="shares of the training patients"
    )
    draw_by: str | None = Field(
        None, description="how patients of shares below 1 are drawn: simple or stratified; null: not said"
    )


class MatchEntry(Record):
    """A label of STORE and the column of another store that is the same finding."""

    label: str = Field(description="the label of STORE")
    there: str = Field(description="the label of the other store")


class StoreEntry(Record):
    """A store that was scored; the first is the one that everything was fitted on."""

    dataset: str = Field(description="the data set")
    path: str = Field("", description="the store's folder")
    hash: str = Field(description="SHA-256 of the store's content")
    release: str | None = Field(None, description="release of the data set")
    rules: str | None = Field(None, description="the linking rules of its cohort")
    simulated: bool = Field(False, description="whether it is simulated")
    split: str | None = Field(None, description="the split that is scored")
    part_of: str | None = Field(None, description="the data set that this one is a part of")
    matches: Annotated[tuple[MatchEntry, ...], BeforeValidator(as_tuple)] = Field(
        (), description="labels of STORE that it has"
    )
    unmatched: Texts = Field((), description="labels of STORE that it lacks")
    unmatched_there: Texts = Field((), description="its labels that STORE lacks; not scored")
    macro_labels: Texts = Field((), description="labels of the macro mean")
    size: int | None = Field(None, description="side of its stored images, in pixels")
    films: int | None = Field(None, description="images that are scored")
    patients: int | None = Field(None, description="their patients")
    films_read_by_radiologists: int | None = Field(None, description="images whose labels are radiologists' own")
    blank_negatives: dict[str, int] | None = Field(
        None, description="label -> images whose blank label counts as negative"
    )
    patients_seen_in_pretraining: int | None = Field(
        None, description="scored patients that the encoder was pretrained on; null where it could not be checked"
    )


class Counts(Record):
    """Images of patients."""

    films: int = Field(description="images")
    patients: int = Field(description="patients")


class SubsetEntry(Record):
    """One training subset."""

    train: Counts = Field(description="images that probes were fitted on")
    validate_: Counts = Field(alias="validate", description="images that hyperparameters were chosen on")
    without_probe: Texts = Field(
        (), description="labels with one class in its training images: no probe can be fitted, all images score alike"
    )


class FractionEntry(Record):
    """A share of the training patients."""

    fraction: float = Field(description="the share")
    draws: Annotated[tuple[SubsetEntry, ...], BeforeValidator(as_tuple)] = Field(description="each random subset")


class ProbeEntry(Record):
    """Linear and knn: what each label's penalty, or number of neighbours, was chosen from."""

    candidates: Numbers = Field(description="the values that were tried")
    folds: int = Field(description="folds of the cross-validation by patient, where validation has too few patients")


class SaliencyEntry(Record):
    """The saliency maps of the folder."""

    films: int = Field(description="images that are shown")
    reason: str | None = Field(None, description="why there are none")


class Manifest(Record):
    """What every manifest says."""

    kind: ClassVar[str]

    format: Literal[4] = Field(RESULTS_FORMAT, description="format of the folder")
    command: Texts = Field((), description="the command line")
    when: str = Field("", description="when it was made (UTC)")
    versions: dict[str, str] = Field(default_factory=dict, description="Python and the packages that numbers depend on")
    stores: Annotated[tuple[StoreEntry, ...], BeforeValidator(as_tuple)] = Field(
        min_length=1, description="stores that are scored, the first fitted on"
    )
    settings: Settings = Field(description="the choices of the command")

    @property
    def home(self) -> str:
        """The data set that everything was fitted on."""
        return self.stores[0].dataset


class EvaluationManifest(Manifest):
    """evaluation.json, of `chartray evaluate`."""

    kind = "evaluation.json"

    run: str = Field(description="the encoder's run")
    encoder: EncoderEntry = Field(description="the encoder")
    after_film: Texts = Field((), description="variables known only after the image that pretraining was allowed")
    labels: Texts = Field((), description="labels of STORE")
    blank_negatives_learnt_from: dict[str, int] | None = Field(
        None, description="label -> training images whose blank label counts as negative"
    )
    fractions: Annotated[tuple[FractionEntry, ...], BeforeValidator(as_tuple)] = Field(
        (), description="training subsets"
    )
    left_out: dict[str, str] = Field(default_factory=dict, description="baselines that were not scored, and why")
    not_compared: Texts = Field((), description="external stores whose images could not be compared with training")
    probe: ProbeEntry | None = Field(None, description="linear, knn: what a probe's setting was chosen from")
    recipe: dict[str, str | int | float | bool | None] | None = Field(
        None, description="published, finetune: how the layers were trained"
    )
    training: Annotated[tuple[dict[str, Number], ...], BeforeValidator(as_tuple)] = Field(
        (), description="published, finetune: each epoch of the encoder's arm"
    )
    saliency: SaliencyEntry | None = Field(None, description="saliency maps")
    test_split_touched: bool = Field(False, description="whether the test split was scored")
    notes: Texts = Field((), description="notes for the reader")


class MemberEntry(Record):
    """One run of an arm that was compared."""

    run: str = Field(description="its name")
    folder: str = Field(description="folder of its evaluation")
    seed: int | None = Field(None, description="seed of its pretraining")
    provenance: Made = Field(description="which encoder it is")

    @property
    def arm(self) -> Arm:
        """The arm that it is a run of."""
        return arm_of_run(self.provenance)


class ComparisonManifest(Manifest):
    """compare.json, of `chartray compare`."""

    kind = "compare.json"

    arms: dict[str, Annotated[tuple[MemberEntry, ...], BeforeValidator(as_tuple)]] = Field(
        description="name of an arm -> its runs"
    )
    macro_labels: dict[str, Texts] = Field(default_factory=dict, description="data set -> labels of the macro mean")
    question: DeclaredQuestion | None = Field(None, description="the declared question that the rows answer")
    earlier_questions: Annotated[tuple[DeclaredQuestion, ...], BeforeValidator(as_tuple)] = Field(
        (), description="questions that the study declared before, the first one first"
    )
    scorings: Annotated[tuple[Scorings, ...], BeforeValidator(as_tuple)] = Field(
        (), description="how often each test split had been scored"
    )


class AttributeEntry(Record):
    """A chart variable that was audited."""

    name: str = Field(description="the variable")
    levels: Texts = Field((), description="its levels")
    edges: Annotated[tuple[float, ...], BeforeValidator(as_tuple)] = Field((), description="cuts of a number")
    unit: str | None = Field(None, description="unit of a number")
    known_at_film: bool = Field(True, description="whether it is known when the image is taken")


class AuditManifest(Manifest):
    """audit.json, of `chartray audit`."""

    kind = "audit.json"

    encoders: Annotated[tuple[EncoderEntry, ...], BeforeValidator(as_tuple)] = Field(
        min_length=1, description="the encoder, then those it is set against"
    )
    attributes: Annotated[tuple[AttributeEntry, ...], BeforeValidator(as_tuple)] = Field(
        (), description="variables that were audited"
    )
    labels: Texts = Field((), description="disease labels")
    blank_negatives_learnt_from: dict[str, int] | None = Field(
        None, description="label -> training images whose blank label counts as negative"
    )
    leaks: int | None = Field(None, description="rows of leaks.jsonl with a count above 0; null: no leakage check")
    left_out: dict[str, str] = Field(default_factory=dict, description="what was not audited, and why")
    test_split_touched: bool = Field(False, description="whether the test split was scored")
    notes: Texts = Field((), description="notes for the reader")


def arm_of_run(made: Provenance) -> Arm:
    """The arm of an encoder, by its provenance."""
    return arm_of(
        made.chart,
        made.control,
        made.chart_use,
        objective=made.objective,
        # A public encoder's hash holds its pooling.
        settings=made.settings_hash
        if made.public or not made.pooling
        else f"{made.settings_hash or ''}, {made.pooling}",
        public=made.public,
    )


def identity(provenance: Provenance) -> dict[str, str | int | None]:
    """What tells an encoder from all others, whatever of its tokens is read."""
    return {name: getattr(provenance, name) for name in IDENTITY}


def reading(provenance: Provenance) -> dict[str, str | int | None]:
    """What tells an embedding from all others: the encoder, and what of its tokens is read."""
    return {name: getattr(provenance, name) for name in READING}


def differing(found: dict[str, str | int | None], wanted: dict[str, str | int | None]) -> list[str]:
    """In words, in what one `identity` or `reading` differs from the wanted one."""

    def told(value: str | int | None) -> str | int:
        return "none" if value is None else value

    return [
        f"{key} {told(found[key])} instead of {told(value)}" for key, value in wanted.items() if found[key] != value
    ]
