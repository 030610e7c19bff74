"""False positives, coverage and power of `statistics.arms` on simulated studies: the tables of docs/statistics.md.

    python -m benchmarks.evidence.seeds [--studies 400] [--resamples 100] [--part equal] [--metric auroc]

Scores of images with the finding are normal with mean `separation`, those of others with mean 0; both have variance 1,
of which .9 is shared by all encoders, .04 by the seeds of an arm, and .06 belongs to one encoder. Half of each part
belongs to the patient, half to the image. The true AUROC of a label is normal over seeds. Labels are independent, so
each is a study of its own. The SD over seeds is in patient SEs: the SD, over test sets, of the difference of two
encoders of the same true AUROC.
"""

import argparse
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from chartray.statistics.arms import ArmDifference, Metric, difference_of_arms
from chartray.statistics.equivalence import equivalence
from chartray.statistics.metrics import auroc, average_precision

Floats = NDArray[np.float64]

AUROC = 0.8
SEEDS, SPREADS = (2, 3, 5, 10), (0.5, 1.0, 2.0, 4.0)
# Shares of the variance of a score that the seeds of an arm have in common, and that one encoder has alone.
OF_ARM, OF_ENCODER = 0.04, 0.06


class SimulatedSet(NamedTuple):
    """How large the simulated test set is; a patient has one image, or 1 to `most_images`."""

    patients: int = 200
    most_images: int = 1
    prevalence: float = 0.3
    labels: int = 25


class Study(NamedTuple):
    """What `difference_of_arms` takes."""

    arms: list[list[Floats]]
    truth: Floats
    patients: NDArray[np.int64]

    def difference(self, metric: Metric = "auroc", *, resamples: int = 1000, pair_seeds: bool = False) -> ArmDifference:
        a, b, *others = self.arms
        return difference_of_arms(
            a,
            b,
            self.truth,
            self.patients,
            metric=metric,
            resamples=resamples,
            other_arms=others,
            pair_seeds=pair_seeds,
        )


def simulate(
    rng: np.random.Generator,
    test: SimulatedSet,
    seeds: Sequence[int],
    *,
    spread: float,
    gap: float = 0.0,
    shared_seeds: float = 0.0,
) -> Study:
    """One study with `seeds[j]` seeds of arm j.

    Args:
        rng: source of all that is random.
        test: the test set.
        seeds: seeds of each arm.
        spread: SD of the true AUROC over seeds.
        gap: true AUROC of arm a minus that of the others.
        shared_seeds: correlation of seed k of one arm with seed k of another.
    """
    patients = np.repeat(np.arange(test.patients), rng.integers(1, test.most_images + 1, size=test.patients))
    truth = (rng.random((test.patients, test.labels)) < test.prevalence).astype(np.float64)[patients]

    def noise(variance: float) -> Floats:
        by_patient, by_image = rng.normal(size=(test.patients, test.labels)), rng.normal(size=truth.shape)
        return np.asarray(np.sqrt(variance / 2) * (by_patient[patients] + by_image))

    everywhere = noise(1 - OF_ARM - OF_ENCODER)
    common = rng.normal(size=(max(seeds), test.labels))
    arms = []
    for arm, members in enumerate(seeds):
        shift = np.sqrt(shared_seeds) * common[:members]
        shift = spread * (shift + np.sqrt(1 - shared_seeds) * rng.normal(size=shift.shape))
        base = everywhere + noise(OF_ARM)
        separation = separation_of(AUROC + (gap if arm == 0 else 0.0) + shift)  # (K, C)
        arms.append([base + noise(OF_ENCODER) + truth * separation[k] for k in range(members)])
    return Study(arms, truth, patients)


