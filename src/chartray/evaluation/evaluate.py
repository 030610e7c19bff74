"""`chartray evaluate`: what an encoder's features are worth, with intervals by patient, beside floors and ceilings.

Probes are fitted on the training films of STORE, chosen on its validation films, and scored on one split of STORE
and of every external store. The folder that `evaluate` writes:

results.jsonl        one object per arm, fraction, data set, label and metric:
    run                   the encoder's run (its provenance, else its folder's name); the same in the floors' rows
    control               the encoder's own: none | shuffled | constant | mask-only; the floors beside it:
                          untrained | pixels | chart-only | image+chart
    chart                 the encoder's chart; for chart-only and image+chart the chart they read; else none
    dataset, store        the source of the scored cohort, and its store's folder name
    protocol, split       linear | knn | finetune | published; test | validate
    label, metric         a label of STORE or `macro`; auroc | average_precision
    value, ci_low, ci_high, level    null where it cannot be had; `reason` says why
    reason                null | one class in the test films (no value) | too few patients (no interval) |
                          one class in the training films: all films score alike | no label has ... (macro)
    n, n_positive         films of known truth, of them positive (null for the macro, whose n is all films)
    n_patients, n_positive_patients, n_negative_patients
    labels                the macro's labels (macro rows only): 10 positive and 10 negative patients or more,
                          the same for every arm and fraction
    resamples, redrawn    draws of the patients the interval stands on, and draws passed over for lack of a class
    fraction, seed, run_seed         share of the training (and validation) patients; --seed; the pretraining's seed
    uncertain, blank      the label policies
    strength, validation_auroc       (linear) the probe's penalty and what it was chosen on; neighbours (knn)
predictions.parquet  image_id, patient_id, label, truth (null: ignored), score, dataset, split, run, control, chart,
                     fraction; one row a film, label, arm and fraction; within an arm film by film
embeddings.parquet   dataset, split, image_id, patient_id, embedding (D float32): the encoder's features of every
                     film that was used, training and validation films of STORE too (protocols linear and knn)
probe.safetensors    the encoder's probe at the largest fraction: weight (C, D), bias (C,), mean (D,), scale (D,),
                     strength (C,), validation_auroc (C,); labels in its metadata and in probe.json, with the formula
comparisons.jsonl    {a, b, control_a, control_b, chart_a, chart_b, dataset, protocol, split, fraction, label, metric,
                     difference, ci_low, ci_high, p, level, seeds, claim, reason}: a is the run, b the name of a floor,
                     difference = a - b, the same patients drawn for both; `claim` warns where seeds < 3
evaluation.json      format, command, versions, when, source and provenance of the encoder, `after_film` (variables
                     that pretraining was allowed although known only after the film), settings, stores (path, hash,
                     dataset, films, patients, label matches, unmatched labels, macro labels, films without any label),
                     fractions (training and validation films and patients), left_out (floors, with reasons), notes
"""

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa

from chartray.errors import InputError
from chartray.evaluation import results
from chartray.evaluation.arms import Arm, Frozen, Learnt, chart_variables, encoder_features, floor_arms, linear, nearest
from chartray.evaluation.films import (
    Blank,
    Films,
    Match,
    Policy,
    Uncertain,
    chosen_labels,
    films_of,
    label_names,
    matched_labels,
    metadata_of,
    nested_subset,
)
from chartray.evaluation.scoring import (
    ONE_CLASS_TRAINING,
    EvaluationSet,
    Scored,
    claim,
    comparison_rows,
    result_rows,
    score,
)
from chartray.features.chart import refuse_shared_columns
from chartray.measure.metrics import eligible
from chartray.networks.encoder import PretrainedEncoder, load
from chartray.pixels.store import Store
from chartray.schema import LABEL_PREFIX

Protocol = Literal["linear", "knn", "finetune", "published"]


class Settings(NamedTuple):
    """The choices of one evaluation, as they stand in evaluation.json."""

    protocol: str
    split: str
    uncertain: Uncertain
    blank: Blank
    data_percent: tuple[float, ...]
    resamples: int
    level: float
    seed: int
    device: str
    precision: str

    @property
    def policy(self) -> Policy:
        """How labels are read."""
        return Policy(self.uncertain, self.blank)


