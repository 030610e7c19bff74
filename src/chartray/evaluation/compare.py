"""`chartray compare`: arms against each other on the same images, paired by patient (docs/results.md)."""

import itertools
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from chartray.config.evaluate import CompareOptions
from chartray.errors import InputError
from chartray.evaluation.answer import Compared, answered
from chartray.evaluation.comparable import EvaluatedRun, Sheet, Sheets, read_sheets
from chartray.evaluation.declare import read_questions
from chartray.evaluation.differences import Pair, comparison_rows
from chartray.evaluation.scoring import METRICS, Scored, judged
from chartray.networks.description import Provenance
from chartray.results import folder as results
from chartray.results.arm import IMAGE_CHART, Arm, disambiguated
from chartray.results.ledger import scorings
from chartray.results.manifest import ComparisonManifest, MemberEntry, Settings, StoreEntry, identity
from chartray.results.question import Scorings
from chartray.results.schema import MACRO, Comparison
from chartray.statistics.metrics import eligible

Floats = NDArray[np.float64]
DEFAULTS = CompareOptions()


class _ComparedArm(NamedTuple):
    """One side of a comparison: an arm, or a baseline of it, by its name; the runs that it was scored with."""

    name: str
    arm: Arm
    runs: Sequence[EvaluatedRun]


class _ComparedSet(NamedTuple):
    """Where arms are compared: a data set at a fraction, and every run's predictions by its folder; `home` is the data
    set that the probes were fitted on. `known` holds what has been judged.
    """

    home: str
    dataset: str
    fraction: float
    sheets: dict[Path, Sheets]
    sheet: Sheet
    counted: NDArray[np.bool_]
    options: CompareOptions
    known: dict[tuple[Path, Arm], list[Scored]]

    def scores(self, run: EvaluatedRun, arm: Arm) -> Floats | None:
        """Scores (D, N, C) of a run, or of a baseline that was scored with it; None where it was not scored here."""
        own, baselines = self.sheets[run.folder]
        found = (baselines.get(arm, {}) if arm.is_baseline else own).get((self.dataset, self.fraction))
        return None if found is None else found.scores

    def parts(self, side: _ComparedArm) -> list[list[Scored]]:
        """What each run of a side reached with each draw."""
        found = []
        for run in side.runs:
            if (run.folder, side.arm) not in self.known:
                scores = self.scores(run, side.arm)
                assert scores is not None
                self.known[run.folder, side.arm] = [
                    judged(
                        self.sheet.truth,
                        each,
                        self.sheet.patients,
                        self.counted,
                        resamples=self.options.resamples,
                        seed=self.options.seed,
                    )
                    for each in scores
                ]
            found.append(self.known[run.folder, side.arm])
        return found


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
    for where, first in sheets[runs[0].folder].own.items():
        counted = eligible(first.truth, first.patients)
        macro_labels[where[0]] = tuple(label for label, here in zip(first.labels, counted, strict=True) if here)
        on = _ComparedSet(next(iter(runs[0].stores)), *where, sheets, first, counted, options, {})
        sides = [_ComparedArm(name, members[0].arm, _in_order(members)) for name, members in arms.items()]
        for a, b in itertools.combinations(sides, 2):
            rows += _compared(a, b, [side for side in sides if side.name not in (a.name, b.name)], on)
        for side in sides:
            for baseline, ours in _baselines(side, runs, on):
                others = [one for one in sides if one.name != side.name]
                rows += _compared(side._replace(runs=ours), baseline, others, on)
    sizes = {where[0]: len(np.unique(sheet.patients)) for where, sheet in sheets[runs[0].folder].own.items()}
    compared = Compared({name: [run.name for run in members] for name, members in arms.items()}, sizes)
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