def studies(count: int, test: SimulatedSet, seeds: Sequence[int], *, stream: int, **how: float) -> Iterator[Study]:
    """Studies of `test.labels` labels each, until there are `count` labels."""
    for index in range(-(-count // test.labels)):
        yield simulate(np.random.default_rng((stream, index, *seeds)), test, seeds, **how)


def separation_of(true: Floats | float) -> Floats:
    """The difference of the class means at a true AUROC, which is kept within [.02, .98]."""
    return np.asarray(np.sqrt(2) * norm.ppf(np.clip(true, 0.02, 0.98)))


def true_value(metric: str, true: float, spread: float, prevalence: float) -> float:
    """Mean over seeds of the metric on an endless test set.

    >>> [round(true_value(metric, 0.5, 0.0, 0.3), 3) for metric in ("auroc", "average_precision")]
    [0.5, 0.3]
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(21)
    seeds = true + spread * nodes
    if metric == "auroc":
        return float(np.clip(seeds, 0.02, 0.98) @ weights / weights.sum())
    limits = np.linspace(-8, 12, 4001)
    found = []
    for each in separation_of(seeds):
        recall = norm.sf(limits - each)
        precision = prevalence * recall / (prevalence * recall + (1 - prevalence) * norm.sf(limits))
        found.append(np.trapezoid(precision * norm.pdf(limits - each), limits))
    return float(np.array(found) @ weights / weights.sum())


def patient_error(metric: str, test: SimulatedSet) -> float:
    """SD of the difference of two encoders of the same true value, over 1,000 test sets."""
    measured = auroc if metric == "auroc" else average_precision
    found = [
        measured(one.truth, one.arms[0][0]) - measured(one.truth, one.arms[1][0])
        for one in studies(1000, test, (1, 1), stream=99, spread=0.0)
    ]
    return float(np.std(np.concatenate(found)))


def auroc_for(metric: str, change: float, prevalence: float) -> float:
    """The change of AUROC that changes the metric by `change`, to first order."""
    above, below = (true_value(metric, AUROC + side, 0.0, prevalence) for side in (0.01, -0.01))
    return 0.02 * change / (above - below)


def share(inside: Sequence[bool] | NDArray[np.bool_]) -> str:
    """A share and its Monte-Carlo standard error."""
    value = float(np.mean(inside))
    return f"{value:.3f} ± {np.sqrt(value * (1 - value) / np.size(inside)):.3f}"


def rates(
    metric: Metric,
    test: SimulatedSet,
    seeds: Sequence[int],
    *,
    studies_: int,
    stream: int,
    gap: float = 0.0,
    spreads: Sequence[float] = SPREADS,
    macro: bool = False,
    resamples: int = 100,
    pair_seeds: bool = False,
    shared_seeds: float = 0.0,
) -> tuple[list[str], list[str]]:
    """Shares of studies with p < .05, and with an interval that holds the true difference: each spread, then all."""
    unit = auroc_for(metric, patient_error(metric, test), test.prevalence)
    cells = []
    for place, ratio in enumerate(spreads):
        spread, found = ratio * unit, []
        wanted = true_value(metric, AUROC + gap, spread, test.prevalence)
        wanted -= true_value(metric, AUROC, spread, test.prevalence)
        for one in studies(
            studies_, test, seeds, stream=100 * stream + place, spread=spread, gap=gap, shared_seeds=shared_seeds
        ):
            each = one.difference(metric, resamples=resamples, pair_seeds=pair_seeds)
            these = slice(-1, None) if macro else slice(-1)
            found.append([each.p[these] < 0.05, (each.low[these] <= wanted) & (wanted <= each.high[these])])
        cells.append(np.concatenate(found, axis=1))
    cells.append(np.concatenate(cells, axis=1))
    significant, covered = ([share(each[row]) for each in cells] for row in (0, 1))
    return significant, covered


def heading(first: str) -> None:
    print(f"\n| {first} | " + " | ".join(f"{spread:g} SE" for spread in SPREADS) + " | all |")
    print("|---" * (len(SPREADS) + 2) + "|", flush=True)


def equal_arms(count: int, resamples: int, measured: Sequence[Metric]) -> None:
    """Two arms of the same true value."""
    for metric in measured:
        for images in (1, 8):
            size = "200 patients, 1 image each" if images == 1 else "120 patients, 1 to 8 images each"
            heading(f"{metric}, {size}: share with p < .05")
            for place, seeds in enumerate(SEEDS):
                found, _ = rates(
                    metric,
                    SimulatedSet(200 if images == 1 else 120, images),
                    (seeds, seeds),
                    studies_=count,
                    stream=place,
                    resamples=resamples,
                )
                print(f"| {seeds} seeds | " + " | ".join(found) + " |", flush=True)


def different_arms(count: int, resamples: int, measured: Sequence[Metric]) -> None:
    """Two arms whose AUROC differs by .03."""
    for metric in measured:
        heading(f"{metric}, 120 patients, 1 to 8 images each, AUROC +.03: coverage of the 95 % interval")
        for place, seeds in enumerate(SEEDS):
            _, found = rates(
                metric,
                SimulatedSet(120, 8),
                (seeds, seeds),
                studies_=count,
                stream=10 + place,
                gap=0.03,
                resamples=resamples,
            )
            print(f"| {seeds} seeds | " + " | ".join(found) + " |", flush=True)


def designs(count: int, resamples: int, _: Sequence[Metric]) -> None:
    """Equal arms of other designs than two arms with as many seeds; AUROC alone."""
    heading("auroc, 120 patients, 1 to 8 images each: share with p < .05")
    for place, (title, seeds, paired) in enumerate(
        (
            ("2 and 10 seeds", (2, 10), False),
            ("3 and 5 seeds", (3, 5), False),
            ("2 seeds, pooled over 4 arms", (2,) * 4, False),
            ("3 seeds, pooled over 5 arms", (3,) * 5, False),
            *((f"{seeds} paired seeds, correlation .8", (seeds, seeds), True) for seeds in (2, 3, 5)),
            ("3 paired seeds, 5 arms", (3,) * 5, True),
            ("1 seed (patients only)", (1, 1), False),
        )
    ):
        found, _ = rates(
            "auroc",
            SimulatedSet(120, 8),
            seeds,
            studies_=count,
            stream=20 + place,
            resamples=resamples,
            pair_seeds=paired,
            shared_seeds=0.8 if paired else 0.0,
        )
        print(f"| {title} | " + " | ".join(found) + " |", flush=True)
    five = SimulatedSet(120, 8, labels=5)
    found, _ = rates("auroc", five, (3, 3), studies_=5 * count, stream=30, resamples=resamples, macro=True)
    print("| 3 seeds, macro mean of 5 labels | " + " | ".join(found) + " |", flush=True)


def power(count: int, resamples: int, _: Sequence[Metric]) -> None:
    """14 labels, seed SD .005, true difference .02 in all, three seeds; then 28 labels of AUROC 1.0 against .5."""
    test = SimulatedSet(patients=1500, most_images=3, labels=14)
    error = patient_error("auroc", test._replace(labels=50))
    print(f"\n| 3 seeds, SD .005; 1,500 patients, SE {error:.4f}; AUROC +.02, 14 labels | labels with p_holm <= .05 |")
    print("|---|---|")
    for arms in (2, 5, 8):
        drawn = studies(14 * max(count // 25, 1), test, (3,) * arms, stream=40, spread=0.005, gap=0.02)
        found = [one.difference(resamples=resamples).p_holm[:-1] <= 0.05 for one in drawn]
        print(f"| {arms} arms | {share(np.concatenate(found))} |", flush=True)
    rng, found = np.random.default_rng(0), []
    for _ in range(10):
        one = simulate(rng, SimulatedSet(labels=28), (3, 3), spread=0.0)
        perfect = [one.truth + 0.01 * rng.random(one.truth.shape) for _ in range(3)]
        chance = [rng.normal(size=one.truth.shape) for _ in range(3)]
        each = difference_of_arms(perfect, chance, one.truth, one.patients, resamples=resamples)
        found.append((each.value[:-1] > 0) & (each.p_holm[:-1] <= 0.05))
    print(f"| 2 arms, AUROC 1.0 against .5, 28 labels, 200 patients | {share(np.concatenate(found))} |", flush=True)


def small_sets(count: int, resamples: int, measured: Sequence[Metric]) -> None:
    """Test sets of 30 to 80 patients: equal arms, and arms that differ by exactly the margin of an equivalence test."""
    print(
        "\n| metric | patients | seeds | equal arms: p < .05 | coverage | difference of the margin: equivalence shown |"
    )
    print("|---" * 6 + "|", flush=True)
    for metric in measured:
        for place, (patients, seeds) in enumerate(itertools.product((30, 50, 80), (2, 3, 5))):
            test = SimulatedSet(patients, prevalence=0.4)
            error = patient_error(metric, test._replace(labels=10))
            unit = auroc_for(metric, error, test.prevalence)
            found = []
            for ratio, gap in itertools.product((0.0, 1.0), (0.0, -2 * unit)):
                true = (true_value(metric, AUROC + each, ratio * unit, test.prevalence) for each in (gap, 0.0))
                wanted = float(np.subtract(*true))
                how = {"stream": 50 + place, "spread": ratio * unit, "gap": gap}
                for one in studies(count, test, (seeds, seeds), **how):
                    each = one.difference(metric, resamples=resamples)
                    known = np.isfinite(each.value[:-1])
                    p, low, high = (end[:-1][known] for end in (each.p, each.low, each.high))
                    inside = (low <= wanted) & (wanted <= high)
                    same = np.full(len(p), np.nan)
                    if gap:
                        total = np.hypot(each.patient_se, each.seed_se)
                        tested = equivalence(each.value, total, each.degrees_of_freedom, abs(wanted))
                        p, same = same, tested[:-1][known] <= 0.05
                    found.append(np.stack((np.where(np.isnan(p), np.nan, p < 0.05), inside, same)))
            cells = [share(row[~np.isnan(row)]) for row in np.concatenate(found, axis=1)]
            print(f"| {metric} | {patients} | {seeds} | " + " | ".join(cells) + " |", flush=True)


METRICS: tuple[Metric, ...] = ("auroc", "average_precision")
PARTS = {
    "equal": equal_arms,
    "different": different_arms,
    "designs": designs,
    "power": power,
    "small": small_sets,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=400)
    parser.add_argument("--resamples", type=int, default=100)
    parser.add_argument("--part", choices=PARTS)
    parser.add_argument("--metric", choices=METRICS)
    arguments = parser.parse_args()
    for name, part in PARTS.items():
        if arguments.part in (None, name):
            part(arguments.studies, arguments.resamples, (arguments.metric,) if arguments.metric else METRICS)


if __name__ == "__main__":
    main()
