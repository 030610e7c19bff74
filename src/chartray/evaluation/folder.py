"""The Results folder of one evaluation: its rows, its tables, and the manifest that says how they came about."""

import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from chartray.config.evaluate import EvaluateOptions
from chartray.evaluation import results
from chartray.evaluation.baselines import Arm, Frozen, Learnt
from chartray.evaluation.differences import Pair, comparison_rows
from chartray.evaluation.earlier import whole_folder
from chartray.evaluation.evaluation_data import RADIOLOGISTS, Task, image_ids
from chartray.evaluation.films import Films, blank_entry, label_names, metadata_of, read_by_radiologists
from chartray.evaluation.finetune.recipe import Recipe
from chartray.evaluation.outcomes import Outcome
from chartray.evaluation.rows import calibration_rows, draw_rows, result_rows
from chartray.evaluation.saliency import write_looks
from chartray.evaluation.scoring import SPECIFICITY, EvaluationSet, over_draws
from chartray.evaluation.studies import study_ids
from chartray.networks.encoder import PretrainedEncoder, save, untrained
from chartray.results.verdict import why_no_claim


class Evaluated(NamedTuple):
    """One evaluation, done: the encoder of `source`, its arm first among `arms`, and what all of them reached.

    `learnt` is what the encoder's arm learnt from the largest fraction (its first draw), `features` the encoder's own.
    """

    source: Path
    run: str
    encoder: PretrainedEncoder
    task: Task
    settings: EvaluateOptions
    recipe: Recipe | None
    arms: Sequence[Arm]
    outcomes: Sequence[Outcome]
    learnt: Learnt
    features: Frozen | None
    fractions: list[dict[str, Any]]
    left_out: dict[str, str]


def write_results(out: Path, done: Evaluated) -> list[dict[str, Any]]:
    """Writes the Results folder `out`, whole or not at all; returns the rows of results.jsonl."""
    told = [(each, common_of(each, done)) for each in done.outcomes]
    level, several = done.settings.level, [(each, common) for each, common in told if each.fraction < 1]
    films = [row for each, common in told for row in result_rows(each.test, each.scored, level, common, each.notes)]
    rows = {
        results.RESULTS_FILE: films,
        results.STUDIES_FILE: [row for each, common in told for row in study_rows(each, common, done.settings)],
        results.DRAWS_FILE: [
            row
            for each, common in several
            for row in draw_rows(each.test, [d.films for d in each.drawn], common, [d.notes for d in each.drawn])
        ],
        results.CALIBRATION_FILE: [
            row for each, common in told for row in calibration_rows(each.test, each.drawn[0].films, level, common)
        ],
        results.COMPARISONS_FILE: comparisons_of(done),
    }
    with whole_folder(out, results.MANIFEST_FILE) as folder:
        for name, written in rows.items():
            results.write_jsonl(folder / name, written)
        results.write_json(folder / results.THRESHOLDS_FILE, thresholds_of(done.outcomes))
        tables = [table for each in done.outcomes for table in predictions_of(each, done.run)]
        results.write_parquet(folder / results.PREDICTIONS_FILE, tables)
        if done.features is not None:
            results.write_parquet(folder / results.EMBEDDINGS_FILE, embeddings_of(done.task, done.features))
        if done.learnt.probe is not None:
            results.write_probe(folder, done.learnt.probe, done.task.labels, done.settings.data_percent[-1])
        if done.learnt.tuned is not None:
            save(folder / results.TUNED_FOLDER, done.learnt.tuned)
        manifest = manifest_of(done) | {"looks": looks_of(folder, done)}
        results.write_json(folder / results.MANIFEST_FILE, manifest)
    return films


def looks_of(folder: Path, done: Evaluated) -> dict[str, Any]:
    """Writes the looks of a frozen encoder at the first test set; says how many films, or why none."""
    if not done.settings.saliency or done.features is None:
        return {
            "films": 0,
            "reason": "not asked for" if not done.settings.saliency else "only features that are frozen have looks",
        }
    own = next(each for each in reversed(done.outcomes) if each.arm is done.arms[0] and each.test is done.task.tests[0])
    settings = done.settings
    return write_looks(
        folder / results.LOOKS_FOLDER,
        done.encoder,
        untrained(done.source, seed=settings.seed),
        own.test,
        own.drawn[0].scores[:, own.test.columns],
        done.features.needed(own.test.films),
        films=done.settings.saliency,
        device=settings.device,
        resamples=settings.resamples,
        level=settings.level,
        seed=settings.seed,
    )