def _baselines(
    side: _ComparedArm, runs: Sequence[EvaluatedRun], on: _ComparedSet
) -> Iterator[tuple[_ComparedArm, Sequence[EvaluatedRun]]]:
    """Every baseline that was scored with an arm, and the runs of the arm that are set against it.

    A baseline that no seed enters is one, whatever run it was scored with. Of the untrained encoder, every run with
    these settings brings an initialisation; equal scores are of one. Image + chart reads the embedding of its own run.
    """
    for arm in dict.fromkeys(arm for run in side.runs for arm in on.sheets[run.folder].baselines):
        ours = [run for run in side.runs if on.scores(run, arm) is not None]
        if not ours:
            continue
        if arm.is_fixed:
            yield _ComparedArm(arm.title, arm, ours[:1]), side.runs
        elif arm.control == IMAGE_CHART:
            yield _ComparedArm(arm.title, arm, ours), ours
        else:
            others = [run for run in runs if run not in ours and on.scores(run, arm) is not None]
            different: list[tuple[EvaluatedRun, Floats]] = []
            for run in (*ours, *others):
                scores = on.scores(run, arm)
                if scores is not None and not any(
                    run.seed == each.seed or np.array_equal(scores, its) for each, its in different
                ):
                    different.append((run, scores))
            yield _ComparedArm(arm.title, arm, _in_order(run for run, _ in different)), side.runs


def _compared(a: _ComparedArm, b: _ComparedArm, others: Sequence[_ComparedArm], on: _ComparedSet) -> list[Comparison]:
    """One pair on one data set; the seed variance is pooled over `others` of the recipe of both."""
    shared = {run.seed for run in a.runs} & {run.seed for run in b.runs}
    own = b.arm.control == IMAGE_CHART  # of the very runs of a: paired, whatever the study says
    paired = own or (on.options.pair_seeds and not b.arm.is_baseline)
    if paired and not own and not shared:
        raise InputError(f"expected seeds that {a.name} and {b.name} share, found none; leave out --pair-seeds")
    if paired and not own:
        a, b = (side._replace(runs=[run for run in side.runs if run.seed in shared]) for side in (a, b))
    pooled = [] if own else [side for side in others if side.arm.differs_in_chart_alone(a.arm)]
    pooled = pooled if b.arm.is_baseline or a.arm.differs_in_chart_alone(b.arm) else []
    fixed = b.arm.is_fixed
    pair = Pair(
        on.parts(a),
        on.parts(b),
        on.sheet.truth,
        on.sheet.patients,
        others=[on.parts(side) for side in pooled if len(side.runs) > 1],
        pair_seeds=paired,
        fixed_b=fixed,
        alone_b=b.arm.is_baseline,
    )
    settings = a.runs[0].settings
    about = Comparison(
        arm_a=a.arm,
        arm_b=b.arm,
        a=a.name,
        b=b.name,
        home=on.home,
        dataset=on.dataset,
        protocol=settings.protocol,
        split=settings.split,
        fraction=float(on.fraction),
        draw_by=settings.draw_by if on.fraction < 1 else None,
        label="",
        metric="",
        uncertain=settings.uncertain,
        blank=settings.blank,
        after_film=tuple(sorted({name for run in (*a.runs, *b.runs) for name in run.made.after_film})),
        level=on.options.level,
        run_seed=a.runs[0].seed if pair.seeds == 1 else None,
        note=None if b.arm.is_baseline else _note(*([run.made for run in side.runs] for side in (a, b))),
    )
    rows = comparison_rows(on.sheet.labels, on.counted, pair, about)
    same = pair if fixed else pair._replace(a=_of_seeds(a, shared, on), b=_of_seeds(b, shared, on))
    if not same.a or not same.b or (None in shared and len(shared) > 1):
        return rows
    places = {label: place for place, label in enumerate([*on.sheet.labels, MACRO])}
    by_seed = {metric: same.by_seed(metric) for metric in METRICS}
    each = [by_seed[row.metric][:, places[row.label]] for row in rows]
    return [
        row.replaced(by_seed=tuple(its.tolist()) if np.isfinite(its).all() else ())
        for row, its in zip(rows, each, strict=True)
    ]


def _of_seeds(side: _ComparedArm, seeds: Collection[int | None], on: _ComparedSet) -> list[list[Scored]]:
    return on.parts(side._replace(runs=_in_order(run for run in side.runs if run.seed in seeds)))


def _in_order(runs: Iterable[EvaluatedRun]) -> list[EvaluatedRun]:
    return sorted(runs, key=lambda run: run.seed or 0)


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