class Task(NamedTuple):
    """What is learnt from and what is scored."""

    labels: list[str]
    train: Films
    validate: Films
    tests: list[EvaluationSet]

    @property
    def films(self) -> list[Films]:
        """All of them."""
        return [self.train, self.validate, *(test.films for test in self.tests)]


class Outcome(NamedTuple):
    """What one arm reached on one test set from one fraction of the training patients."""

    arm: Arm
    fraction: float
    test: EvaluationSet
    scored: Scored
    notes: list[dict[str, Any]]


def evaluate(
    source: Path,
    store: Path,
    out: Path,
    *,
    external: Sequence[Path] = (),
    protocol: Protocol = "linear",
    split: Literal["test", "validate"] = "test",
    uncertain: Uncertain = "ignore",
    blank: Blank = "negative",
    data_percent: Sequence[float] = (100.0,),
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    labels: Sequence[str] | None = None,
    floors: bool = True,
    device: str = "auto",
    precision: str = "fp32",
) -> list[dict[str, Any]]:
    """Evaluates the encoder of a RUN (or encoder folder) and writes the Results folder `out`; returns its rows.

    Args:
        source: RUN or encoder folder.
        store: the STORE that is fitted and chosen on.
        out: the folder to write; earlier results are replaced.
        external: further stores to score with the same probes, labels matched by name.
        protocol: linear, knn, finetune or published.
        split: which split is scored; the test split is touched only if this says so.
        uncertain: what -1 counts as: ignore, zeros or ones.
        blank: what a blank label counts as: negative or ignore.
        data_percent: percent of the training and validation patients, each nested in the next.
        resamples: draws of the patients behind each interval.
        level: of the intervals.
        seed: of the draws, of the subsets and of the untrained encoder.
        labels: which labels; default all of STORE.
        floors: score the floors and ceilings beside the encoder.
        device: auto, cpu or cuda.
        precision: fp32 or bf16, of the encoder.

    Raises:
        InputError: what is asked for cannot be had from these inputs.
    """
    percents = tuple(sorted({float(each) for each in data_percent}))
    settings = Settings(protocol, split, uncertain, blank, percents, resamples, level, seed, device, precision)
    results.check_replaceable(out)
    encoder = load(source)
    task = _task(encoder, Store.open(store), [Store.open(each) for each in external], labels, settings)
    run = str(encoder.provenance.get("run") or source.resolve().name)
    arms, frozen, left_out = _arms(source, encoder, task, settings, floors)
    outcomes: list[Outcome] = []
    fractions: list[dict[str, Any]] = []
    probe = None
    for percent in percents:
        train, validate = (each.kept(nested_subset(each, percent, seed)) for each in (task.train, task.validate))
        fractions.append({"fraction": percent / 100, "train": _counts(train), "validate": _counts(validate)})
        for arm in arms:
            learnt = arm.learn(train, validate, [test.films for test in task.tests])
            probe = learnt.probe if arm is arms[0] else probe
            outcomes += _outcomes(arm, percent / 100, task, train, learnt, settings)
    rows = [row for outcome in outcomes for row in _rows(outcome, run, encoder, settings)]
    with results.whole_folder(out) as folder:
        results.write_jsonl(folder / results.RESULTS_FILE, rows)
        results.write_jsonl(folder / results.COMPARISONS_FILE, _comparisons(outcomes, arms[0], run, settings))
        results.write_parquet(folder / results.PREDICTIONS_FILE, [_predictions(each, run) for each in outcomes])
        if frozen is not None:
            results.write_parquet(folder / results.EMBEDDINGS_FILE, _embeddings(task, frozen))
        if probe is not None:
            results.write_probe(folder, probe, task.labels, percents[-1] / 100)
        manifest = _manifest(source, run, encoder, task, settings, fractions, left_out)
        results.write_json(folder / results.MANIFEST_FILE, manifest)
    return rows


