"""False positives of `statistics.arms` for baselines that no seed enters, and for fractions of the training patients.

    python -m benchmarks.evidence.baselines_and_draws [--studies 400] [--resamples 100] [--cell auroc,0,2 ...]

As benchmarks.evidence.seeds simulates, AUROC .8 in both arms. A baseline that no seed enters is one encoder. Of a
fraction, both arms learn from the same draws: a draw moves the true AUROC of all encoders by a common amount, of each
arm by its own, and of each encoder by its own, all with the SD given, in patient SEs; seeds have an SD of 1 SE.
"""

import argparse
from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from benchmarks.evidence.seeds import (
    AUROC,
    OF_ARM,
    OF_ENCODER,
    SimulatedSet,
    auroc_for,
    patient_error,
    separation_of,
    share,
)
from chartray.statistics.arms import Metric, difference_of_arms

Floats = NDArray[np.float64]
TEST = SimulatedSet(120, 4)
SPREADS = (0.0, 1.0, 3.0)


def simulated(
    rng: np.random.Generator, seeds: Sequence[int], draws: int, *, of_seeds: float, of_draws: float, fixed_b: bool
) -> tuple[list[list[Floats]], Floats, NDArray[np.int64]]:
    """Scores of each arm, one (D, N, C) a seed; truth and patients."""
    patients = np.repeat(np.arange(TEST.patients), rng.integers(1, TEST.most_images + 1, size=TEST.patients))
    truth = (rng.random((TEST.patients, TEST.labels)) < TEST.prevalence).astype(np.float64)[patients]

    def noise(variance: float) -> Floats:
        by_patient, by_image = rng.normal(size=(TEST.patients, TEST.labels)), rng.normal(size=truth.shape)
        return np.asarray(np.sqrt(variance / 2) * (by_patient[patients] + by_image))

    everywhere, common = noise(1 - OF_ARM - OF_ENCODER), rng.normal(size=(draws, 1, TEST.labels))
    arms = []
    for place, members in enumerate(seeds):
        base, its = everywhere + noise(OF_ARM), rng.normal(size=common.shape)
        found = []
        for _ in range(members):
            moved = of_draws * (common + its + rng.normal(size=common.shape)) if draws > 1 else 0 * common
            moved = moved + (0 if fixed_b and place else of_seeds * rng.normal(size=TEST.labels))
            own = base + noise(OF_ENCODER / 2)
            each = np.stack([noise(OF_ENCODER / 2) for _ in range(draws)])
            found.append(own + each + truth * separation_of(AUROC + moved))
        arms.append(found)
    return arms, truth, patients


@cache
def _unit(metric: Metric) -> float:
    return patient_error(metric, TEST)


def rate(
    metric: Metric,
    seeds: Sequence[int],
    draws: int,
    spread: float,
    *,
    studies: int,
    resamples: int,
    fixed_b: bool,
    stream: int = 0,
) -> str:
    """Share of labels with p < .05; `spread` is of the seeds for one draw, else of the draws."""
    unit = auroc_for(metric, _unit(metric), TEST.prevalence)
    of_seeds, of_draws = (spread * unit, 0.0) if draws == 1 else (unit, spread * unit)
    found = []
    for index in range(-(-studies // TEST.labels)):
        rng = np.random.default_rng((index, draws, fixed_b, *seeds, *[stream] * (stream > 0)))
        (a, b, *others), truth, patients = simulated(
            rng, seeds, draws, of_seeds=of_seeds, of_draws=of_draws, fixed_b=fixed_b
        )
        each = difference_of_arms(
            a, b, truth, patients, metric=metric, resamples=resamples, other_arms=others, fixed_b=fixed_b
        )
        found.append(each.p[:-1] < 0.05)
    return share(np.concatenate(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=400)
    parser.add_argument("--resamples", type=int, default=100)
    parser.add_argument("--cell", nargs="+", help="metric,SD,design from 0: these alone, with a stream of their own")
    arguments = parser.parse_args()
    designs = (
        ("3 seeds against a baseline that no seed enters", (3, 1), 1, True),
        ("5 seeds against such a baseline", (5, 1), 1, True),
        ("3 seeds against 3 initialisations", (3, 3), 1, False),
        ("5 draws, 3 seeds", (3, 3), 5, False),
        ("5 draws, 5 seeds", (5, 5), 5, False),
        ("5 draws, 3 seeds against a baseline that no seed enters", (3, 1), 5, True),
        ("5 draws, 3 seeds, pooled over 4 arms", (3,) * 4, 5, False),
    )
    for cell in arguments.cell or ():
        metric, spread, place = cell.split(",")
        title, seeds, draws, fixed = designs[int(place)]
        found = rate(
            "auroc" if metric == "auroc" else "average_precision",
            seeds,
            draws,
            float(spread),
            studies=arguments.studies,
            resamples=arguments.resamples,
            fixed_b=fixed,
            stream=1,
        )
        print(f"| {metric}, {title}, {spread} SE | {found} |", flush=True)
    if arguments.cell:
        return
    metrics: tuple[Metric, ...] = ("auroc", "average_precision")
    for metric in metrics:
        print(f"\n| {metric}: share with p < .05 | " + " | ".join(f"{spread:g} SE" for spread in SPREADS) + " |")
        print("|---" * (len(SPREADS) + 1) + "|", flush=True)
        for title, seeds, draws, fixed in designs:
            cells = [
                rate(
                    metric,
                    seeds,
                    draws,
                    spread,
                    studies=arguments.studies,
                    resamples=arguments.resamples,
                    fixed_b=fixed,
                )
                for spread in SPREADS
            ]
            print(f"| {title} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
