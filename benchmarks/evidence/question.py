"""False verdicts of studies with a declared question: a table of docs/statistics.md.

    python -m benchmarks.evidence.question [--studies 1000]

24 arms of one recipe, equal in truth: 23 feature sets and plain MSN, 3 seeds each, on 3 data sets. A macro AUROC is
normal: an error from the patients of each data set, independent between arms given what they share, and one from the
seed, of which half of the variance is shared by the data sets. The variance from the patients is known (the bootstrap
estimates it well, see `seeds`), that from the seeds is estimated as in
`statistics.variance`, pooled over the arms or not.
Every row goes through `evaluation.answer`, as in `chartray compare`.
"""

import argparse
import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from benchmarks.evidence.seeds import share
from chartray.evaluation.answer import Compared, answered
from chartray.results.arm import Arm
from chartray.results.question import DeclaredQuestion, Question
from chartray.results.schema import MACRO, Comparison
from chartray.results.verdict import Verdict, verdict
from chartray.statistics.variance import SeedVariance, satterthwaite

Floats = NDArray[np.float64]
SETS, SEEDS, DATA_SETS, PATIENTS = 23, 3, ("mimic", "chexpert", "nih"), 500
CONTROL = "none"


def simulated_rows(
    rng: np.random.Generator, *, sets: int = SETS, ratio: float = 1.0, pooled: bool = True, effect: float = 0.0
) -> list[Comparison]:
    """The macro rows of one study: every arm against every later one, the control last, on each data set.

    Args:
        rng: source of all that is random.
        sets: arms besides the control.
        ratio: SD of the seed's error over the SE of a difference from the patients, which is .01.
        pooled: whether the seed variance is pooled over all arms.
        effect: what the first arm is better by.
    """
    names = [*(f"set{place:02}" for place in range(sets)), CONTROL]
    arms = [Arm(chart=name) for name in names]
    patient, rows = 0.01, []
    everywhere = rng.normal(size=(sets + 1, SEEDS))
    for dataset in DATA_SETS:
        seeds = (everywhere + rng.normal(size=everywhere.shape)) * ratio * patient / np.sqrt(2)
        values = 0.8 + seeds + rng.normal(size=(sets + 1, 1)) * patient / np.sqrt(2)
        values[0] += effect
        # Of the other data sets, nothing needs the pairs without the control.
        pairs = [pair for pair in itertools.combinations(range(sets + 1), 2) if sets in pair or dataset == DATA_SETS[0]]
        first, second = np.array(pairs).T
        own = values.var(axis=1, ddof=1)
        if pooled:
            shared = np.full((1, len(pairs)), own.mean() * 2 / SEEDS)
            seed = SeedVariance(shared, _degrees(sets + 1))
        else:
            seed = SeedVariance(own[[first, second]] / SEEDS, np.repeat(_degrees(1), 2, axis=0))
        error = np.sqrt(patient**2 + seed.variance)
        freedoms = satterthwaite(np.full(len(pairs), patient**2), np.full(len(pairs), PATIENTS - 1.0), seed)
        differences = values.mean(axis=1)[first] - values.mean(axis=1)[second]
        ps, halves = 2 * student.sf(np.abs(differences) / error, freedoms), student.ppf(0.975, freedoms) * error
        of_seeds = np.sqrt(seed.variance)
        for (a, b), difference, p, half, freedom, seed_se in zip(
            pairs, *(each.tolist() for each in (differences, ps, halves, freedoms, of_seeds)), strict=True
        ):
            rows.append(
                Comparison(
                    arm_a=arms[a],
                    arm_b=arms[b],
                    a=names[a],
                    b=names[b],
                    home=DATA_SETS[0],
                    dataset=dataset,
                    protocol="linear",
                    split="test",
                    label=MACRO,
                    metric="auroc",
                    difference=difference,
                    ci_low=difference - half,
                    ci_high=difference + half,
                    p=p,
                    p_holm=p,
                    seeds=SEEDS,
                    patient_se=patient,
                    seed_se=seed_se,
                    degrees_of_freedom=freedom,
                    verdict=verdict(difference, p, SEEDS),
                )
            )
    return rows


def declared(sets: int = SETS, *, family: Sequence[tuple[str, str]] | None = None) -> DeclaredQuestion:
    """The first set against the control, corrected with every other set against it."""
    names = [f"set{place:02}" for place in range(sets)]
    pairs = tuple(family or [(name, CONTROL) for name in names])
    question = Question(primary=pairs[0], evaluation="mimic", dataset=DATA_SETS[0], family=pairs)
    runs = {name: tuple(f"{name}-{seed}" for seed in range(SEEDS)) for name in (*names, CONTROL)}
    return DeclaredQuestion(question=question, arms=runs, settings={}, sha256="", when="")


def answers(rows: Sequence[Comparison], question: DeclaredQuestion) -> list[Comparison]:
    """The rows as `chartray compare` writes them."""
    return answered(rows, Compared(question.arms, dict.fromkeys(DATA_SETS, PATIENTS)), question)


def claims(rows: Sequence[Comparison]) -> bool:
    """Whether any macro of a set against the control is called higher or lower, on any data set."""
    return any(row.verdict in (Verdict.A_HIGHER, Verdict.B_HIGHER) for row in rows if CONTROL in (row.a, row.b))


def false_verdicts(studies: int, *, sets: int = SETS, **how: float | bool) -> tuple[NDArray[np.bool_], ...]:
    """Of each study of equal arms: whether something is claimed without a question, and with one."""
    asked, found = declared(sets), []
    for index in range(studies):
        rows = simulated_rows(np.random.default_rng((11, index)), sets=sets, **how)
        alone = claims(rows)
        found.append((alone, alone and claims(answers(rows, asked))))  # no correction makes a p smaller
    without, with_question = np.array(found).T
    return without, with_question


def _degrees(arms: int) -> Floats:
    return np.array([[float(arms * (SEEDS - 1))]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--pooled", action="store_true", help="only with the seed variance pooled over the arms")
    arguments = parser.parse_args()
    print("| 23 equal sets against none, 3 seeds, 3 data sets: studies with a false macro verdict | 0.5 | 1 | 2 SE |")
    print("|---|---|---|---|")
    for pooled in (True,) if arguments.pooled else (True, False):
        cells = [false_verdicts(arguments.studies, ratio=ratio, pooled=pooled) for ratio in (0.5, 1.0, 2.0)]
        seeds = "pooled seed variance" if pooled else "seed variance of each arm"
        for place, title in enumerate(("no question", "declared: the 23 pairs on the first data set")):
            print(f"| {title}, {seeds} | " + " | ".join(share(each[place]) for each in cells) + " |", flush=True)


if __name__ == "__main__":
    main()
