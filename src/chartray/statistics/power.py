"""What a comparison of two arms could have seen, and what it would take to see a difference.

The t of `statistics.arms` has, at a true difference d, a noncentral t distribution with noncentrality d / SE. The
patients' part of the variance falls as 1 / patients, the seeds' part as 1 / seeds.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from chartray.errors import InputError
from chartray.statistics.variance import SeedVariance, satterthwaite

Floats = NDArray[np.float64]
POWER = 0.8
# No more are looked for: nobody pretrains more, and no test set is larger.
_MOST_SEEDS, _MOST_ZEROS = 200, 5
# scipy's noncentral t is NaN far from its centre: a mean over this many quantiles of the estimated variance is not.
_QUANTILES = 500


class Design(NamedTuple):
    """Two arms of one study: `seeds` each, compared on `patients`.

    `patient_variance` is that of the difference from the patients, at `patients`; `seed_variance` that of one encoder
    over seeds, s². `arms` of the study have it pooled over them; 2: each its own (Welch).
    """

    patient_variance: float
    patients: int
    seed_variance: float
    seeds: int
    arms: int = 2

    def on(self, patients: int) -> "Design":
        """The same with another number of test patients."""
        return self._replace(patients=patients, patient_variance=self.patient_variance * self.patients / patients)

    @property
    def error(self) -> float:
        """Standard error of the difference."""
        return float(np.sqrt(self.patient_variance + 2 * self.seed_variance / self.seeds))

    @property
    def freedom(self) -> float:
        """Its degrees of freedom, by the same formula as an estimated difference."""
        each = self.seed_variance / self.seeds
        within = self.seeds - 1.0
        if self.arms > 2:
            seeds = SeedVariance(np.array([[2 * each]]), np.array([[self.arms * within]]))
        else:
            seeds = SeedVariance(np.array([[each], [each]]), np.array([[within], [within]]))
        people = np.array([max(self.patients - 1.0, 1.0)])
        return float(satterthwaite(np.array([self.patient_variance]), people, seeds)[0])

    def power(self, difference: float, *, alpha: float = 0.05) -> float:
        """Probability that p is at most `alpha` at this true difference."""
        return power(difference, self.error, self.freedom, alpha=alpha)

    def detectable(self, *, alpha: float = 0.05, wanted: float = POWER) -> float:
        """Smallest true difference that is shown with the `wanted` power."""
        return detectable(self.error, self.freedom, alpha=alpha, wanted=wanted)


def power(difference: float, error: float, freedom: float, *, alpha: float = 0.05) -> float:
    """Probability that a two-sided p is at most `alpha` at a true `difference`.

    >>> [round(power(each, 1.0, 1e6), 3) for each in (0.0, 1.96, 2.802)]
    [0.05, 0.5, 0.8]
    """
    if error == 0:
        return 1.0 if difference else alpha
    return _shown(abs(difference) / error, _limits(freedom, alpha))


def detectable(error: float, freedom: float, *, alpha: float = 0.05, wanted: float = POWER) -> float:
    """Smallest true difference that gives p <= `alpha` with the `wanted` power; NaN where a number is missing.

    >>> round(detectable(1.0, 1e6), 3), detectable(math.nan, 4.0)
    (2.802, nan)

    Raises:
        InputError: `alpha` or `wanted` is not between 0 and 1.
    """
    if not (0 < alpha < 1 and 0 < wanted < 1):
        raise InputError(f"expected alpha and power between 0 and 1, found {alpha:g} and {wanted:g}")
    if not np.isfinite([error, freedom]).all():
        return math.nan
    return error * _multiple(freedom, alpha, wanted)


def seeds_needed(difference: float, design: Design, *, alpha: float = 0.05, wanted: float = POWER) -> int | None:
    """Fewest seeds an arm that show a `difference` with the `wanted` power; None: these patients are too few.

    >>> seeds_needed(0.02, Design(0.005**2, 1500, 0.005**2, 3, arms=5))
    3
    """
    counts = range(2, _MOST_SEEDS + 1)
    return next((k for k in counts if design._replace(seeds=k).power(difference, alpha=alpha) >= wanted), None)


def patients_needed(difference: float, design: Design, *, alpha: float = 0.05, wanted: float = POWER) -> int | None:
    """Fewest test patients, to two digits, that show a `difference` with the `wanted` power; None: no number does.

    >>> patients_needed(0.02, Design(0.01**2, 500, 0.002**2, 3, arms=5)), patients_needed(0.001, Design(1, 9, 1, 3))
    (1100, None)
    """
    counts = [lead * 10**zeros for zeros in range(_MOST_ZEROS + 1) for lead in range(10, 100)]
    return next((n for n in counts if design.on(n).power(difference, alpha=alpha) >= wanted), None)


@lru_cache(maxsize=256)
def _limits(freedom: float, alpha: float) -> Floats:
    """The critical |t| in true standard errors, at the quantiles of the estimated one."""
    from scipy.stats import chi2, t  # a second to import: only a comparison pays for it

    shares = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
    return np.asarray(t.isf(alpha / 2, freedom) * np.sqrt(chi2.ppf(shares, freedom) / freedom))


@lru_cache(maxsize=4096)
def _multiple(freedom: float, alpha: float, wanted: float) -> float:
    """The detectable difference in standard errors."""
    from scipy.optimize import brentq

    limits = _limits(freedom, alpha)
    high = 2.0 + 2.0 * float(limits.max())
    return float(brentq(lambda away: _shown(away, limits) - wanted, 0.0, high)) if wanted > alpha else 0.0


def _shown(away: float, limits: Floats) -> float:
    """Probability that |t| exceeds its limit, its noncentrality being `away`."""
    from scipy.special import ndtr

    return float((ndtr(away - limits) + ndtr(-away - limits)).mean())
