"""What is scored: the encoder, and the floors and ceilings it stands between, each learnt from the same images."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from chartray.errors import InputError
from chartray.evaluation.embed import device_of, embed, pixels
from chartray.evaluation.image_set import ImageSet, metadata_of
from chartray.evaluation.kept import KeptFeatures
from chartray.evaluation.scoring import LabelFit
from chartray.features.chart import Chart, fit_chart, refuse_shared_columns
from chartray.features.sets import FEATURE_SETS, PUBLISHED_NAMES, variable_of
from chartray.networks.encoder import PretrainedEncoder, untrained
from chartray.pixels.store import Store
from chartray.results.arm import CHART_BASELINES, CHART_ONLY, IMAGE_CHART, PIXELS, UNTRAINED, Arm, arm_of
from chartray.results.manifest import arm_of_run
from chartray.statistics.knn import NEIGHBOURS, choose_neighbours, held_out_scores, knn_scores
from chartray.statistics.metrics import eligible
from chartray.statistics.probe import ALL_LABELS, NOTHING, STRENGTHS, VALIDATION, Probe, fit_probe, patient_folds
from chartray.wording import joined, listed, plural

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Features = NDArray[np.float32]

# The chart of the chart baselines where the encoder saw none.
DEFAULT_CHART = "demographic-norm"


class Learnt(NamedTuple):
    """Scores (N, C) of each test set (None: it lacks what the arm reads), and how each label was fitted.

    `validation` (M, C) are scores of the validation images, for thresholds. `probe` reproduces the scores from the
    features of the encoder, of `tuned` where the encoder was trained too; `history` has an entry for each epoch of such
    training.
    """

    scores: list[Floats | None]
    fits: list[LabelFit]
    validation: Floats | None = None
    probe: Probe | None = None
    tuned: PretrainedEncoder | None = None
    history: Sequence[dict[str, float]] = ()


class TrainingSubset(NamedTuple):
    """Which part of the training patients is learnt from: their share, and the draw that chose them."""

    fraction: float
    draw: int

    @property
    def name(self) -> str:
        """The part as a file or folder is called after it."""
        return f"{self.fraction:g}-{self.draw}"


# Says what is being done.
Tell = Callable[[str], object]
Learner = Callable[[ImageSet, ImageSet, Sequence[ImageSet], TrainingSubset, Tell], Learnt]


class Candidate(NamedTuple):
    """An arm to score: `learn` fits on training images, chooses on validation images and scores the test sets; the
    images are those of a part of the patients, and what it does is told.
    """

    arm: Arm
    learn: Learner


class Frozen:
    """Features of the images of one or more stores, computed once for each store.

    `compute` is given the store, its rows, and words for both: the store's folder and the splits.
    """

    def __init__(
        self, compute: Callable[[Store, Integers, str], Features | None], image_set: Sequence[ImageSet]
    ) -> None:
        self._rows: dict[Path, Integers] = {}
        self._values: dict[Path, Features | None] = {}
        for store in {one.store.folder: one.store for one in image_set}.values():
            here = [one for one in image_set if one.store.folder == store.folder]
            rows = np.unique(np.concatenate([one.rows for one in here]))
            words = f"{store.folder.name}, {joined(dict.fromkeys(one.split for one in here))}"
            self._rows[store.folder], self._values[store.folder] = rows, compute(store, rows, words)

    def of(self, image_set: ImageSet) -> Features | None:
        """(N, D), or None where the store lacks what the features are made of."""
        values = self._values[image_set.store.folder]
        return None if values is None else values[np.searchsorted(self._rows[image_set.store.folder], image_set.rows)]

    def needed(self, image_set: ImageSet) -> Features:
        """(N, D) of images that must have them."""
        values = self.of(image_set)
        if values is None:
            raise InputError(f"expected the features of the images of {image_set.store.folder}, found none")
        return values

    def beside(self, other: "Frozen") -> "Frozen":
        """Both, side by side; None where either is."""
        both = Frozen.__new__(Frozen)
        both._rows, both._values = self._rows, {}
        for folder, values in self._values.items():
            others = other._values[folder]
            both._values[folder] = None if values is None or others is None else np.hstack((values, others))
        return both


def fitted_probe(
    x: ArrayLike,
    checked: ArrayLike,
    train: ImageSet,
    validate: ImageSet,
    device: str,
    told: Callable[[str, Sequence[int]], object] = lambda *_: None,
) -> Probe:
    """The probe of the labels on features of the training (x) and of the validation images (checked)."""
    return fit_probe(
        x,
        train.truth,
        checked,
        validate.truth,
        patients=train.patients,
        validation_patients=validate.patients,
        device=device_of(device),
        told=told,
    )


def linear(features: Frozen, device: str, labels: Sequence[str]) -> Learner:
    """An L2-regularised logistic probe per label, its strength chosen on images of other patients."""

    def learn(
        train: ImageSet, validate: ImageSet, tests: Sequence[ImageSet], part: TrainingSubset, tell: Tell
    ) -> Learnt:
        def told(what: str, columns: Sequence[int]) -> None:
            tell(f"{what} {listed([labels[column] for column in columns], 3)}, {len(STRENGTHS)} strengths each")

        checked = features.needed(validate)
        probe = fitted_probe(features.needed(train), checked, train, validate, device, told)
        found = [features.of(test) for test in tests]
        columns = (probe.strength.tolist(), probe.validation_auroc.tolist(), probe.chosen_by)
        fits = [
            LabelFit(strength=strength, validation_auroc=value, chosen_by=by)
            for strength, value, by in zip(*columns, strict=True)
        ]
        scores = [None if each is None else probe.scores(each) for each in found]
        return Learnt(scores, fits, probe.scores(checked), probe)

    return learn


def nearest(features: Frozen, device: str, labels: Sequence[str]) -> Learner:
    """Weighted nearest neighbours by cosine, their number chosen on images of other patients."""

    def learn(
        train: ImageSet, validate: ImageSet, tests: Sequence[ImageSet], part: TrainingSubset, tell: Tell
    ) -> Learnt:
        where, known = device_of(device), features.needed(train)
        tell(f"neighbors among {plural(len(known), 'image')} for {listed(labels, 3)}")
        tried = knn_scores(known, train.truth, features.needed(validate), device=where)
        able, by = eligible(validate.truth, validate.patients), VALIDATION
        best: int | None = None
        if able.any():
            best = choose_neighbours(tried[:, :, able], validate.truth[:, able])
        elif len(np.unique(train.patients)) > 1:
            folds = patient_folds(train.truth, train.patients)
            crossed = held_out_scores(known, train.truth, folds, device=where)
            best, by = choose_neighbours(crossed, train.truth), ALL_LABELS
        if best is None:  # no label has both classes anywhere, or all images are one patient's
            best, by = len(NEIGHBOURS) // 2, NOTHING
        chosen = min(NEIGHBOURS[best], len(known))
        found = [features.of(test) for test in tests]
        scores = [
            None if each is None else knn_scores(known, train.truth, each, neighbours=(chosen,), device=where)[0]
            for each in found
        ]
        return Learnt(scores, [LabelFit(neighbours=chosen, chosen_by=by)] * train.truth.shape[1], tried[best])

    return learn


def encoder_features(
    encoder: PretrainedEncoder,
    image_set: Sequence[ImageSet],
    *,
    device: str,
    precision: str,
    title: str,
    kept: Path | None = None,
) -> Frozen:
    """The embeddings of all images; with a folder `kept`, a command that is killed can continue."""

    def compute(store: Store, rows: Integers, words: str) -> Features:
        return embed(
            encoder,
            store,
            rows,
            device=device,
            precision=precision,
            title=f"{title}: {words}",
            kept=_kept(kept, title),
        )

    return Frozen(compute, image_set)


def pixel_features(image_set: Sequence[ImageSet], *, kept: Path | None = None) -> Frozen:
    """The pixels of all images, as the floor sees them."""

    def compute(store: Store, rows: Integers, words: str) -> Features:
        return pixels(store, rows, title=f"resize, pixels: {words}", kept=_kept(kept, "pixels"))

    return Frozen(compute, image_set)


def _kept(folder: Path | None, title: str) -> KeptFeatures | None:
    return None if folder is None else KeptFeatures(folder / title.replace(", ", "-"), {})


def baselines_of(
    encoder: PretrainedEncoder,
    own: Frozen,
    image_set: Sequence[ImageSet],
    labels: Sequence[str],
    *,
    learner: Callable[[Frozen, str, Sequence[str]], Learner],
    device: str,
    precision: str,
    seed: int,
    chart: str | None = None,
    kept: Path | None = None,
) -> tuple[list[Candidate], dict[str, str]]:
    """The untrained encoder, plain pixels, the chart alone and image + chart; and why one was left out.

    `image_set` are the training, the validation and each test set's images; `own` the encoder's features;
    `chart` what the chart baselines read, else `baseline_chart` chooses; `kept`: as of `encoder_features`.
    """
    home = image_set[0].store
    fresh = encoder_features(
        untrained(encoder, seed=initialisation(encoder, seed)),
        image_set,
        device=device,
        precision=precision,
        title="embed, untrained",
        kept=kept,
    )
    base = arm_of_run(encoder.provenance)
    found = [
        Candidate(arm_of("none", UNTRAINED, base=base), learner(fresh, device, labels)),
        Candidate(arm_of("none", PIXELS, base=base), learner(pixel_features(image_set, kept=kept), device, labels)),
    ]
    read, reasons = baseline_chart(home.cohort, encoder.provenance.chart or "none", labels, named=chart)
    if read is None:
        return found, dict.fromkeys(CHART_BASELINES, no_baseline_chart(reasons))
    rows = Frozen(lambda store, rows, _: chart_features(read, store, rows, home), image_set)
    found.append(Candidate(arm_of(read.ehr, CHART_ONLY, base=base), learner(rows, device, labels)))
    found.append(Candidate(arm_of(read.ehr, IMAGE_CHART, base=base), learner(own.beside(rows), device, labels)))
    left_out = {f"{one} without {variable}": why for one in CHART_BASELINES for variable, why in reasons.items()}
    left_out |= {
        f"{one} on {_dataset(store, home)}": f"the store lacks a variable of {read.ehr}"
        for store, values in ((each.store, rows.of(each)) for each in image_set)
        if values is None
        for one in CHART_BASELINES
    }
    return found, left_out


def initialisation(encoder: PretrainedEncoder, seed: int) -> int:
    """The seed of the untrained encoder beside this one: that of its run, so that every run brings another; else
    `seed`.
    """
    return seed if encoder.provenance.seed is None else encoder.provenance.seed


def _dataset(store: Store, home: Store) -> str:
    """What the rows call a store: one more of the home's source by its folder too."""
    source = metadata_of(store).source
    another = store is not home and source == metadata_of(home).source
    return f"{source}:{store.folder.name}" if another else source


