"""Different things under one name are told apart, or refused, before anything is averaged over seeds."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from chartray.errors import InputError
from chartray.report.arms import Arm
from chartray.report.inputs import Results, Run
from chartray.report.rows import Bin, Comparison, Score, shown

# Two scores of one thing may differ by less than is printed: arithmetic on another device.
SAME_SCORE = 1e-3


class Naming(NamedTuple):
    """What must be said so that no two different things share a name.

    `arms` gives arms of several settings their hash in the title, and floors that agree over settings one name;
    `homes` are the data sets that several probes were scored on; `recorded` fills the split and label policies of
    comparisons that record none, where all scores share one.
    """

    arms: dict[Arm, Arm]
    homes: frozenset[str]
    recorded: dict[str, Any]

    def arm(self, one: Arm) -> Arm:
        """Its name in the report."""
        return self.arms.get(one, one)

    def score(self, one: Score) -> Score:
        """`one` under the names of the report."""
        return one._replace(arm=self.arm(one.arm), home=one.home if one.dataset in self.homes else "")

    def bin(self, one: Bin) -> Bin:
        """`one` under the names of the report."""
        return one._replace(arm=self.arm(one.arm), home=one.home if one.dataset in self.homes else "")

    def comparison(self, one: Comparison) -> Comparison:
        """`one` under the names of the report."""
        home = one.home if one.dataset in self.homes else ""
        filled = {name: value for name, value in self.recorded.items() if not getattr(one, name)}
        return one._replace(a=self.arm(one.a), b=self.arm(one.b), home=home, **filled)


def naming(scores: Sequence[Score], comparisons: Sequence[Comparison], arms: Iterable[Arm] = ()) -> Naming:
    """The names for a report on these; `arms` are those of runs without scores."""
    every = {*arms, *(one.arm for one in scores), *(side for one in comparisons for side in (one.a, one.b))}
    homes: dict[str, set[str]] = {}
    scored, compared = ([(one.dataset, one.home) for one in of] for of in (scores, comparisons))
    for dataset, home in [*scored, *compared]:
        homes.setdefault(dataset, set()).add(home)
    shared = {}
    for name in ("split", "uncertain", "blank"):
        found = {getattr(score, name) for score in scores}
        if len(found) == 1:
            shared[name] = found.pop()
    return Naming(
        _arm_names(every, scores), frozenset(dataset for dataset, found in homes.items() if len(found) > 1), shared
    )


def told_apart(
    scores: Sequence[Score], comparisons: Sequence[Comparison]
) -> tuple[list[Score], list[Comparison], Naming]:
    """Scores and comparisons under names that tell them apart."""
    names = naming(scores, comparisons)
    return [names.score(one) for one in scores], [names.comparison(one) for one in comparisons], names


def report_names(runs: Sequence[Run], results: Sequence[Results]) -> tuple[list[Run], list[Results]]:
    """Runs and results under names that tell them apart.

    Raises InputError where one data set stands for stores of different content.
    """
    _refuse_other_stores(results)
    names = naming(
        [score for one in results for score in one.scores],
        [pair for one in results for pair in one.comparisons],
        [run.arm for run in runs],
    )
    named = [
        replace(
            one,
            scores=[names.score(score) for score in one.scores],
            comparisons=[names.comparison(pair) for pair in one.comparisons],
            studies=[names.score(score) for score in one.studies],
            calibration=[names.bin(point) for point in one.calibration],
        )
        for one in results
    ]
    return [replace(run, arm=names.arm(run.arm)) for run in runs], named


def refuse_another_value(first: Score, second: Score) -> None:
    """Raises InputError where two scores of one thing differ: showing one of them would hide the other."""
    values = first.value, second.value
    if values[0] == values[1] or (None not in values and abs(values[0] - values[1]) < SAME_SCORE):  # type: ignore[operator]
        return
    raise InputError(
        f"expected one {first.metric} of {first.label} on {shown(first.place)} ({first.split}) for each run of "
        f"{first.arm.title}, found {values[0]} and {values[1]} for run {first.run!r}, seed {first.seed}; "
        "report on one evaluation of it at a time"
    )


def refuse_other_macro_labels(scores: Sequence[Score]) -> None:
    """Raises InputError where a data set's macro means are over different labels; `scores` are of one selection."""
    labels: dict[str, Score] = {}
    for one in scores:
        first = labels.setdefault(one.place, one) if one.labels else one
        odd = sorted(set(first.labels) ^ set(one.labels))
        if odd:
            raise InputError(
                f"expected one set of labels in the macro mean on {shown(one.place)}, found {odd[0]} for one of the "
                f"runs {first.run!r} and {one.run!r} alone; evaluate them with the same labels"
            )


def _refuse_other_stores(results: Sequence[Results]) -> None:
    found: dict[str, tuple[str, Results]] = {}
    for one in results:
        for store in one.evaluation.get("stores") or []:
            content, first = found.setdefault(str(store["dataset"]), (str(store.get("hash")), one))
            if content != str(store.get("hash")):
                raise InputError(
                    f"expected one store of {store['dataset']} in all results, found the hash {content[:12]} in "
                    f"{first.folder} and {str(store.get('hash'))[:12]} in {one.folder}; report on them apart"
                )


def _arm_names(arms: Iterable[Arm], scores: Sequence[Score]) -> dict[Arm, Arm]:
    """The settings are in the title where arms differ in nothing else."""
    groups: dict[Arm, set[Arm]] = {}
    for arm in arms:
        groups.setdefault(arm._replace(settings="", named=False), set()).add(arm)
    found: dict[Arm, Arm] = {}
    for plain, members in groups.items():
        if len(members) == 1:
            continue
        one_floor = plain.control in ("untrained", "pixels") and _agree([one for one in scores if one.arm in members])
        found |= {arm: plain if one_floor else arm._replace(named=True) for arm in members}
    return found


def _agree(floors: Sequence[Score]) -> bool:
    """Whether a floor scored beside several settings is one measurement: all scores of one seed are the same."""
    key = Score._fields.index("value")
    values: dict[tuple[Any, ...], list[float]] = {}
    for one in floors:
        if one.value is not None:
            plain = {"run": "", "reason": None} | dict.fromkeys(
                ("low", "high", "delong_low", "delong_high", "threshold")
            )
            same = one._replace(arm=Arm("none"), **plain)
            values.setdefault((*same[:key], *same[key + 1 :]), []).append(one.value)
    return all(abs(a - b) < SAME_SCORE for found in values.values() for a, b in itertools.pairwise(sorted(found)))
