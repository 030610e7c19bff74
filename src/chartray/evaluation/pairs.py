"""What `compare` sets against each other on one data set: every two arms, and every arm and its baselines."""

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from chartray.config.evaluate import CompareOptions
from chartray.errors import InputError
from chartray.evaluation.comparable import EvaluatedRun, Sheet, Sheets
from chartray.evaluation.differences import Pair
from chartray.evaluation.scoring import Scored, judged
from chartray.results.arm import IMAGE_CHART, Arm

Floats = NDArray[np.float64]


class ComparedArm(NamedTuple):
    """One side of a comparison: an arm, or a baseline of it, by its name; the runs that it was scored with."""

    name: str
    arm: Arm
    runs: Sequence[EvaluatedRun]


class ComparedSet(NamedTuple):
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

    @property
    def where(self) -> tuple[str, float]:
        """The data set and the fraction."""
        return self.dataset, self.fraction

    @property
    def draws(self) -> int:
        """How many draws of training patients probes learnt from."""
        return len(next(iter(self.sheets.values())).own[self.where].scores)

    def over(self, labels: Collection[str]) -> "ComparedSet":
        """The same with the macro mean over those of `labels` that it counts."""
        counted = self.counted & np.isin(self.sheet.labels, list(labels))
        return self if (counted == self.counted).all() else self._replace(counted=counted, known={})

    def scores(self, run: EvaluatedRun, arm: Arm) -> Floats | None:
        """Scores (D, N, C) of a run, or of a baseline that was scored with it; None where it was not scored here."""
        own, baselines = self.sheets[run.folder]
        found = (baselines.get(arm, {}) if arm.is_baseline else own).get(self.where)
        return None if found is None else found.scores

    def parts(self, side: ComparedArm) -> list[list[Scored]]:
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


class ComparedPair(NamedTuple):
    """Two sides, and what each of them reached."""

    a: ComparedArm
    b: ComparedArm
    reached: Pair


def pairs_of(
    arms: Mapping[str, Sequence[EvaluatedRun]], runs: Sequence[EvaluatedRun], on: ComparedSet
) -> Iterator[ComparedPair]:
    """Every arm with every later one, then every arm with each baseline that was scored with it.

    Raises InputError where seeds are to be paired and two arms share none.
    """
    sides = [ComparedArm(name, members[0].arm, in_order(members)) for name, members in arms.items()]
    for a, b in itertools.combinations(sides, 2):
        yield _pair(a, b, [side for side in sides if side.name not in (a.name, b.name)], on)
    for side in sides:
        for baseline, ours in _baselines(side, runs, on):
            others = [one for one in sides if one.name != side.name]
            yield _pair(side._replace(runs=ours), baseline, others, on)


def _baselines(
    side: ComparedArm, runs: Sequence[EvaluatedRun], on: ComparedSet
) -> Iterator[tuple[ComparedArm, Sequence[EvaluatedRun]]]:
    """Every baseline that was scored with an arm, and the runs of the arm that are set against it.

    A baseline that no seed enters is one, whatever run it was scored with. Of the untrained encoder, every run with
    these settings brings an initialisation; equal scores are of one. Image + chart reads the embedding of its own run.
    """
    for arm in dict.fromkeys(arm for run in side.runs for arm in on.sheets[run.folder].baselines):
        ours = [run for run in side.runs if on.scores(run, arm) is not None]
        if not ours:
            continue
        if arm.is_fixed:
            yield ComparedArm(arm.title, arm, ours[:1]), side.runs
        elif arm.control == IMAGE_CHART:
            yield ComparedArm(arm.title, arm, ours), ours
        else:
            others = [run for run in runs if run not in ours and on.scores(run, arm) is not None]
            different: list[tuple[EvaluatedRun, Floats]] = []
            for run in (*ours, *others):
                scores = on.scores(run, arm)
                if scores is not None and not any(
                    run.seed == each.seed or np.array_equal(scores, its) for each, its in different
                ):
                    different.append((run, scores))
            yield ComparedArm(arm.title, arm, in_order(run for run, _ in different)), side.runs


def _pair(a: ComparedArm, b: ComparedArm, others: Sequence[ComparedArm], on: ComparedSet) -> ComparedPair:
    """The seed variance is pooled over `others` of the recipe of both."""
    shared = {run.seed for run in a.runs} & {run.seed for run in b.runs}
    own = b.arm.control == IMAGE_CHART  # of the very runs of a: paired, whatever the study says
    paired = own or (on.options.pair_seeds and not b.arm.is_baseline)
    if paired and not own and not shared:
        raise InputError(f"expected seeds that {a.name} and {b.name} share, found none; leave out --pair-seeds")
    if paired and not own:
        a, b = (side._replace(runs=[run for run in side.runs if run.seed in shared]) for side in (a, b))
    pooled = [] if own else [side for side in others if side.arm.differs_in_chart_alone(a.arm)]
    pooled = pooled if b.arm.is_baseline or a.arm.differs_in_chart_alone(b.arm) else []
    reached = Pair(
        on.parts(a),
        on.parts(b),
        on.sheet.truth,
        on.sheet.patients,
        others=[on.parts(side) for side in pooled if len(side.runs) > 1],
        pair_seeds=paired,
        fixed_b=b.arm.is_fixed,
        alone_b=b.arm.is_baseline,
    )
    return ComparedPair(a, b, reached)


def in_order(runs: Iterable[EvaluatedRun]) -> list[EvaluatedRun]:
    """By seed."""
    return sorted(runs, key=lambda run: run.seed or 0)
