"""The interval of a share that is 0 or 1: all patients fall on one side, so every resample of them does too.

The percentiles of such resamples are one point, which is no interval: of 12 patients whose films were all found, the
next may still be missed. Clopper and Pearson (Biometrika 26, 1934) invert the binomial test instead. Of n patients all
on one side their bounds are closed: 1 - (alpha/2)^(1/n) from the value inwards. A patient counts once, however many
films there are of it, since films of one patient are no independent trials.
"""

import math
from collections.abc import Sequence
from statistics import fmean

EXACT, BOOTSTRAP = "exact", "bootstrap"


def clopper_pearson_width(patients: Sequence[int], level: float) -> float:
    """How far the interval of a share of 0 or 1 reaches inwards.

    Args:
        patients: how many patients the share is over; of several labels whose mean is taken, of each: the bounds then
            hold together (Bonferroni), and so does their mean.
        level: of the interval, in (0, 1).

    >>> round(clopper_pearson_width([12], 0.95), 4)
    0.2646
    """
    tail = (1 - level) / 2 / len(patients)
    return fmean(1 - math.pow(tail, 1 / each) for each in patients)


def clopper_pearson_interval(value: float, patients: Sequence[int], level: float) -> tuple[float, float] | None:
    """The exact interval of a share of 0 or 1; None for any other, whose resamples differ, or without patients."""
    if value not in (0.0, 1.0) or not patients or min(patients) < 1:
        return None
    inwards = clopper_pearson_width(patients, level)
    return (0.0, inwards) if value == 0 else (1 - inwards, 1.0)
