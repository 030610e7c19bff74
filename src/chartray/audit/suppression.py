"""What it cost an encoder that variables were suppressed in its pretraining: disease AUROC against encoders without."""

from collections.abc import Sequence

import numpy as np

from chartray.audit.arms import AuditArm
from chartray.audit.attribute_probes import Resampling
from chartray.audit.attributes import Attribute
from chartray.audit.leace import DiseaseScores, disease_scores
from chartray.config.roles import SUPPRESSING, roles_in
from chartray.evaluation.baselines import Frozen
from chartray.evaluation.embed import device_of
from chartray.evaluation.image_set import ImageSet
from chartray.evaluation.scoring import EvaluationSet
from chartray.statistics import metrics
from chartray.statistics.probe import fit_probe
from chartray.wording import joined


def suppression_costs(
    arms: Sequence[AuditArm],
    train: ImageSet,
    validate: ImageSet,
    test: EvaluationSet,
    any_attribute: Attribute,
    resampling: Resampling,
    device: str,
) -> list[str]:
    """A sentence for each other run that did not suppress what the first did; none where the first suppressed nothing.

    Both encoders are scored on the same resampled patients by linear probes of the labels.
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
        probe = fit_probe(
            features.needed(train),
            train.truth,
            features.needed(validate),
            validate.truth,
            patients=train.patients,
            validation_patients=validate.patients,
            device=device_of(device),
        )
        return disease_scores(test, probe.scores(features.needed(test.image_set)), resampling)

    if not test.counted.any():
        return [f"{said}; no label has enough patients to say what it cost"]
    mine = disease(own)
    return [f"{said}: {_cost(own, mine, arm, disease(arm), resampling.level)}" for arm in others]


def suppressed(arm: AuditArm) -> list[str]:
    """The names that a run suppressed."""
    roles = roles_in(arm.arm.chart, arm.arm.use)
    return [name for role in SUPPRESSING for name in roles.get(role, [])]


def _cost(own: AuditArm, mine: DiseaseScores, other: AuditArm, theirs: DiseaseScores, level: float) -> str:
    a, b = (
        float(metrics.auroc(each.test.image_set.truth, each.scores)[each.test.counted].mean())
        for each in (mine, theirs)
    )
    drawn = mine.resampled.macro_auroc - theirs.resampled.macro_auroc
    found = metrics.difference(np.array(a - b), drawn, level)
    return (
        f"disease AUROC (mean of the labels) is {a:.3f} instead of {b:.3f} of {other.run}, difference {a - b:+.3f} "
        f"[{float(found.low):+.3f}, {float(found.high):+.3f}] (one run each; patients vary)"
    )
