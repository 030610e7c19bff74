"""`chartray compare`: arms against each other on the same images, paired by patient (docs/results.md)."""

import itertools
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from chartray.config.evaluate import CompareOptions
from chartray.errors import InputError
from chartray.evaluation.answer import Compared, answered
from chartray.evaluation.comparable import EvaluatedRun, Sheet, read_sheets
from chartray.evaluation.declare import read_questions
from chartray.evaluation.differences import Pair, comparison_rows
from chartray.evaluation.scoring import Scored, judged, over_draws, over_seeds
from chartray.networks.description import Provenance
from chartray.results import folder as results
from chartray.results.arm import Arm, disambiguated
from chartray.results.ledger import scorings
from chartray.results.manifest import ComparisonManifest, MemberEntry, Settings, StoreEntry, identity
from chartray.results.question import Scorings
from chartray.results.schema import MACRO, Comparison
from chartray.statistics.arms import ArmDifference, Metric, difference_of_arms
from chartray.statistics.metrics import eligible

Floats = NDArray[np.float64]
DEFAULTS = CompareOptions()


class _ComparedSet(NamedTuple):
    """Where arms are compared: a data set at a fraction, with every run's `Scored` by its folder; `home` is the data
    set that the probes were fitted on.
    """

    home: str
    dataset: str
    fraction: float
    sheet: Sheet
    counted: NDArray[np.bool_]
    scored: dict[Path, Scored]
    scores: dict[Path, Floats]
    options: CompareOptions


def compare(folders: Sequence[Path], out: Path, options: CompareOptions = DEFAULTS) -> list[Comparison]:
    """Compares the encoders of several Results folders, every arm with every later one, and writes `out`.

    Raises InputError if `out` holds anything but a comparison, there are fewer than two arms, a folder holds no
    evaluation, the evaluations differ in protocol, split, label policy or stores, in the seed where a fraction is below
    1, their scored images, labels, truths or draws differ, or a score is NaN.
    """
    results.check_replaceable(out, results.COMPARE_FILE)
    questions = read_questions(options.question) if options.question is not None else []
    runs = [EvaluatedRun(results.open_evaluation(Path(folder))) for folder in folders]
    arms = _arms(runs)
    if len(arms) < 2:
        raise InputError(f"expected evaluations of at least two arms, found {', '.join(arms) or 'none'}; add another")
    sheets = read_sheets(runs)
    rows: list[Comparison] = []
    macro_labels: dict[str, tuple[str, ...]] = {}
    for where in sheets[runs[0].folder]:
        first = sheets[runs[0].folder][where]
        counted = eligible(first.truth, first.patients)
        macro_labels[where[0]] = tuple(label for label, here in zip(first.labels, counted, strict=True) if here)
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
        scores = {run.folder: sheets[run.folder][where].scores for run in runs}
        on = _ComparedSet(next(iter(runs[0].stores)), *where, first, counted, scored, scores, options)
        for a, b in itertools.combinations(arms, 2):
            others = [arms[name] for name in arms if name not in (a, b)]
            rows += _compared((a, arms[a]), (b, arms[b]), others, on)
    patients = {where[0]: len(np.unique(sheet.patients)) for where, sheet in sheets[runs[0].folder].items()}
    compared = Compared({name: [run.name for run in members] for name, members in arms.items()}, patients)
    rows = answered(rows, compared, questions[-1] if questions else None, options.evaluation)
    with results.written_folder(out, results.COMPARE_FILE) as folder:
        results.write_rows(folder, results.COMPARISONS_FILE, rows)
        settings = runs[0].settings
        manifest = ComparisonManifest(
            command=results.command(),
            when=results.now(),
            versions=results.versions(),
            arms={name: tuple(_member(run) for run in members) for name, members in arms.items()},
            settings=Settings(
                protocol=settings.protocol,
                split=settings.split,
                uncertain=settings.uncertain,
                blank=settings.blank,
                resamples=options.resamples,
                level=options.level,
                seed=options.seed,
            ),
            stores=tuple(StoreEntry(dataset=dataset, hash=digest) for dataset, digest in runs[0].stores.items()),
            macro_labels=macro_labels,
            question=questions[-1] if questions else None,
            earlier_questions=tuple(questions[:-1]),
            scorings=_scorings(runs),
        )
        results.write_manifest(folder, manifest)
    return rows


def _scorings(runs: Sequence[EvaluatedRun]) -> tuple[Scorings, ...]:
    """How often each test split that is compared had been scored; none where another split is."""
    if runs[0].settings.split != "test":
        return ()
    made = [(run.name, run.opened.manifest.when) for run in runs]
    stores = [store for run in runs for store in run.opened.manifest.stores if store.part_of is None]
    by_hash = {store.hash: store.dataset for store in stores}
    return tuple(
        scorings(dataset, digest, [Path(each.path) for each in stores if each.hash == digest and each.path], made)
        for digest, dataset in by_hash.items()
    )


def _member(run: EvaluatedRun) -> MemberEntry:
    said = identity(run.made) | {"chart_use": run.made.chart_use, "objective": run.made.objective}
    made = Provenance.model_validate(said)
    return MemberEntry(run=run.name, folder=str(run.folder), seed=run.seed, provenance=made)


