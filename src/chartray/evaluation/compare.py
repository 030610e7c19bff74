"""`chartray compare`: arms against each other on the same films, paired by patient, with draws and seeds as levels.

The folder that `compare` writes:

comparisons.jsonl    {a, b, control_a, control_b, chart_a, chart_b, chart_use_a, chart_use_b, objective_a, objective_b,
                     settings_hash_a, settings_hash_b, home, dataset, protocol, split, fraction, uncertain, blank,
                     after_film, label, metric, difference, value_a, value_b, ci_low, ci_high, p, p_holm, delong_p,
                     delong_patient_p, level, levels, seeds, by_seed, verdict, claim, note, reason}:
                     a and b name arms, that is a chart and, in brackets, objective (unless msn), its use (unless
                     anchor) and control (unless none), and where two arms would share a name but not the settings of
                     pretraining the recipe or a run of each; or a run, where two runs share all of these and the seed;
                     difference = mean over seeds, and draws of training patients, of a - b.
                     `levels` says what the interval and p let vary beside the patients scored: "patients", "patients
                     and seeds", "patients and draws", "patients, draws and seeds" (a hierarchical
                     bootstrap; seeds and draws that both arms have are drawn together, the seeds of arms that
                     share none apart; with one seed on a side the encoders are held fixed).
                     p_holm is Holm's p over the labels of one pair, data set, fraction and metric (the macro apart;
                     other pairs are not counted). delong_p and delong_patient_p (auroc, one seed and one draw, else
                     null) are DeLong's, films taken as independent and clustered by patient: a cross-check.
                     `seeds` counts the runs an arm's mean is over, `by_seed` are their differences (where shared).
                     `verdict` follows p_holm: "a higher" | "b higher" | "no difference shown" | "no claim" (fewer than
                     3 seeds, said in words in `claim`) | null (no p: `reason`);
                     `note` says where the two were not pretrained alike
compare.json         format, command, versions, the runs with their arms, seeds and which encoder each is of
                     (`results.IDENTITY` of its provenance), settings, stores (the first is what
                     was fitted on), resamples, seed, macro labels
"""

import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from chartray.config.evaluate import IntervalOptions
from chartray.errors import InputError
from chartray.evaluation import results
from chartray.evaluation.alike import SAME_SETTINGS, Run, Sheet, read_run, read_sheets
from chartray.evaluation.differences import Pair, comparison_rows
from chartray.evaluation.earlier import check_replaceable, whole_folder
from chartray.evaluation.rows import MACRO
from chartray.evaluation.scoring import Scored, judged, over_draws, over_seeds
from chartray.results.verdict import why_no_claim
from chartray.statistics.metrics import eligible

DEFAULTS = IntervalOptions()


class _Place(NamedTuple):
    """Where arms are compared: a data set at a fraction, with every run's `Scored` by its folder; `home` is the data
    set that the probes were fitted on.
    """

    home: str
    dataset: str
    fraction: float
    sheet: Sheet
    counted: NDArray[np.bool_]
    scored: dict[Path, Scored]
    level: float
    seed: int


def compare(folders: Sequence[Path], out: Path, options: IntervalOptions = DEFAULTS) -> list[dict[str, Any]]:
    """Compares the encoders of several Results folders, every arm with every later one, and writes `out`.

    Raises InputError if `out` holds anything but a comparison, there are fewer than two arms, a folder holds no
    evaluation, the evaluations differ in protocol, split, label policy or stores, in the seed where a fraction is below
    1, their scored films, labels, truths or draws differ, or a score is NaN.
    """
    check_replaceable(out, results.COMPARE_FILE)
    runs = [read_run(Path(folder)) for folder in folders]
    arms = _arms(runs)
    if len(arms) < 2:
        raise InputError(f"expected evaluations of at least two arms, found {', '.join(arms) or 'none'}; add another")
    sheets = read_sheets(runs)
    rows: list[dict[str, Any]] = []
    macro_labels: dict[str, list[str]] = {}
    for where in sheets[runs[0].folder]:
        first = sheets[runs[0].folder][where]
        counted = eligible(first.truth, first.patients)
        macro_labels[where[0]] = [label for label, here in zip(first.labels, counted, strict=True) if here]
        scored = {
            run.folder: over_draws(
                [
                    judged(first.truth, scores, first.patients, counted, resamples=options.resamples, seed=options.seed)
                    for scores in sheets[run.folder][where].scores
                ],
                seed=options.seed,
            )
            for run in runs
        }
        on = _Place(next(iter(runs[0].stores)), where[0], where[1], first, counted, scored, options.level, options.seed)
        for a, b in itertools.combinations(arms, 2):
            rows += _compared((a, arms[a]), (b, arms[b]), on)
    with whole_folder(out, results.COMPARE_FILE) as folder:
        results.write_jsonl(folder / results.COMPARISONS_FILE, rows)
        manifest = {
            "format": results.RESULTS_FORMAT,
            "command": sys.argv,
            "versions": results.versions(),
            "arms": {
                name: [
                    {"run": run.name, "folder": str(run.folder), "seed": run.seed}
                    | {"provenance": {key: run.made.get(key) for key in results.IDENTITY}}
                    for run in members
                ]
                for name, members in arms.items()
            },
            "settings": {name: runs[0].settings[name] for name in SAME_SETTINGS},
            "stores": [{"dataset": dataset, "hash": digest} for dataset, digest in runs[0].stores.items()],
            "resamples": options.resamples,
            "level": options.level,
            "seed": options.seed,
            "macro_labels": macro_labels,
        }
        results.write_json(folder / results.COMPARE_FILE, manifest)
    return rows