def _task(
    encoder: PretrainedEncoder, home: Store, external: Sequence[Store], labels: Sequence[str] | None, settings: Settings
) -> Task:
    """Films, labels and test sets, checked before anything is computed."""
    if settings.split not in ("test", "validate"):
        raise InputError(f"expected --split test or validate, found {settings.split!r}")
    names = chosen_labels(home, labels)
    _refuse_chart_labels(encoder, home, names)
    train, validate = (films_of(home, split, names, settings.policy) for split in ("train", "validate"))
    tests = [_evaluation_set(home, [Match(name, name) for name in names], names, settings, set())]
    for store in external:
        taken = {test.dataset for test in tests}
        tests.append(_evaluation_set(store, matched_labels(names, store), names, settings, taken))
    return Task(names, train, validate, tests)


def _evaluation_set(
    store: Store, matches: list[Match], labels: list[str], settings: Settings, taken: set[str]
) -> EvaluationSet:
    films = films_of(store, settings.split, [match.there for match in matches], settings.policy)
    source = metadata_of(store).source
    return EvaluationSet(
        dataset=source if source not in taken else f"{source}:{store.folder.name}",
        store=store.folder.name,
        films=films,
        image_ids=_image_ids(films),
        matches=matches,
        columns=np.array([labels.index(match.label) for match in matches], dtype=np.int64),
        counted=eligible(films.truth, films.patients),
    )


def _refuse_chart_labels(encoder: PretrainedEncoder, home: Store, labels: Sequence[str]) -> None:
    """A label must not be what the encoder was pretrained with; another source's column of one name is another fact."""
    source = encoder.provenance.get("source")
    if source in (None, metadata_of(home).source):
        variables = chart_variables(str(encoder.provenance.get("chart", "none")))
        refuse_shared_columns(home.cohort, variables, labels)


def _arms(
    source: Path, encoder: PretrainedEncoder, task: Task, settings: Settings, with_floors: bool
) -> tuple[list[Arm], Frozen | None, dict[str, str]]:
    """The encoder first, then what stands beside it."""
    learners = {"linear": linear, "knn": nearest}
    if settings.protocol not in learners:
        raise InputError(f"expected --protocol linear, knn, finetune or published, found {settings.protocol!r}")
    learner, device, precision = learners[settings.protocol], settings.device, settings.precision
    frozen = encoder_features(encoder, task.films, device=device, precision=precision, title="embed")
    control, chart = (str(encoder.provenance.get(key, "none")) for key in ("control", "chart"))
    arms = [Arm(control, chart, learner(frozen, device))]
    left_out: dict[str, str] = {}
    if with_floors:
        beside, left_out = floor_arms(
            source,
            encoder,
            frozen,
            task.films,
            task.labels,
            learner=learner,
            device=device,
            precision=precision,
            seed=settings.seed,
        )
        arms += beside
    return arms, frozen, left_out


def _outcomes(arm: Arm, fraction: float, task: Task, train: Films, learnt: Learnt, settings: Settings) -> list[Outcome]:
    both = (train.truth == 1).any(axis=0) & (train.truth == 0).any(axis=0)
    notes = [
        note | ({} if able else {"reason": ONE_CLASS_TRAINING})
        for note, able in zip(learnt.notes, both.tolist(), strict=True)
    ]
    return [
        Outcome(arm, fraction, test, score(test, found, resamples=settings.resamples, seed=settings.seed), notes)
        for test, found in zip(task.tests, learnt.scores, strict=True)
        if found is not None
    ]


def _rows(outcome: Outcome, run: str, encoder: PretrainedEncoder, settings: Settings) -> list[dict[str, Any]]:
    common = {
        "run": run,
        "chart": outcome.arm.chart,
        "control": outcome.arm.control,
        "dataset": outcome.test.dataset,
        "store": outcome.test.store,
        "protocol": settings.protocol,
        "split": settings.split,
        "fraction": outcome.fraction,
        "seed": settings.seed,
        "run_seed": encoder.provenance.get("seed"),
        "uncertain": settings.uncertain,
        "blank": settings.blank,
        "resamples": settings.resamples,
        "level": settings.level,
    }
    return result_rows(outcome.test, outcome.scored, settings.level, common, outcome.notes)


