"""What the arms of one evaluation reached, as the rows and tables of its Results folder."""

import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from chartray.evaluation import results
from chartray.evaluation.arms import Arm, Frozen, Learnt
from chartray.evaluation.differences import Pair, claim, comparison_rows
from chartray.evaluation.films import Films, label_names, metadata_of, without_any_label
from chartray.evaluation.rows import ONE_CLASS_TRAINING, result_rows
from chartray.evaluation.scoring import EvaluationSet, Scored, score
from chartray.evaluation.task import Settings, Task, image_ids
from chartray.networks.encoder import PretrainedEncoder


class Outcome(NamedTuple):
    """What one arm reached on one test set from one fraction of the training patients."""

    arm: Arm
    fraction: float
    test: EvaluationSet
    scored: Scored
    notes: list[dict[str, Any]]


def outcomes_of(
    arm: Arm, fraction: float, task: Task, train: Films, learnt: Learnt, settings: Settings
) -> list[Outcome]:
    """Scores of one arm become values, resamples and reasons, test set by test set."""
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


def rows_of(outcome: Outcome, run: str, encoder: PretrainedEncoder, settings: Settings) -> list[dict[str, Any]]:
    """The rows of results.jsonl."""
    common = {
        "run": run,
        "chart": outcome.arm.chart,
        "chart_use": encoder.provenance.get("chart_use"),
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
    } | pretraining_of(encoder.provenance)
    return result_rows(outcome.test, outcome.scored, settings.level, common, outcome.notes)


def comparisons_of(
    outcomes: Sequence[Outcome], own_arm: Arm, run: str, encoder: PretrainedEncoder, settings: Settings
) -> list[dict[str, Any]]:
    """The encoder against every floor, on the same films at the same fraction."""
    own = {(each.fraction, each.test.dataset): each for each in outcomes if each.arm is own_arm}
    made = pretraining_of(encoder.provenance)
    rows: list[dict[str, Any]] = []
    for floor in (each for each in outcomes if each.arm is not own_arm):
        common = {
            "a": run,
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
            "dataset": floor.test.dataset,
            "protocol": settings.protocol,
            "split": settings.split,
            "fraction": floor.fraction,
            "uncertain": settings.uncertain,
            "blank": settings.blank,
            "after_film": made["after_film"],
            "level": settings.level,
            "seeds": 1,
            "claim": claim(1),
            "note": None,
        }
        films = floor.test.films
        a = own[floor.fraction, floor.test.dataset]
        pair = Pair(a.scored, floor.scored, truth=films.truth, patients=films.patients)
        rows += comparison_rows(floor.test.labels, floor.test.counted, pair, settings.level, common)
    return rows


def pretraining_of(made: Mapping[str, Any]) -> dict[str, Any]:
    """What rows say of the pretraining beside chart, control and seed; null where the encoder does not say."""
    after_film = list(made.get("after_film") or ())
    return {
        "objective": made.get("objective"),
        "settings_hash": made.get("settings_hash"),
        "after_film": after_film,
    }


def predictions_of(outcome: Outcome, run: str) -> pa.Table:
    """The rows of predictions.parquet."""
    test, arm = outcome.test, outcome.arm
    columns: dict[str, str | float] = {"dataset": test.dataset, "split": test.films.split, "run": run}
    columns |= {"control": arm.control, "chart": arm.chart, "fraction": outcome.fraction}
    return results.prediction_table(
        test.image_ids, test.films.patients, test.labels, test.films.truth, outcome.scored.scores, columns
    )


def embeddings_of(task: Task, frozen: Frozen) -> list[pa.Table]:
    """The rows of embeddings.parquet, a table a split."""
    parts = [(test.dataset, test.films) for test in task.tests]
    learning = [(task.tests[0].dataset, films) for films in (task.train, task.validate)]
    parts += [(name, films) for name, films in learning if films.split != task.tests[0].films.split]
    return [
        results.embedding_table(name, films.split, image_ids(films), films.patients, frozen.needed(films))
        for name, films in parts
    ]


def manifest_of(
    source: Path,
    run: str,
    encoder: PretrainedEncoder,
    task: Task,
    settings: Settings,
    fractions: list[dict[str, Any]],
    left_out: dict[str, str],
) -> dict[str, Any]:
    """What evaluation.json says."""
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
        "patients_seen_in_pretraining": task.patients_seen[0],
        "stores": [
            _store_entry(test, task.labels) | {"patients_seen_in_pretraining": seen}
            for test, seen in zip(task.tests, task.patients_seen, strict=True)
        ],
        "fractions": fractions,
        "left_out": left_out,
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
        "split": test.films.split,
        "matches": [match._asdict() for match in test.matches],
        "unmatched": [label for label in labels if label not in test.labels],
        "unmatched_there": [name for name in label_names(cohort) if name not in there],
        "macro_labels": [label for label, here in zip(test.labels, test.counted, strict=True) if here],
        "films_without_any_label": int(without_any_label(cohort)[test.films.rows].sum()),
    } | counts(test.films)


def counts(films: Films) -> dict[str, int]:
    """How many films of how many patients."""
    return {"films": len(films.rows), "patients": len(np.unique(films.patients))}