def common_of(outcome: Outcome, done: Evaluated) -> dict[str, Any]:
    """What all rows of an outcome say."""
    encoder, settings = done.encoder, done.settings
    return {
        "run": done.run,
        "chart": outcome.arm.chart,
        "chart_use": encoder.provenance.get("chart_use"),
        "control": outcome.arm.control,
        "home": done.task.home,
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
    } | pretraining_of(encoder.provenance)


def study_rows(outcome: Outcome, common: dict[str, Any], settings: EvaluateOptions) -> list[dict[str, Any]]:
    """The rows of studies.jsonl; none where no study has more than one film."""
    if outcome.studies is None:
        return []
    scored = over_draws([each.studies for each in outcome.drawn if each.studies is not None], seed=settings.seed)
    test = outcome.studies.of(outcome.test)
    return result_rows(test, scored, settings.level, common, outcome.notes, unit="study")


def thresholds_of(outcomes: Sequence[Outcome]) -> dict[str, dict[str, Any]]:
    """What thresholds.json says: control -> label -> specificity on validation and threshold, of STORE's labels, at
    the largest fraction, of its first draw.
    """
    found: dict[str, dict[str, Any]] = {}
    fraction = max(each.fraction for each in outcomes)
    for each in outcomes:
        limits = each.drawn[0].films.thresholds
        if each.fraction == fraction and each.arm.control not in found and limits is not None:
            named = zip(each.test.labels, limits.tolist(), strict=True)
            found[each.arm.control] = {
                label: {"specificity": SPECIFICITY, "threshold": limit} for label, limit in named
            }
    return found


def comparisons_of(done: Evaluated) -> list[dict[str, Any]]:
    """The encoder against every floor, on the same films at the same fraction and draws."""
    own_arm, encoder, settings = done.arms[0], done.encoder, done.settings
    own = {(each.fraction, each.test.dataset): each for each in done.outcomes if each.arm is own_arm}
    made = pretraining_of(encoder.provenance)
    rows: list[dict[str, Any]] = []
    for floor in (each for each in done.outcomes if each.arm is not own_arm):
        common = {
            "a": done.run,
            "b": floor.arm.control,
            "control_a": own_arm.control,
            "control_b": floor.arm.control,
            "chart_a": own_arm.chart,
            "chart_b": floor.arm.chart,
            "chart_use_a": encoder.provenance.get("chart_use"),
            "chart_use_b": encoder.provenance.get("chart_use"),
            "objective_a": made["objective"],
            "objective_b": made["objective"],
            "settings_hash_a": made["settings_hash"],
            "settings_hash_b": made["settings_hash"],
            "home": done.task.home,
            "dataset": floor.test.dataset,
            "protocol": settings.protocol,
            "split": settings.split,
            "fraction": floor.fraction,
            "uncertain": settings.uncertain,
            "blank": settings.blank,
            "after_film": made["after_film"],
            "level": settings.level,
            "seeds": 1,
            "claim": why_no_claim(1),
            "note": None,
        }
        a = own[floor.fraction, floor.test.dataset]
        test = floor.test
        pair = Pair(a.scored, floor.scored, truth=test.films.truth, patients=test.films.patients)
        rows += comparison_rows(test.labels, test.counted, pair, settings.level, common, seed=settings.seed)
    return rows


def pretraining_of(made: Mapping[str, Any]) -> dict[str, Any]:
    """What rows say of the pretraining beside chart, control and seed; null where the encoder does not say."""
    after_film = list(made.get("after_film") or ())
    return {
        "objective": made.get("objective"),
        "settings_hash": made.get("settings_hash"),
        "after_film": after_film,
    }


def predictions_of(outcome: Outcome, run: str) -> list[pa.Table]:
    """The rows of predictions.parquet, a table a draw."""
    test, arm = outcome.test, outcome.arm
    columns: dict[str, str | float] = {"dataset": test.dataset, "split": test.films.split, "run": run}
    columns |= {"control": arm.control, "chart": arm.chart, "fraction": outcome.fraction}
    films = results.FilmNames(test.image_ids, study_ids(test.films), test.films.patients)
    return [
        results.prediction_table(films, test.labels, test.films.truth, each.scores[:, test.columns], columns, draw=draw)
        for draw, each in enumerate(outcome.drawn)
    ]


