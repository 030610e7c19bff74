"""False positives and coverage of gaps between groups of equal performance: a table of docs/statistics.md.

    python -m benchmarks.evidence.gaps [--studies 1000] [--permutations 500] [--design macro]

Scores of images with the finding are normal with a mean that gives the AUROC, those of others have mean 0; half of the
variance is the patient's where a patient has several images. Groups differ in prevalence and size alone. Studies in
which a group has fewer than 10 patients with or without the finding are left out, as an audit leaves them out.
"""

import argparse
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from chartray.statistics.permutation import (
    Influence,
    auroc_influence,
    mean_influence,
    permuted_groups,
    share_influence,
)

Floats = NDArray[np.float64]
THRESHOLD = float(norm.ppf(0.9))
METRICS = ("AUROC", "FNR", "FPR", "PPV, equal prevalence")


class Groups(NamedTuple):
    """Patients, and the prevalence and the share of patients of each group."""

    patients: int
    prevalence: tuple[float, ...]
    shares: tuple[float, ...]
    auroc: float = 0.85
    most_images: int = 1
    labels: int = 1


DESIGNS = {
    "2 groups, 50 and 10 %, 300 patients": Groups(300, (0.5, 0.1), (0.5, 0.5)),
    "2 groups, 10 and 50 %, sizes 3 to 1": Groups(300, (0.1, 0.5), (0.75, 0.25)),
    "2 groups, 10 and 50 %, 1 to 8 images": Groups(300, (0.1, 0.5), (0.5, 0.5), most_images=8),
    "4 groups, 10 to 60 %, 1 to 3 images": Groups(600, (0.1, 0.2, 0.4, 0.6), (0.4, 0.3, 0.2, 0.1), most_images=3),
    "2 groups, 10 and 50 %, AUROC .95": Groups(400, (0.1, 0.5), (0.5, 0.5), auroc=0.95),
    "macro of 3 labels, 10 and 50 %": Groups(600, (0.1, 0.5), (0.75, 0.25), labels=3),
}


def influences(rng: np.random.Generator, design: Groups) -> tuple[dict[str, Influence], NDArray, NDArray] | None:
    """What images contribute to each metric, their groups and patients; None where a group is too small."""
    count, sizes = len(design.shares), rng.integers(1, design.most_images + 1, design.patients)
    patients = np.repeat(np.arange(design.patients), sizes)
    of_patient = rng.choice(count, design.patients, p=design.shares)
    groups = of_patient[patients]
    found: dict[str, list[Influence]] = {metric: [] for metric in METRICS}
    for _ in range(design.labels):
        own = rng.random(design.patients) < np.array(design.prevalence)[of_patient]
        even = rng.random(design.patients) < 0.3
        shared = rng.normal(size=design.patients)[patients]
        noise = shared if design.most_images == 1 else (shared + rng.normal(size=len(patients))) / np.sqrt(2)
        for truth, metrics in ((own[patients], METRICS[:3]), (even[patients], METRICS[3:])):
            score = truth * np.sqrt(2) * norm.ppf(design.auroc) + noise
            held = [np.unique(patients[(groups == g) & (truth == c)]) for g in range(count) for c in (0, 1)]
            if min(map(len, held)) < 10:
                return None
            called = score > THRESHOLD
            pairs = {"FNR": (~called, truth), "FPR": (called, ~truth), METRICS[3]: (truth, called)}
            for metric in metrics:
                if metric == "AUROC":
                    found[metric].append(auroc_influence(truth.astype(float), score, groups, count))
                else:
                    hit, among = pairs[metric]
                    share = share_influence((hit & among).astype(float), among.astype(float), groups, count)
                    found[metric].append(share)
    return {metric: mean_influence(each) for metric, each in found.items()}, groups, patients


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--permutations", type=int, default=500)
    parser.add_argument("--design", default="", help="a word of the designs that are simulated; by default all are")
    arguments = parser.parse_args()
    print("| share with p <= .05 | " + " | ".join(METRICS) + " |\n|---" + "|---" * len(METRICS) + "|", flush=True)
    for place, (title, design) in enumerate(DESIGNS.items()):
        if arguments.design not in title:
            continue
        found: dict[str, list[bool]] = {metric: [] for metric in METRICS}
        for study in range(arguments.studies):
            drawn = influences(np.random.default_rng((place, study)), design)
            if drawn is None:
                continue
            for metric, each in drawn[0].items():
                if not np.isnan(each.value).any():
                    tested = permuted_groups(each, drawn[1], drawn[2], seed=study, most=arguments.permutations)
                    found[metric].append(tested.p <= 0.05)
        cells = [f"{np.mean(p):.3f} ± {np.std(p) / np.sqrt(len(p)):.3f}" for p in found.values()]
        print(f"| {title} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
