"""Clopper and Pearson's interval of a share of 0 or 1 (Biometrika 26, 1934).

Where all patients fall on one side, all resamples do too, and the bootstrap gives an interval without width. Of 12
patients who were all found, the next may still be missed. The exact interval inverts the binomial test instead. A
patient counts once: several images of one patient are not independent trials.
"""

from collections.abc import Sequence
from statistics import fmean

EXACT, BOOTSTRAP = "exact", "bootstrap"


def clopper_pearson_width(patients: Sequence[int], level: float) -> float:
    """Width of the interval of a share of 0 or 1; the other end of the interval is the share itself.

    Args:
        patients: number of patients; for the mean over labels, of each label. The intervals of the labels then hold
            together (Bonferroni), and so does their mean.
        level: of the interval, in (0, 1).

    >>> round(clopper_pearson_width([12], 0.95), 4)
    0.2646
    """
    from scipy.stats import binomtest  # a second to import: only an interval at the edge pays for it

    each = 1 - (1 - level) / len(patients)
    return fmean(binomtest(0, n).proportion_ci(each, method="exact").high for n in patients)