def chart_variables(chart: str) -> list[str]:
    """The cohort variables that a chart's name stands for; none for `none`."""
    return [variable_of(item) for item in chart_items(chart)]


def baseline_chart(
    cohort: pa.Table, chart: str, labels: Sequence[str], *, named: str | None = None
) -> tuple[Chart | None, dict[str, str]]:
    """The chart of the chart baselines, if there is one, and for each of its variables that was left out the reason.

    What of the run's chart the cohort holds, known when the image was taken, and not made from the column of a label;
    where nothing of it remains or the run has none, the same of demographic-norm. One that was `named` is read whole.
    """
    if named is not None:
        return named_chart(cohort, named, labels), {}
    reasons: dict[str, str] = {}
    for wanted in (chart, DEFAULT_CHART):
        kept: list[str] = []
        for item in chart_items(wanted):
            try:
                refuse_shared_columns(cohort, [variable_of(item)], labels)
                # With those before it: of two encodings of age, which have different roles, the first is read.
                fit_chart(cohort, ",".join((*kept, item)))
                kept.append(item)
            except InputError as error:
                reasons[variable_of(item)] = str(error)
        if kept:
            # A named set that survived whole keeps its name.
            return fit_chart(cohort, wanted if kept == chart_items(wanted) else ",".join(kept)), reasons
    return None, reasons


