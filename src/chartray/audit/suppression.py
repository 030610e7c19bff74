"""What it cost an encoder that variables were suppressed in its pretraining: disease AUROC against encoders without."""

from collections.abc import Sequence

import numpy as np

from chartray.audit.arms import AuditArm
from chartray.audit.attribute_probes import Resampling
from chartray.audit.attributes import Attribute
from chartray.audit.leace import DiseaseScores, disease_scores
from chartray.config.roles import SUPPRESSING, roles_in
from chartray.evaluation.baselines import Frozen, fitted_probe
from chartray.evaluation.image_set import ImageSet
from chartray.statistics import metrics
from chartray.statistics.arms import difference_of_measured
from chartray.statistics.variance import MeasuredArm
from chartray.wording import joined


def suppression_costs(
    arms: Sequence[AuditArm],
    mine: DiseaseScores,
    train: ImageSet,
    validate: ImageSet,
    any_attribute: Attribute,
    resampling: Resampling,
    device: str,
) -> list[str]:
    """A sentence for each other run that did not suppress what the first did; none where the first suppressed nothing.

    `mine` are the disease scores of the first. Both encoders are scored on the same resampled patients, by linear
    probes of the labels, and compared as any two arms are (`statistics.arms`).
    """
    own, names = arms[0], suppressed(arms[0])
    if not names:
        return []
    said = f"{joined(names)} {'was' if len(names) == 1 else 'were'} suppressed in the pretraining of {own.run}"
    others = [arm for arm in arms[1:] if arm.provenance is not None and not set(names) & set(suppressed(arm))]
    if not others:
        return [f"{said}; name a run without that role after --against to see what it cost"]

    def disease(arm: AuditArm) -> DiseaseScores:
        features = arm.features(any_attribute)
        assert isinstance(features, Frozen)  # of a run, whatever the attribute
        probe = fitted_probe(features.needed(train), features.needed(validate), train, validate, device)
        return disease_scores(mine.test, probe.scores(features.needed(mine.test.image_set)), resampling)

    if not mine.test.counted.any():
        return [f"{said}; no label has enough patients to say what it cost"]
    return [f"{said}: {_cost(own, mine, arm, disease(arm), resampling.level)}" for arm in others]


def suppressed(arm: AuditArm) -> list[str]:
    """The names that a run suppressed."""
    roles = roles_in(arm.arm.chart, arm.arm.use)
    return [name for role in SUPPRESSING for name in roles.get(role, [])]


def _cost(own: AuditArm, mine: DiseaseScores, other: AuditArm, theirs: DiseaseScores, level: float) -> str:
    a, b = (_measured(each) for each in (mine, theirs))
    patients = len(np.unique(mine.test.image_set.patients))
    found = difference_of_measured(a, b, patients=patients, level=level)
    return (
        f"disease AUROC (mean of the labels) is {a.values.item():.3f}, that of {other.run} {b.values.item():.3f}: "
        f"difference {found.value.item():+.3f} [{found.low.item():+.3f}, {found.high.item():+.3f}] (one run each; only "
        "the patients vary)"
    )


def _measured(found: DiseaseScores) -> MeasuredArm:
    """The mean AUROC of the labels, of one seed and one draw."""
    value = metrics.auroc(found.test.image_set.truth, found.scores)[found.test.counted].mean()
    return MeasuredArm(value.reshape(1, 1, 1), found.resampled.macro_auroc.reshape(1, 1, -1, 1))
