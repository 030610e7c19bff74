"""`chartray compare`: arms against each other on the same images, paired by patient (docs/results.md)."""

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from chartray.config.evaluate import CompareOptions
from chartray.errors import InputError
from chartray.evaluation.answer import Compared, answered
from chartray.evaluation.comparable import EvaluatedRun, read_sheets
from chartray.evaluation.declare import read_questions
from chartray.evaluation.differences import comparison_rows
from chartray.evaluation.interactions import interaction_rows
from chartray.evaluation.pairs import ComparedArm, ComparedPair, ComparedSet, in_order, pairs_of
from chartray.evaluation.scoring import METRICS, Scored
from chartray.networks.description import Provenance
from chartray.results import folder as results
from chartray.results.arm import Arm, disambiguated
from chartray.results.ledger import scorings
from chartray.results.manifest import ComparisonManifest, MemberEntry, Settings, reading
from chartray.results.question import Scorings
from chartray.results.schema import MACRO, Comparison
from chartray.statistics.metrics import eligible

Floats = NDArray[np.float64]
DEFAULTS = CompareOptions()


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
    sets: list[ComparedSet] = []
    macro_labels: dict[str, tuple[str, ...]] = {}
    for where, first in sheets[runs[0].folder].own.items():
        counted = eligible(first.truth, first.patients)
        macro_labels[where[0]] = tuple(label for label, here in zip(first.labels, counted, strict=True) if here)
        on = ComparedSet(next(iter(runs[0].stores)), *where, sheets, first, counted, options, {})
        rows += [row for pair in pairs_of(arms, runs, on) for row in _compared(pair, on)]
        sets.append(on)
    interactions = interaction_rows(sets, arms, runs)
    sizes = {where[0]: len(np.unique(sheet.patients)) for where, sheet in sheets[runs[0].folder].own.items()}
    compared = Compared({name: [run.name for run in members] for name, members in arms.items()}, sizes)
    rows = answered(rows, compared, questions[-1] if questions else None, options.evaluation)
    with results.written_folder(out, results.COMPARE_FILE) as folder:
        results.write_rows(folder, results.COMPARISONS_FILE, rows)
        results.write_rows(folder, results.INTERACTIONS_FILE, interactions)
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
            stores=runs[0].opened.manifest.stores,
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
    said = reading(run.made) | {"objective": run.made.objective}
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


def _compared(compared: ComparedPair, on: ComparedSet) -> list[Comparison]:
    """One pair on one data set."""
    a, b, pair = compared
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
    shared = {run.seed for run in a.runs} & {run.seed for run in b.runs}
    same = pair if pair.fixed_b else pair._replace(a=_of_seeds(a, shared, on), b=_of_seeds(b, shared, on))
    if not same.a or not same.b or (None in shared and len(shared) > 1):
        return rows
    places = {label: place for place, label in enumerate([*on.sheet.labels, MACRO])}
    by_seed = {metric: same.by_seed(metric) for metric in METRICS}
    each = [by_seed[row.metric][:, places[row.label]] for row in rows]
    return [
        row.replaced(by_seed=tuple(its.tolist()) if np.isfinite(its).all() else ())
        for row, its in zip(rows, each, strict=True)
    ]


def _of_seeds(side: ComparedArm, seeds: Collection[int | None], on: ComparedSet) -> list[list[Scored]]:
    return on.parts(side._replace(runs=in_order(run for run in side.runs if run.seed in seeds)))


def _note(a: Sequence[Provenance], b: Sequence[Provenance]) -> str | None:
    """In what the two were not pretrained alike beside chart, control and seed."""
    notes = []
    films = [sorted({made.films for made in arm if made.films is not None}) for arm in (a, b)]
    if all(films) and films[0] != films[1]:
        counts = " and ".join(", ".join(map(str, each)) for each in films)
        notes.append(f"pretrained on different images: {counts} (published rules drop what a chart cannot represent)")
    if a[0].pooling != b[0].pooling:
        pooled = " and ".join(made.pooling or "class token" for made in (a[0], b[0]))
        notes.append(f"embeddings pooled differently: {pooled}")
    elif a[0].settings_hash != b[0].settings_hash:
        notes.append("pretrained with different settings, so the difference is not that of the charts alone")
    return "; ".join(notes) or None