def embeddings_of(task: Task, frozen: Frozen) -> list[pa.Table]:
    """The rows of embeddings.parquet, a table a split."""
    parts = [(test.dataset, test.films) for test in task.tests if not test.dataset.endswith(RADIOLOGISTS)]
    learning = [(task.tests[0].dataset, films) for films in (task.train, task.validate)]
    parts += [(name, films) for name, films in learning if films.split != task.tests[0].films.split]
    return [
        results.embedding_table(name, films.split, image_ids(films), films.patients, frozen.needed(films))
        for name, films in parts
    ]


def manifest_of(done: Evaluated) -> dict[str, Any]:
    """What evaluation.json says."""
    encoder, task, settings = done.encoder, done.task, done.settings
    notes = ["every row says in `holds_fixed` what its interval holds fixed"]
    read = {test.dataset: int(read_by_radiologists(test.films).sum()) for test in task.tests}
    notes += [
        f"labels of {count} of the {len(test.films.rows)} films of {test.dataset} are radiologists' own, the others a "
        f"labeller's; {test.dataset}{RADIOLOGISTS} has the former alone"
        for test in task.tests
        if 0 < (count := read[test.dataset]) < len(test.films.rows)
    ]
    if settings.split == "validate":
        notes.append("scored on the films that the strengths were chosen on: values are optimistic; test untouched")
    trained: dict[str, Any] = {}
    if done.recipe is not None:
        trained = {"recipe": done.recipe._asdict(), "training": list(done.learnt.history)}
    return trained | {
        "format": results.RESULTS_FORMAT,
        "command": sys.argv,
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": results.versions(),
        "run": done.run,
        "source": str(done.source),
        "encoder": {key: value for key, value in encoder._asdict().items() if key != "model"},
        "after_film": list(encoder.provenance.get("after_film") or ()),
        "settings": settings.recorded(),
        "labels": task.labels,
        "blank_negatives_learnt_from": blank_entry(task.train, task.labels),
        "patients_seen_in_pretraining": task.patients_seen[0],
        "stores": [
            _store_entry(test, task.labels) | {"patients_seen_in_pretraining": seen}
            for test, seen in zip(task.tests, task.patients_seen, strict=True)
        ],
        "fractions": done.fractions,
        "left_out": done.left_out,
        "not_compared": task.not_compared,
        "test_split_touched": settings.split == "test",
        "notes": notes,
    }


def _store_entry(test: EvaluationSet, labels: Sequence[str]) -> dict[str, Any]:
    cohort, store = test.films.store.cohort, test.films.store
    there = {match.there for match in test.matches}
    return {
        "dataset": test.dataset,
        "path": str(store.folder),
        "hash": store.hash,
        "release": metadata_of(store).release,
        "rules": metadata_of(store).rules,
        "simulated": metadata_of(store).simulated,
        "split": test.films.split,
        "part_of": test.dataset.removesuffix(RADIOLOGISTS) if test.dataset.endswith(RADIOLOGISTS) else None,
        "matches": [match._asdict() for match in test.matches],
        "unmatched": [label for label in labels if label not in test.labels],
        "unmatched_there": [name for name in label_names(cohort) if name not in there],
        "macro_labels": [label for label, here in zip(test.labels, test.counted, strict=True) if here],
        "films_read_by_radiologists": int(read_by_radiologists(test.films).sum()),
        "blank_negatives": blank_entry(test.films, test.labels),
    } | counts(test.films)


def fraction_entry(fraction: float, parts: Sequence[tuple[Films, Films]]) -> dict[str, Any]:
    """What the manifest says of a fraction: the films and patients of its first draw, and of each draw."""
    each = [{"train": counts(train), "validate": counts(validate)} for train, validate in parts]
    return {"fraction": fraction} | each[0] | {"draws": each}


def counts(films: Films) -> dict[str, int]:
    """How many films of how many patients."""
    return {"films": len(films.rows), "patients": len(np.unique(films.patients))}
