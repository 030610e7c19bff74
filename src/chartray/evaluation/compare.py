"""`chartray compare`: arms against each other on the same films, paired by patient, seeds averaged.

The folder that `compare` writes:

comparisons.jsonl    {a, b, control_a, control_b, chart_a, chart_b, chart_use_a, chart_use_b, dataset, protocol, split,
                     fraction, label, metric, difference, ci_low, ci_high, p, level, seeds, by_seed, claim, reason}:
                     a and b name arms, that is a chart and, in brackets, its use (unless anchor) and control (unless
                     none), or a run, where two runs share all of these and the seed;
                     difference = mean over seeds of a - b; the interval lets patients vary and holds the pretrained
                     encoders fixed; `seeds` counts the runs an arm's mean is over; `claim` warns where they are
                     fewer than 3
compare.json         format, command, versions, the runs with their arms and seeds, resamples, seed, macro labels
"""

import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from chartray.errors import InputError
from chartray.evaluation import results
from chartray.evaluation.scoring import MACRO, METRICS, Scored, claim, comparison_rows, judged, mean_of
from chartray.measure.metrics import eligible
from chartray.pixels.store import read_parquet

Floats = NDArray[np.float64]

# What must be the same in all evaluations, or their numbers mean different things.
SAME_SETTINGS = ("protocol", "split", "uncertain", "blank")


class Run(NamedTuple):
    """One evaluated run."""

    folder: Path
    name: str
    chart: str
    control: str
    use: str | None
    seed: int | None
    settings: dict[str, Any]


class Sheet(NamedTuple):
    """A run's predictions on one data set at one fraction: truth and scores (N, C), patients (N,)."""

    image_ids: NDArray[np.str_]
    patients: NDArray[np.str_]
    labels: tuple[str, ...]
    truth: Floats
    scores: Floats


