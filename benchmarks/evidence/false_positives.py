"""How often intervals of a difference exclude zero: for two arms that differ by chance alone, and for an effect.

    python benchmarks/evidence/false_positives.py [--data-sets 1000] [--effect 0]

Patients are simulated. The seeds of both arms come from one distribution: the true difference is 0, unless `--effect`
says by how much the second arm separates better. The table compares ways to treat the seeds.
"""

import argparse

import numpy as np

from chartray.statistics.hierarchical_bootstrap import hierarchical_bootstrap
from chartray.statistics.metrics import difference, resample

RESAMPLES = 400
PATIENTS = 150


def scores(rng: np.random.Generator, truth: np.ndarray, shared: np.ndarray, seeds: int, spread: float) -> np.ndarray:
    """(S, N): an image is as hard for every seed (`shared`); seeds differ in how well they separate (`spread`)."""
    skill = 1 + spread * rng.normal(size=(seeds, 1))
    return skill * truth + shared + 0.5 * rng.normal(size=(seeds, len(truth)))


def ways(drawn: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Resamples (R,) of the mean difference over seeds, from those of each seed (S, R)."""
    rng = np.random.default_rng((7, seed))
    members = rng.integers(0, len(drawn), size=(drawn.shape[1], len(drawn)))
    mean = drawn.mean(axis=0)
    distance = hierarchical_bootstrap(np.full_like(mean, mean.mean()), [drawn], seed=seed) - mean.mean()
    return {
        "patients alone": mean,
        "seeds with replacement": drawn[members, np.arange(drawn.shape[1])[:, None]].mean(axis=1),
        "Student's t": mean + distance,
        "Student's t, interaction counted once (used)": hierarchical_bootstrap(mean, [drawn], seed=seed),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-sets", type=int, default=1000)
    parser.add_argument("--effect", type=float, default=0.0)
    arguments = parser.parse_args()
    print("| seeds | their spread | way | p < 0.05 | p < 0.01 |\n|---|---|---|---|---|")
    for seeds, spread in ((3, 0.0), (3, 0.1), (3, 0.2), (3, 0.4), (5, 0.0), (5, 0.1), (5, 0.4), (10, 0.4)):
        found: dict[str, list[float]] = {}
        for one in range(arguments.data_sets):
            rng = np.random.default_rng((one, seeds, int(spread * 10)))
            truth = (rng.random(PATIENTS) < 0.3).astype(float)
            shared = rng.normal(size=PATIENTS)
            drawn = []
            for side in range(2):
                its = scores(rng, truth, shared, seeds, spread) + side * arguments.effect * truth
                labels = np.repeat(truth[:, None], seeds, axis=1)  # every seed a column: one call resamples them all
                result = resample(labels, its.T, np.arange(PATIENTS), resamples=RESAMPLES, seed=one)
                drawn.append(result.auroc.T)
            for way, each in ways(drawn[0] - drawn[1], one).items():
                found.setdefault(way, []).append(float(difference(0.0, each).p))
        for way, p in found.items():
            shares = " | ".join(f"{np.mean(np.array(p) < level):.3f}" for level in (0.05, 0.01))
            print(f"| {seeds} | {spread:g} | {way} | {shares} |", flush=True)


if __name__ == "__main__":
    main()
