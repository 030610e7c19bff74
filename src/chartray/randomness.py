"""Random numbers as a pure function of their coordinates: no generator, no state, the same on every rank.

`uniform(seed, step, rows, ...)` hashes its integer coordinates with SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
"""

import numpy as np
import numpy.typing as npt

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def uniform(*coordinates: int | npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Uniform numbers in [0, 1), one for each combination of the broadcast integer coordinates (each >= 0).

    >>> bool(uniform(0, 7, np.arange(3))[2] == uniform(0, 7, 2))
    True
    """
    state = np.zeros((), np.uint64)
    with np.errstate(over="ignore"):
        for coordinate in coordinates:
            state = _mix(state * _MIX_1 + np.asarray(coordinate).astype(np.uint64) + _GOLDEN)
    return (state >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permutation(size: int, *coordinates: int) -> npt.NDArray[np.int64]:
    """A permutation of 0 ... `size` - 1, a pure function of the coordinates."""
    return np.argsort(uniform(*coordinates, np.arange(size)), kind="stable").astype(np.int64)


def _mix(state: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    state = (state ^ (state >> np.uint64(30))) * _MIX_1
    state = (state ^ (state >> np.uint64(27))) * _MIX_2
    return state ^ (state >> np.uint64(31))