def named_chart(cohort: pa.Table, chart: str, labels: Sequence[str]) -> Chart:
    """The chart that was asked for as that of the chart baselines.

    Raises InputError where the cohort cannot give all of it as it was known when the image was taken, or a label is
    made from a column of it.
    """
    refuse_shared_columns(cohort, chart_variables(chart), labels)
    return fit_chart(cohort, chart)


def no_baseline_chart(reasons: Mapping[str, str]) -> str:
    """Why no chart baseline is scored, and what to do."""
    return f"the cohort gives none of {', '.join(reasons)}; name a feature set that it gives with --baseline-chart"


def chart_features(chart: Chart, store: Store, rows: Integers, home: Store) -> Features | None:
    """Chart rows (N, F); None where the store lacks a variable. A published row that lacks a value (such images are
    dropped from pretraining, but every arm must score the same images) is the mean training row of `home`.
    """
    try:
        found = chart.rows(store.cohort.take(pa.array(rows)))
    except InputError:
        return None
    if not found.representable.all():
        training = chart.rows(home.cohort.filter(pa.compute.equal(home.cohort["split"], "train")))
        found.values[~found.representable] = training.values[training.representable].mean(axis=0)
    return found.values


def chart_items(chart: str) -> list[str]:
    """What a chart's name stands for, published file names too, as `fit_chart` reads it; nothing for `none`.

    >>> chart_items("socio-age10, position"), chart_items("none")
    (['sex', 'age-10', 'position'], [])
    """
    found: list[str] = []
    for word in (part.strip() for part in chart.split(",")):
        name = PUBLISHED_NAMES.get(word.replace("_", "-"), word)
        items = FEATURE_SETS[name].items if name in FEATURE_SETS else ("age-norm" if name == "age" else name,)
        found += [item for item in items if item not in ("", "none")]
    return list(dict.fromkeys(found))