def _comparisons(outcomes: Sequence[Outcome], encoder: Arm, run: str, settings: Settings) -> list[dict[str, Any]]:
    """The encoder against every floor, on the same films at the same fraction."""
    own = {(each.fraction, each.test.dataset): each for each in outcomes if each.arm is encoder}
    rows: list[dict[str, Any]] = []
    for floor in (each for each in outcomes if each.arm is not encoder):
        common = {
            "a": run,
            "b": floor.arm.control,
            "control_a": encoder.control,
            "control_b": floor.arm.control,
            "chart_a": encoder.chart,
            "chart_b": floor.arm.chart,
            "dataset": floor.test.dataset,
            "protocol": settings.protocol,
            "split": settings.split,
            "fraction": floor.fraction,
            "level": settings.level,
            "seeds": 1,
            "claim": claim(1),
        }
        a = own[floor.fraction, floor.test.dataset]
        rows += comparison_rows(floor.test, a.scored, floor.scored, settings.level, common)
    return rows


def _predictions(outcome: Outcome, run: str) -> pa.Table:
    test, arm = outcome.test, outcome.arm
    columns: dict[str, str | float] = {"dataset": test.dataset, "split": test.films.split, "run": run}
    columns |= {"control": arm.control, "chart": arm.chart, "fraction": outcome.fraction}
    return results.prediction_table(
        test.image_ids, test.films.patients, test.labels, test.films.truth, outcome.scored.scores, columns
    )


def _embeddings(task: Task, frozen: Frozen) -> list[pa.Table]:
    parts = [(test.dataset, test.films) for test in task.tests]
    learning = [(task.tests[0].dataset, films) for films in (task.train, task.validate)]
    parts += [(name, films) for name, films in learning if films.split != task.tests[0].films.split]
    return [
        results.embedding_table(name, films.split, _image_ids(films), films.patients, frozen.needed(films))
        for name, films in parts
    ]


def _manifest(
    source: Path,
    run: str,
    encoder: PretrainedEncoder,
    task: Task,
    settings: Settings,
    fractions: list[dict[str, Any]],
    left_out: dict[str, str],
) -> dict[str, Any]:
    notes = ["intervals hold the encoder and the probe fixed and let the patients of the scored split vary"]
    if settings.split == "validate":
        notes.append("scored on the films that the strengths were chosen on: values are optimistic; test untouched")
    return {
        "format": results.RESULTS_FORMAT,
        "command": sys.argv,
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": results.versions(),
        "run": run,
        "source": str(source),
        "encoder": {key: value for key, value in encoder._asdict().items() if key != "model"},
        "after_film": list(encoder.provenance.get("after_film") or ()),
        "settings": settings._asdict(),
        "labels": task.labels,
        "stores": [_store_entry(test, task.labels) for test in task.tests],
        "fractions": fractions,
        "left_out": left_out,
        "test_split_touched": settings.split == "test",
        "notes": notes,
    }


def _store_entry(test: EvaluationSet, labels: Sequence[str]) -> dict[str, Any]:
    cohort, store = test.films.store.cohort, test.films.store
    named = [LABEL_PREFIX + name for name in label_names(cohort)]
    blank = np.all([cohort.column(name).is_null().to_numpy() for name in named], axis=0)
    there = {match.there for match in test.matches}
    return {
        "dataset": test.dataset,
        "path": str(store.folder),
        "hash": store.hash,
        "release": metadata_of(store).release,
        "rules": metadata_of(store).rules,
        "split": test.films.split,
        "matches": [match._asdict() for match in test.matches],
        "unmatched": [label for label in labels if label not in test.labels],
        "unmatched_there": [name for name in label_names(cohort) if name not in there],
        "macro_labels": [label for label, here in zip(test.labels, test.counted, strict=True) if here],
        "films_without_any_label": int(blank[test.films.rows].sum()),
    } | _counts(test.films)


def _counts(films: Films) -> dict[str, int]:
    return {"films": len(films.rows), "patients": len(np.unique(films.patients))}


def _image_ids(films: Films) -> list[str]:
    found: list[str] = films.store.cohort.column("image_id").take(pa.array(films.rows)).to_pylist()
    return found
