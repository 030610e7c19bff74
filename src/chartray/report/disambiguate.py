"""Different things under one name get different names, or are refused, before anything is averaged over seeds."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple, TypeVar

from chartray.errors import InputError
from chartray.report.inputs import AuditResults, PretrainingRun, Results
from chartray.results.arm import PIXELS, UNTRAINED, Arm, dataset_name, disambiguated
from chartray.results.schema import CalibrationBin, Comparison, Record, Score

# Two scores of one thing may differ by less than is printed: arithmetic on another device.
SAME_SCORE = 1e-3
Row = TypeVar("Row", bound=Record)


class Names(NamedTuple):
    """What must be said so that no two different things share a name.

    `arms` gives arms of several settings a note in the title, and baselines that agree over settings one name; `homes`
    are the data sets that several probes were scored on.
    """

    arms: dict[Arm, Arm]
    homes: frozenset[str]

    def arm(self, one: Arm) -> Arm:
        """Its name on the page."""
        return self.arms.get(one, one)

    def rows(self, rows: Iterable[Row]) -> list[Row]:
        """Rows under the names of the page; `home` is empty where it goes without saying."""
        return [self._row(row) for row in rows]

    def _row(self, row: Row) -> Row:
        changes: dict[str, object] = {name: self.arm(getattr(row, name)) for name in row.arm_fields}
        if isinstance(row, Score | Comparison | CalibrationBin) and row.dataset not in self.homes:
            changes["home"] = ""
        return row.replaced(**changes)


def names_of(
    scores: Sequence[Score],
    comparisons: Sequence[Comparison],
    arms: Iterable[Arm] = (),
    recipes: dict[Arm, set[str | None]] | None = None,
) -> Names:
    """The names for a page on these; `arms` are those without scores, `recipes` those of each arm's runs."""
    every = {*arms, *(one.arm for one in scores), *(arm for one in comparisons for arm in (one.arm_a, one.arm_b))}
    homes: dict[str, set[str]] = {}
    for one in (*scores, *comparisons):
        homes.setdefault(one.dataset, set()).add(one.home)
    found = disambiguated(sorted(every, key=lambda arm: (arm.order, arm.settings)), recipes)
    for control in (UNTRAINED, PIXELS):
        several = [arm for arm in found if arm.control == control]
        if several and _agree([one for one in scores if one.arm in several]):
            found |= {arm: replace(arm, settings="") for arm in several}
    return Names(found, frozenset(dataset for dataset, there in homes.items() if len(there) > 1))


def under_names(
    runs: Sequence[PretrainingRun], results: Sequence[Results], audits: Sequence[AuditResults] = ()
) -> tuple[list[PretrainingRun], list[Results], list[AuditResults]]:
    """Runs, results and audits under distinct names.

    Raises InputError where one data set has stores of different content.
    """
    _refuse_other_stores(results)
    recipes: dict[Arm, set[str | None]] = {}
    for run in runs:
        recipes.setdefault(run.arm, set()).add(run.manifest.recipe)
    for one in results:
        if one.base is not None and one.provenance is not None:
            recipes.setdefault(one.base, set()).add(one.provenance.recipe)
    names = names_of(
        [score for one in results for score in one.scores],
        [pair for one in results for pair in one.comparisons],
        {*(run.arm for run in runs), *(arm for one in audits for arm in one.arms)},
        recipes,
    )
    named = [
        replace(
            one,
            scores=names.rows(one.scores),
            comparisons=names.rows(one.comparisons),
            interactions=names.rows(one.interactions),
            studies=names.rows(one.studies),
            calibration=names.rows(one.calibration),
        )
        for one in results
    ]
    of_audits = [
        replace(
            one,
            probes=names.rows(one.probes),
            differences=names.rows(one.differences),
            subgroups=names.rows(one.subgroups),
            removals=names.rows(one.removals),
        )
        for one in audits
    ]
    return [replace(run, arm=names.arm(run.arm)) for run in runs], named, of_audits


def refuse_another_value(first: Score, second: Score) -> None:
    """Raises InputError where two scores of one thing differ: showing one of them would hide the other."""
    a, b = first.value, second.value
    if a == b or (a is not None and b is not None and abs(a - b) < SAME_SCORE):
        return
    raise InputError(
        f"expected one {first.metric} of {first.label} on {dataset_name(first.place)} ({first.split}) for each run of "
        f"{first.arm.title}, found {a} and {b} for run {first.run!r}, seed {first.pretraining_seed}; "
        "report on one evaluation of it at a time"
    )


def refuse_other_macro_labels(scores: Sequence[Score]) -> None:
    """Raises InputError where a data set's macro means are over different labels; `scores` are of one selection."""
    labels: dict[str, Score] = {}
    for one in scores:
        first = labels.setdefault(one.place, one) if one.labels else one
        odd = sorted({*(first.labels or ())} ^ {*(one.labels or ())})
        if odd:
            raise InputError(
                f"expected one set of labels in the macro mean on {dataset_name(one.place)}, found {odd[0]} for one of "
                f"the runs {first.run!r} and {one.run!r} alone; evaluate them with the same labels"
            )


def _refuse_other_stores(results: Sequence[Results]) -> None:
    found: dict[str, tuple[str, Results]] = {}
    for one in results:
        for store in one.stores:
            content, first = found.setdefault(store.dataset, (store.hash, one))
            if content != store.hash:
                raise InputError(
                    f"expected one store of {store.dataset} in all results, found the hash {content[:12]} in "
                    f"{first.folder} and {store.hash[:12]} in {one.folder}; report on them separately"
                )


def _agree(baselines: Sequence[Score]) -> bool:
    """Whether a baseline of several settings is one measurement: all scores of one seed are the same."""
    values: dict[tuple[object, ...], list[float]] = {}
    for one in baselines:
        if one.value is not None:
            where = one.place, one.protocol, one.split, one.fraction, one.uncertain, one.blank, one.unit
            values.setdefault((*where, one.label, one.metric, one.pretraining_seed), []).append(one.value)
    return all(abs(a - b) < SAME_SCORE for found in values.values() for a, b in itertools.pairwise(sorted(found)))
