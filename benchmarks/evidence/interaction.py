"""False positives of `statistics.interaction`: a table of docs/statistics.md.

    python -m benchmarks.evidence.interaction [--studies 2400]

Two arms differ by the same on every data set. Values of a seed are normal; its variance is a multiple of the variance
that the patients give the difference of two arms on the first data set, or 0, and is correlated between data sets. The
variance from the patients is known; it is 1, 1/2, 2 and 1 on the data sets. A cell of the table is the range over all
multiples and correlations.
"""

import argparse
import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from chartray.statistics.interaction import DifferenceInSet, interaction
from chartray.statistics.variance import MeasuredArm

Floats = NDArray[np.float64]
MULTIPLES, CORRELATIONS = (0.0, 0.3, 1.0, 4.0, 16.0), (0.0, 0.5, 0.9)
OF_PATIENTS = (1.0, 0.5, 2.0, 1.0)
# Resamples of a variance that is known, and patients by whom it is.
RESAMPLES, PATIENTS = 60, 10**6


def in_set(a: Floats, b: Floats, patients: float, others: Sequence[Floats] = ()) -> DifferenceInSet:
    """Values (K, L) of both arms on a data set; `patients` is the variance that the patients give the difference."""
    spread = np.random.default_rng(0).normal(size=RESAMPLES)
    spread = np.sqrt(patients) * (spread - spread.mean()) / spread.std(ddof=1)
    arms = (
        MeasuredArm(arm[:, None], np.broadcast_to(each[None, None, :, None], (len(arm), 1, RESAMPLES, arm.shape[1])))
        for each, arm in ((spread, a), (0 * spread, b))
    )
    return DifferenceInSet(*arms, patients=PATIENTS, others=others)


def false_positives(
    rng: np.random.Generator, studies: int, *, sets: int, seeds: int, arms: int, multiple: float, correlation: float
) -> float:
    """The share of `studies` with p < .05."""
    shared = [rng.normal(size=(seeds, studies)) for _ in range(arms)]
    found = []
    for size in OF_PATIENTS[:sets]:
        values = [
            np.sqrt(multiple) * (np.sqrt(correlation) * each + np.sqrt(1 - correlation) * rng.normal(size=each.shape))
            for each in shared
        ]
        values[0] = values[0] + np.sqrt(size) * rng.normal(size=studies)
        found.append(in_set(values[0], values[1], size, tuple(values[2:])))
    return float((interaction(found).p < 0.05).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=2400)
    arguments = parser.parse_args()
    print("| seeds | 2 data sets | 3 data sets | 4 data sets |\n|---|---|---|---|", flush=True)
    for arms, seeds in itertools.product((2, 5), (3, 5)):
        cells = []
        for sets in (2, 3, 4):
            found = [
                false_positives(
                    np.random.default_rng((arms, seeds, sets, place)),
                    arguments.studies,
                    sets=sets,
                    seeds=seeds,
                    arms=arms,
                    multiple=multiple,
                    correlation=correlation,
                )
                for place, (multiple, correlation) in enumerate(itertools.product(MULTIPLES, CORRELATIONS))
                if multiple or not correlation
            ]
            cells.append(f"{min(found):.3f} to {max(found):.3f}")
        print(
            f"| {seeds}, {'two arms' if arms == 2 else f'pooled over {arms} arms'} | {' | '.join(cells)} |", flush=True
        )


if __name__ == "__main__":
    main()
