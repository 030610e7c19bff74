"""What the arms of one evaluation reached: every draw's scores, what they are worth, and the mean over draws."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from chartray.config.evaluate import EvaluateOptions
from chartray.evaluation.baselines import Arm, Learnt
from chartray.evaluation.evaluation_data import Task
from chartray.evaluation.films import Films
from chartray.evaluation.rows import ONE_CLASS_TRAINING
from chartray.evaluation.scoring import EvaluationSet, Scored, choose_thresholds, over_draws, score
from chartray.evaluation.studies import Studies, by_study

Floats = NDArray[np.float64]


class Drawn(NamedTuple):
    """What one draw of the training patients reached on one test set: scores (N, C of the probe) of its films, what
    they are worth by film and by study (None: no study has two films), and what rows say of each label.
    """

    scores: Floats
    films: Scored
    studies: Scored | None
    notes: list[dict[str, Any]]


class Outcome(NamedTuple):
    """What one arm reached on one test set from one fraction of the training patients: each draw's, and the mean."""

    arm: Arm
    fraction: float
    test: EvaluationSet
    studies: Studies | None
    drawn: list[Drawn]
    scored: Scored
    notes: list[dict[str, Any]]


class Learning(NamedTuple):
    """What an arm learnt from one draw of the training patients, and the films it learnt and chose on."""

    train: Films
    validate: Films
    learnt: Learnt


def outcomes_of(
    arm: Arm,
    fraction: float,
    task: Task,
    learnings: Sequence[Learning],
    studies: Sequence[Studies | None],
    settings: EvaluateOptions,
) -> list[Outcome]:
    """Scores of one arm become values, resamples and reasons, test set by test set; a `Learning` for each draw."""
    found = []
    for place, (test, grouped) in enumerate(zip(task.tests, studies, strict=True)):
        drawn = [
            _drawn(each, scores, test, grouped, settings)
            for each in learnings
            if (scores := each.learnt.scores[place]) is not None
        ]
        if drawn:
            scored = over_draws([each.films for each in drawn], seed=settings.seed)
            found.append(Outcome(arm, fraction, test, grouped, drawn, scored, _over_notes([d.notes for d in drawn])))
    return found


def _drawn(
    learning: Learning, scores: Floats, test: EvaluationSet, studies: Studies | None, settings: EvaluateOptions
) -> Drawn:
    train, validate, learnt = learning
    both = (train.truth == 1).any(axis=0) & (train.truth == 0).any(axis=0)
    notes = [
        note | ({} if able else {"reason": ONE_CLASS_TRAINING})
        for note, able in zip(learnt.notes, both.tolist(), strict=True)
    ]
    options: dict[str, Any] = {"resamples": settings.resamples, "seed": settings.seed, "level": settings.level}
    films = score(test, scores, thresholds=_thresholds(validate, learnt), **options)
    if studies is None:
        return Drawn(scores, films, None, notes)
    # A study's score is a mean of scores, which spreads less: its threshold is chosen on studies too.
    limits = _thresholds(validate, learnt, by_study(validate))
    return Drawn(scores, films, score(studies.of(test), studies.mean(scores), thresholds=limits, **options), notes)


def _thresholds(validate: Films, learnt: Learnt, studies: Studies | None = None) -> Floats | None:
    if learnt.validation is None:
        return None
    if studies is None:
        return choose_thresholds(validate.truth, learnt.validation)
    return choose_thresholds(studies.films.truth, studies.mean(learnt.validation))


def _over_notes(notes: Sequence[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """What rows over several draws say of each label: what all draws say, null where they differ, every `chosen_by`."""
    if len(notes) == 1:
        return notes[0]
    found = []
    for each in zip(*notes, strict=True):
        names = dict.fromkeys(name for note in each for name in note if name != "reason")
        merged: dict[str, Any] = {}
        for name in names:
            values = list(dict.fromkeys(note.get(name) for note in each))
            merged[name] = values[0] if len(values) == 1 else None
            if name == "chosen_by":
                merged[name] = " or ".join(sorted(values))
        alike = sum("reason" in note for note in each)
        if alike:
            some = "" if alike == len(each) else f" in {alike} of {len(each)} draws"
            merged["reason"] = ONE_CLASS_TRAINING + some
        found.append(merged)
    return found
