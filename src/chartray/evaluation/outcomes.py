"""What the arms of one evaluation reached: every draw's scores, what they are worth, and the mean over draws."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from chartray.config.evaluate import EvaluateOptions
from chartray.evaluation.baselines import Learnt, Tell
from chartray.evaluation.evaluation_data import Task
from chartray.evaluation.image_set import ImageSet
from chartray.evaluation.rows import ONE_CLASS_TRAINING
from chartray.evaluation.scoring import EvaluationSet, LabelFit, Scored, choose_thresholds, over_draws, score
from chartray.evaluation.studies import Studies, by_study
from chartray.results.arm import Arm

Floats = NDArray[np.float64]


class SubsetScores(NamedTuple):
    """What one subset of the training patients reached on one test set: scores (N, C of the probe) of its images, what
    they are worth by image and by study (None: no study has two images), and how each label was fitted.
    """

    scores: Floats
    images: Scored
    studies: Scored | None
    fits: list[LabelFit]


class Outcome(NamedTuple):
    """What one arm reached on one test set from one fraction of the training patients: each draw's, and the mean."""

    arm: Arm
    fraction: float
    test: EvaluationSet
    studies: Studies | None
    drawn: list[SubsetScores]
    scored: Scored
    fits: list[LabelFit]


class Learning(NamedTuple):
    """What an arm learnt from one draw of the training patients, and the images it learnt and chose on."""

    train: ImageSet
    validate: ImageSet
    learnt: Learnt


def outcomes_of(
    arm: Arm,
    fraction: float,
    task: Task,
    learnings: Sequence[Learning],
    studies: Sequence[Studies | None],
    settings: EvaluateOptions,
    tell: Tell,
) -> list[Outcome]:
    """Scores of one arm become values, resamples and reasons, test set by test set; a `Learning` for each draw."""
    found = []
    for place, (test, grouped) in enumerate(zip(task.tests, studies, strict=True)):
        tell(f"resample the patients of {test.dataset}, {test.image_set.split}, {settings.resamples:,} times")
        drawn = [
            _drawn(each, scores, test, grouped, settings)
            for each in learnings
            if (scores := each.learnt.scores[place]) is not None
        ]
        if drawn:
            scored = over_draws([each.images for each in drawn])
            found.append(Outcome(arm, fraction, test, grouped, drawn, scored, _over_fits([d.fits for d in drawn])))
    return found


def _drawn(
    learning: Learning, scores: Floats, test: EvaluationSet, studies: Studies | None, settings: EvaluateOptions
) -> SubsetScores:
    train, validate, learnt = learning
    fits = [
        fit if able else fit._replace(reason=ONE_CLASS_TRAINING, draws_without_probe=1)
        for fit, able in zip(learnt.fits, train.learnable, strict=True)
    ]

    def scored(of: EvaluationSet, these: Floats, thresholds: Floats | None) -> Scored:
        options = (settings.resamples, settings.seed, settings.level)
        return score(of, these, resamples=options[0], seed=options[1], level=options[2], thresholds=thresholds)

    images = scored(test, scores, _thresholds(validate, learnt))
    if studies is None:
        return SubsetScores(scores, images, None, fits)
    # A study's score is a mean of scores, which spreads less: its threshold is chosen on studies too.
    limits = _thresholds(validate, learnt, by_study(validate))
    return SubsetScores(scores, images, scored(studies.of(test), studies.mean(scores), limits), fits)


def _thresholds(validate: ImageSet, learnt: Learnt, studies: Studies | None = None) -> Floats | None:
    if learnt.validation is None:
        return None
    if studies is None:
        return choose_thresholds(validate.truth, learnt.validation)
    return choose_thresholds(studies.image_set.truth, studies.mean(learnt.validation))


def _over_fits(subsets: Sequence[list[LabelFit]]) -> list[LabelFit]:
    """How each label was fitted in all subsets: what all share, None where they differ, every `chosen_by`."""
    if len(subsets) == 1:
        return subsets[0]
    found = []
    for each in zip(*subsets, strict=True):
        same = {
            name: values.pop() if len(values := {getattr(fit, name) for fit in each}) == 1 else None
            for name in ("strength", "validation_auroc", "neighbours", "best_epoch")
        }
        by = sorted({fit.chosen_by for fit in each if fit.chosen_by is not None})
        alike = sum(fit.draws_without_probe for fit in each)
        some = "" if alike == len(each) else f" in {alike} of {len(each)} training subsets"
        reason = ONE_CLASS_TRAINING + some if alike else None
        found.append(LabelFit(**same, chosen_by=" or ".join(by) or None, draws_without_probe=alike, reason=reason))
    return found