def compare(
    folders: Sequence[Path], out: Path, *, resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> list[dict[str, Any]]:
    """Compares the encoders of several Results folders, every arm with every later one, and writes `out`.

    Raises InputError if there are fewer than two arms, a folder holds no evaluation, the evaluations differ in
    protocol, split or label policy, or their scored films, labels or truths differ.
    """
    results.check_replaceable(out)
    runs = [_read_run(Path(folder)) for folder in folders]
    arms = _arms(runs)
    if len(arms) < 2:
        raise InputError(f"expected evaluations of at least two arms, found {', '.join(arms) or 'none'}; add another")
    for run, setting in itertools.product(runs[1:], SAME_SETTINGS):
        if run.settings[setting] != runs[0].settings[setting]:
            raise InputError(
                f"expected one {setting} in all evaluations, found {runs[0].settings[setting]} in {runs[0].folder} "
                f"and {run.settings[setting]} in {run.folder}; evaluate them alike"
            )
    sheets = {run.folder: _read_sheets(run) for run in runs}
    rows: list[dict[str, Any]] = []
    macro_labels: dict[str, list[str]] = {}
    for where in _shared(runs, sheets):
        first = sheets[runs[0].folder][where]
        for run in runs[1:]:
            _refuse_other_films(where[0], first, sheets[run.folder][where], runs[0], run)
        counted = eligible(first.truth, first.patients)
        macro_labels[where[0]] = [label for label, here in zip(first.labels, counted, strict=True) if here]
        scored = {
            run.folder: judged(
                first.truth, sheets[run.folder][where].scores, first.patients, counted, resamples=resamples, seed=seed
            )
            for run in runs
        }
        for a, b in itertools.combinations(arms, 2):
            rows += _compared((a, arms[a]), (b, arms[b]), scored, first.labels, counted, level, where)
    with results.whole_folder(out) as folder:
        results.write_jsonl(folder / results.COMPARISONS_FILE, rows)
        manifest = {
            "format": results.RESULTS_FORMAT,
            "command": sys.argv,
            "versions": results.versions(),
            "arms": {
                name: [{"run": run.name, "folder": str(run.folder), "seed": run.seed} for run in members]
                for name, members in arms.items()
            },
            "settings": {name: runs[0].settings[name] for name in SAME_SETTINGS},
            "resamples": resamples,
            "level": level,
            "seed": seed,
            "macro_labels": macro_labels,
        }
        results.write_json(folder / results.COMPARE_FILE, manifest)
    return rows


def _read_run(folder: Path) -> Run:
    try:
        manifest = json.loads((folder / results.MANIFEST_FILE).read_text())
    except (OSError, json.JSONDecodeError):
        raise InputError(
            f"expected an evaluation ({results.MANIFEST_FILE}) in {folder}, found none; run chartray evaluate"
        ) from None
    if manifest.get("format") != results.RESULTS_FORMAT:
        raise InputError(
            f"expected results of format {results.RESULTS_FORMAT} in {folder}, found {manifest.get('format')}; "
            "evaluate again"
        )
    made = manifest["encoder"]["provenance"]
    chart, control = (str(made.get(key, "none")) for key in ("chart", "control"))
    return Run(folder, manifest["run"], chart, control, made.get("chart_use"), made.get("seed"), manifest["settings"])


def _arms(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs of one chart, use and control are one arm over several seeds; where a seed comes twice, each is its own."""
    arms: dict[str, list[Run]] = {}
    for run in runs:
        changed = [word for word in (run.use, run.control) if word not in (None, "anchor", "none")]
        name = f"{run.chart} ({', '.join(map(str, changed))})" if changed else run.chart
        arms.setdefault(name, []).append(run)
    apart: dict[str, list[Run]] = {}
    for name, members in arms.items():
        seeds = [run.seed for run in members]
        if len(set(seeds)) == len(seeds) and (None not in seeds or len(seeds) == 1):
            apart[name] = members
            continue
        for run in members:
            if run.name in apart:
                raise InputError(
                    f"expected each run once, found {run.name!r} in {apart[run.name][0].folder} and {run.folder}"
                )
            apart[run.name] = [run]
    return apart


def _read_sheets(run: Run) -> dict[tuple[str, float], Sheet]:
    """The encoder's own predictions, by data set and fraction."""
    table = read_parquet(run.folder / results.PREDICTIONS_FILE)
    own = pc.and_(pc.equal(table["control"], run.control), pc.equal(table["chart"], run.chart))
    table = table.filter(own)
    keys = zip(table["dataset"].to_pylist(), table["fraction"].to_pylist(), strict=True)
    return {key: _sheet(table, *key) for key in dict.fromkeys(keys)}


def _sheet(table: pa.Table, dataset: str, fraction: float) -> Sheet:
    part = table.filter(pc.and_(pc.equal(table["dataset"], dataset), pc.equal(table["fraction"], fraction)))
    labels = tuple(dict.fromkeys(part["label"].to_pylist()))
    films = part.num_rows // len(labels)
    truth, scores = (
        np.array(part[name].to_pylist(), dtype=np.float64).reshape(films, len(labels)) for name in ("truth", "score")
    )
    names, patients = (np.array(part[name].to_pylist())[:: len(labels)] for name in ("image_id", "patient_id"))
    return Sheet(names, patients, labels, truth, scores)


def _shared(runs: Sequence[Run], sheets: dict[Path, dict[tuple[str, float], Sheet]]) -> list[tuple[str, float]]:
    """Data sets and fractions, which must be the same in all."""
    first = list(sheets[runs[0].folder])
    for run in runs[1:]:
        odd = set(first) ^ set(sheets[run.folder])
        if odd:
            dataset, fraction = sorted(odd)[0]
            raise InputError(
                f"expected the same data sets and fractions in {runs[0].folder} and {run.folder}, found {dataset} at "
                f"fraction {fraction} in one of them alone; evaluate them alike"
            )
    return first


def _refuse_other_films(dataset: str, first: Sheet, other: Sheet, run: Run, another: Run) -> None:
    if first.labels != other.labels:
        odd = sorted(set(first.labels) ^ set(other.labels)) or ["another order"]
        raise InputError(
            f"expected the same labels on {dataset} in {run.folder} and {another.folder}, found {odd[0]} apart"
        )
    ours, theirs = first.image_ids, other.image_ids
    if len(ours) != len(theirs) or (ours != theirs).any():
        apart = np.setxor1d(ours, theirs)
        rows = np.flatnonzero(ours[: len(theirs)] != theirs[: len(ours)])
        where = int(rows[0]) if len(rows) else min(len(ours), len(theirs))
        raise InputError(
            f"expected the same films on {dataset} in {run.folder} ({len(ours)}) and {another.folder} ({len(theirs)}), "
            f"found {len(apart)} in one of them alone, the first difference in film {where}; evaluate on one store"
        )
    differing = ~((first.truth == other.truth) | (np.isnan(first.truth) & np.isnan(other.truth)))
    if differing.any():
        row, label = np.argwhere(differing)[0]
        raise InputError(
            f"expected the same truth on {dataset} in {run.folder} and {another.folder}, found {int(differing.sum())} "
            f"that differ, the first in film {row}, label {first.labels[label]}; evaluate on one store"
        )


def _compared(
    a: tuple[str, list[Run]],
    b: tuple[str, list[Run]],
    scored: dict[Path, Scored],
    labels: tuple[str, ...],
    counted: NDArray[np.bool_],
    level: float,
    where: tuple[str, float],
) -> list[dict[str, Any]]:
    """One pair of arms on one data set: over the seeds that both have, over all of each if they share none."""
    both = {run.seed for run in a[1]} & {run.seed for run in b[1]}
    pairs = [sorted((r for r in arm if not both or r.seed in both), key=lambda r: r.seed or 0) for arm in (a[1], b[1])]
    seeds = min(len(pairs[0]), len(pairs[1]))
    settings = a[1][0].settings
    common = {
        "a": a[0],
        "b": b[0],
        "control_a": a[1][0].control,
        "control_b": b[1][0].control,
        "chart_a": a[1][0].chart,
        "chart_b": b[1][0].chart,
        "chart_use_a": a[1][0].use,
        "chart_use_b": b[1][0].use,
        "dataset": where[0],
        "protocol": settings["protocol"],
        "split": settings["split"],
        "fraction": where[1],
        "level": level,
        "seeds": seeds,
        "claim": claim(seeds),
    }
    mean_a, mean_b = (mean_of([scored[run.folder] for run in members]) for members in pairs)
    rows = comparison_rows(labels, counted, mean_a, mean_b, level, common)
    for row in rows:
        row["by_seed"] = [
            _value(scored[one.folder], row, labels) - _value(scored[other.folder], row, labels)
            for one, other in zip(*pairs, strict=False)
            if both
        ]
    return rows


def _value(scored: Scored, row: dict[str, Any], labels: tuple[str, ...]) -> float:
    metric = row["metric"]
    assert metric in METRICS
    return scored.macro[metric] if row["label"] == MACRO else float(scored.values[metric][labels.index(row["label"])])