def _arms(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs of one chart, use, control, objective and settings are one arm over several seeds; where a seed comes
    twice, each is its own.
    """
    alike: dict[tuple[str, ...], dict[str | None, list[Run]]] = {}
    for run in runs:
        changed = (run.made.get("objective"), run.use, run.control)
        words = (run.chart, *(str(word) for word in changed if word not in (None, "msn", "anchor", "none")))
        alike.setdefault(words, {}).setdefault(run.made.get("settings_hash"), []).append(run)
    apart: dict[str, list[Run]] = {}

    def add(name: str, members: list[Run]) -> None:
        if name in apart:
            raise InputError(
                f"expected each run once, found {name!r} in {apart[name][0].folder} and {members[0].folder}"
            )
        apart[name] = members

    for words, settings in alike.items():
        for members, more in zip(settings.values(), _told_apart(list(settings.values())), strict=True):
            seeds = [run.seed for run in members]
            if len(set(seeds)) == len(seeds) and (None not in seeds or len(seeds) == 1):
                brackets = [*words[1:], *more]
                add(f"{words[0]} ({', '.join(brackets)})" if brackets else words[0], members)
                continue
            for run in members:
                add(run.name, [run])
    return apart


def _told_apart(groups: Sequence[Sequence[Run]]) -> list[list[str]]:
    """A word for each group of runs that share everything but their settings; none where there is one group."""
    if len(groups) == 1:
        return [[]]
    recipes = [{run.made.get("recipe") for run in members} for members in groups]
    named = [str(next(iter(each))) for each in recipes if len(each) == 1 and None not in each]
    if len(set(named)) == len(groups):
        return [[f"recipe {name}"] for name in named]
    return [[f"settings of {members[0].name}"] for members in groups]


def _compared(a: tuple[str, list[Run]], b: tuple[str, list[Run]], on: _Place) -> list[dict[str, Any]]:
    """One pair of arms at one place: over the seeds that both have, over all of each if they share none."""
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
        "home": on.home,
        "dataset": on.dataset,
        "protocol": settings["protocol"],
        "split": settings["split"],
        "fraction": on.fraction,
        "uncertain": settings["uncertain"],
        "blank": settings["blank"],
        "after_film": sorted({name for run in (*pairs[0], *pairs[1]) for name in run.made.get("after_film") or ()}),
        "level": on.level,
        "seeds": seeds,
        "claim": why_no_claim(seeds),
        "note": _note(*pairs),
    }
    for name in ("objective", "settings_hash"):
        common |= {f"{name}_a": a[1][0].made.get(name), f"{name}_b": b[1][0].made.get(name)}
    # Seeds that both have are drawn together, others apart; where one side has a single one there is nothing to draw.
    means = [over_seeds([on.scored[run.folder] for run in members]) for members in pairs]
    drawn: Literal["fixed", "paired", "apart"] = "fixed" if seeds < 2 else "paired" if both else "apart"
    pair = Pair(means[0], means[1], seeds=drawn, truth=on.sheet.truth, patients=on.sheet.patients)
    rows = comparison_rows(on.sheet.labels, on.counted, pair, on.level, common, seed=on.seed)
    for row in rows:
        row["by_seed"] = [
            _value(on.scored[one.folder], row, on.sheet.labels) - _value(on.scored[other.folder], row, on.sheet.labels)
            for one, other in zip(*pairs, strict=False)
            if both
        ]
    return rows


def _note(a: Sequence[Run], b: Sequence[Run]) -> str | None:
    """In what the two were not pretrained alike beside chart, control and seed."""
    notes = []
    films = [sorted({run.made["films"] for run in arm if run.made.get("films") is not None}) for arm in (a, b)]
    if all(films) and films[0] != films[1]:
        counts = " and ".join(", ".join(map(str, each)) for each in films)
        notes.append(f"pretrained on different films: {counts} (published rules drop what a chart cannot represent)")
    if a[0].made.get("settings_hash") != b[0].made.get("settings_hash"):
        notes.append("pretrained with different settings, so the difference is not that of the charts alone")
    return "; ".join(notes) or None


def _value(scored: Scored, row: dict[str, Any], labels: tuple[str, ...]) -> float:
    metric = row["metric"]
    return scored.macro[metric] if row["label"] == MACRO else float(scored.values[metric][labels.index(row["label"])])