def _arms(runs: Sequence[EvaluatedRun]) -> dict[str, list[EvaluatedRun]]:
    """The runs of each arm by its title; where two runs of an arm share a seed, or have none, each run is its own."""
    alike: dict[Arm, list[EvaluatedRun]] = {}
    for run in runs:
        alike.setdefault(run.arm, []).append(run)
    named = disambiguated(alike, {arm: [run.made.recipe for run in members] for arm, members in alike.items()})
    found: dict[str, list[EvaluatedRun]] = {}

    def add(name: str, members: list[EvaluatedRun]) -> None:
        if name in found:
            raise InputError(
                f"expected each run once, found {name!r} in {found[name][0].folder} and {members[0].folder}; leave one "
                "out"
            )
        found[name] = members

    for arm, members in alike.items():
        seeds = [run.seed for run in members]
        if len(set(seeds)) == len(seeds) and (None not in seeds or len(seeds) == 1):
            add(named.get(arm, arm).title, members)
        else:
            for run in members:
                add(run.name, [run])
    return found


def _compared(
    a: tuple[str, list[EvaluatedRun]],
    b: tuple[str, list[EvaluatedRun]],
    others: Sequence[list[EvaluatedRun]],
    on: _ComparedSet,
) -> list[Comparison]:
    """One pair of arms on one data set; the seed variance is pooled over `others` of their recipe."""
    shared = {run.seed for run in a[1]} & {run.seed for run in b[1]}
    paired = on.options.pair_seeds
    if paired and not shared:
        raise InputError(f"expected seeds that {a[0]} and {b[0]} share, found none; leave out --pair-seeds")
    pairs = [_in_order(run for run in arm if not paired or run.seed in shared) for arm in (a[1], b[1])]
    seeds = min(len(pairs[0]), len(pairs[1]))
    settings = a[1][0].settings
    about = Comparison(
        arm_a=a[1][0].arm,
        arm_b=b[1][0].arm,
        a=a[0],
        b=b[0],
        home=on.home,
        dataset=on.dataset,
        protocol=settings.protocol,
        split=settings.split,
        fraction=float(on.fraction),
        label="",
        metric="",
        uncertain=settings.uncertain,
        blank=settings.blank,
        after_film=tuple(sorted({name for run in (*pairs[0], *pairs[1]) for name in run.made.after_film})),
        level=on.options.level,
        seeds=seeds,
        run_seed=pairs[0][0].seed if seeds == 1 else None,
        note=_note(*([run.made for run in side] for side in pairs)),
    )
    means = [over_seeds([on.scored[run.folder] for run in members]) for members in pairs]
    drawn: Literal["fixed", "paired", "apart"] = "fixed" if seeds < 2 else "paired" if paired else "apart"
    pair = Pair(means[0], means[1], seeds=drawn, truth=on.sheet.truth, patients=on.sheet.patients)
    inference = _over_seeds(pairs, others, on) if seeds > 1 and means[0].draws == 1 else None
    rows = []
    for row in comparison_rows(on.sheet.labels, on.counted, pair, about, seed=on.options.seed, over_seeds=inference):
        same = [_in_order(run for run in arm if run.seed in shared) for arm in pairs]
        ours, theirs = ([_value(on.scored[run.folder], row, on.sheet.labels) for run in side] for side in same)
        by_seed = [a - b for a, b in zip(ours, theirs, strict=True)]
        rows.append(row.replaced(by_seed=tuple(by_seed) if all(map(math.isfinite, by_seed)) else ()))
    return rows


def _in_order(runs: Iterable[EvaluatedRun]) -> list[EvaluatedRun]:
    return sorted(runs, key=lambda run: run.seed or 0)


def _over_seeds(
    pairs: Sequence[list[EvaluatedRun]], others: Sequence[list[EvaluatedRun]], on: _ComparedSet
) -> dict[str, ArmDifference]:
    """Interval and test of each metric over the seeds of two arms (`statistics.arms`)."""

    def scores(runs: Sequence[EvaluatedRun]) -> list[Floats]:
        return [on.scores[run.folder][0] for run in runs]

    same = [arm for arm in others if all(arm[0].arm.differs_in_chart_alone(one[0].arm) for one in pairs)]
    return {
        metric: difference_of_arms(
            scores(pairs[0]),
            scores(pairs[1]),
            on.sheet.truth,
            on.sheet.patients,
            metric=metric,
            resamples=on.options.resamples,
            level=on.options.level,
            seed=on.options.seed,
            other_arms=[scores(_in_order(arm)) for arm in same if len(arm) > 1],
            pair_seeds=on.options.pair_seeds,
        )
        for metric in get_args(Metric)
    }


def _note(a: Sequence[Provenance], b: Sequence[Provenance]) -> str | None:
    """In what the two were not pretrained alike beside chart, control and seed."""
    notes = []
    films = [sorted({made.films for made in arm if made.films is not None}) for arm in (a, b)]
    if all(films) and films[0] != films[1]:
        counts = " and ".join(", ".join(map(str, each)) for each in films)
        notes.append(f"pretrained on different images: {counts} (published rules drop what a chart cannot represent)")
    if a[0].settings_hash != b[0].settings_hash:
        notes.append("pretrained with different settings, so the difference is not that of the charts alone")
    return "; ".join(notes) or None


def _value(scored: Scored, row: Comparison, labels: tuple[str, ...]) -> float:
    if row.label == MACRO:
        return float(scored.macro[row.metric])
    return float(scored.values[row.metric][labels.index(row.label)])
