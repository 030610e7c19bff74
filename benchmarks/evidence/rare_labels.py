"""Coverage of the interval of one arm's value where few patients have the finding: the tables of docs/statistics.md.

    python -m benchmarks.evidence.rare_labels [--labels 1000] [--resamples 300] [--only 100] [--ours] > rows.tsv
    python -m benchmarks.evidence.rare_labels --tables rows.tsv

A finding is a normal liability above a threshold, 60 % of whose variance belongs to the patient. Scores of images with
the finding are normal with mean `separation`, those of others with mean 0; both have variance 1, half of it the
patient's. The labels of a study are in groups of 5 whose scores have a fifth of their variance in common: the macro is
the mean of a group. Intervals are computed as `chartray evaluate` does, for labels with 10 positive and 10 negative
patients, and compared with percentiles of the same resamples, BC, BCa (acceleration by leaving out each patient) and,
for the AUROC, DeLong's normal interval clustered by patient.
"""

import argparse
import itertools
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from benchmarks.evidence.seeds import separation_of, true_value
from chartray.statistics import calibration, intervals, metrics
from chartray.statistics.delong import delong
from chartray.statistics.operating_point import at_threshold, resample_at_threshold
from chartray.statistics.patient_bootstrap import PatientBootstrap

Floats = NDArray[np.float64]

PATIENTS, PREVALENCES = (50, 100, 200, 500, 1000), (0.02, 0.05, 0.1, 0.2, 0.4)
IMAGES = (1, 4)
# True AUROC, and whether probabilities are overconfident.
SETTINGS = ((0.6, False), (0.8, False), (0.8, True), (0.92, False), (0.98, False))
METRICS = ("auroc", "average_precision", "brier", "sensitivity", "specificity", "ece")
OF_PREVALENCE, HERE = ("average_precision", "brier"), "ours, at the prevalence of the test set"
LABELS, GROUP, STREAM = 25, 5, 2
# Probabilities are the true ones, or with logits stretched by this factor.
STRETCHED = 1.6
THRESHOLD = norm.isf(0.1)
# BCa is tried up to this number of patients.
LEFT_OUT = 200
# Where a smaller share of labels has an interval, 10 positive patients are luck.
NO_LUCK = 0.1
# Fewer simulated intervals say nothing of coverage.
FEWEST = 100


class Setting(NamedTuple):
    """One simulated setting; a patient has 1 to `most_images` images."""

    patients: int
    prevalence: float
    auroc: float
    most_images: int
    stretched: bool = False


class ValueAndDraws(NamedTuple):
    """A metric's values (C,), its resamples (R, C) and those that leave out one patient each (patients, C)."""

    value: Floats
    drawn: Floats
    without_one: Floats


class SimulatedLabels(NamedTuple):
    """Truth and scores (N, LABELS), patients (N,), and the group of each label."""

    truth: Floats
    score: Floats
    patients: NDArray[np.int64]
    group: NDArray[np.int64]


def study(setting: Setting, rng: np.random.Generator) -> SimulatedLabels:
    """One simulated test set."""
    people = np.repeat(np.arange(setting.patients), rng.integers(1, setting.most_images + 1, size=setting.patients))

    def normal(of_patients: float, columns: int = LABELS) -> Floats:
        by_patient, by_image = (rng.normal(size=(size, columns)) for size in (setting.patients, len(people)))
        return np.asarray(np.sqrt(of_patients) * by_patient[people] + np.sqrt(1 - of_patients) * by_image)

    truth = (normal(0.6) > norm.isf(setting.prevalence)).astype(np.float64)
    shared = np.repeat(normal(0.5, LABELS // GROUP), GROUP, axis=1)
    noise = np.sqrt(0.2) * shared + np.sqrt(0.8) * normal(0.5)
    return SimulatedLabels(truth, truth * separation_of(setting.auroc) + noise, people, np.arange(LABELS) // GROUP)


def probabilities(setting: Setting, score: Floats) -> Floats:
    """The probability of the finding at a score, in stretched cells an overconfident one."""
    apart = separation_of(setting.auroc)
    logits = np.log(setting.prevalence / (1 - setting.prevalence)) + apart * score - apart**2 / 2
    return np.asarray(1 / (1 + np.exp(-logits * (STRETCHED if setting.stretched else 1.0))))


def true_values(setting: Setting, prevalence: float) -> dict[str, float]:
    """Every metric on an endless test set with this prevalence, of probabilities for that of the setting."""
    apart = float(separation_of(setting.auroc))
    grid = np.linspace(-9, 9 + apart, 40_001)
    negative, positive = (
        share * norm.pdf(grid - mean) * (grid[1] - grid[0])
        for share, mean in ((1 - prevalence, 0), (prevalence, apart))
    )
    said, mass = probabilities(setting, grid), negative + positive
    bins = np.minimum((np.cumsum(mass) - mass / 2) * calibration.BINS, calibration.BINS - 1).astype(int)
    return {
        "auroc": setting.auroc,
        "average_precision": true_value("average_precision", setting.auroc, 0.0, prevalence),
        "brier": float(negative @ said**2 + positive @ (1 - said) ** 2),
        "ece": float(np.abs(np.bincount(bins, said * mass - positive)).sum()),
        "sensitivity": float(norm.sf(THRESHOLD - apart)),
        "specificity": 0.9,
    }


def all_metrics(truth: Floats, score: Floats, said: Floats, sampled: PatientBootstrap) -> dict[str, Floats]:
    """Every metric (draws, C) in the draws of `sampled`, and the calibration error by chance."""
    ranks, probable = metrics.resample_in(truth, score, sampled), calibration.resample_calibration(truth, said, sampled)
    points = resample_at_threshold(truth, score, np.full(truth.shape[1], THRESHOLD), sampled)[0]
    found = {"auroc": ranks.auroc, "average_precision": ranks.average_precision, **points._asdict()}
    return found | {"brier": probable.brier, "ece": probable.ece, "by_chance": probable.by_chance}


def measured(
    truth: Floats, score: Floats, said: Floats, sampled: PatientBootstrap, *, leave_out: bool
) -> dict[str, ValueAndDraws]:
    """Each metric of each label; the resamples stand for those that leave out one patient, unless it is asked for."""
    people = sampled.counts.shape[1]
    less = np.ones((people, people), dtype=np.int32) - np.eye(people, dtype=np.int32)
    each = np.arange(people)
    without = sampled._replace(counts=less, chosen=np.repeat(each[:, None], truth.shape[1], axis=1), chosen_macro=each)
    values = {
        "auroc": metrics.auroc(truth, score),
        "average_precision": metrics.average_precision(truth, score),
        "brier": calibration.brier(truth, said),
        "ece": calibration.ece(truth, said),
        **at_threshold(truth, score, np.full(truth.shape[1], THRESHOLD))._asdict(),
    }
    drawn = all_metrics(truth, score, said, sampled)
    left = all_metrics(truth, score, said, without) if leave_out else drawn
    values["by_chance"] = values["ece"]
    return {name: ValueAndDraws(value, drawn[name], left[name]) for name, value in values.items()}


def corrected(found: ValueAndDraws, label: int, accelerated: bool) -> tuple[float, float]:
    """BC, or BCa (Efron, Journal of the American Statistical Association 82, 1987)."""
    value, drawn, left = found.value[label], found.drawn[:, label], found.without_one[:, label]
    share = np.clip(((drawn < value).mean() + (drawn <= value).mean()) / 2, 0.5 / len(drawn), 1 - 0.5 / len(drawn))
    away = left.mean() - left
    spread = (away**2).sum() ** 1.5
    acceleration = float((away**3).sum() / (6 * spread)) if accelerated and spread > 0 else 0.0
    shift = norm.ppf(share)
    limits = shift + norm.ppf([0.025, 0.975])
    low, high = np.quantile(drawn, norm.cdf(shift + limits / (1 - acceleration * limits)))
    return float(low), float(high)


class SimulatedInterval(NamedTuple):
    """One interval, and the labels that it is of: one, or those of a macro."""

    metric: str
    method: str
    low: float
    high: float
    labels: NDArray[np.int64]


def intervals_of(
    setting: Setting, labels: SimulatedLabels, resamples: int, *, alone: bool
) -> Iterator[SimulatedInterval]:
    """Every label's and macro's interval; `alone` leaves out all methods but ours."""
    truth, score, people, group = labels
    sampled = metrics.sample(truth, people, resamples=resamples)
    leave_out = not alone and setting.patients <= LEFT_OUT
    found = measured(truth, score, probabilities(setting, score), sampled, leave_out=leave_out)
    by_patient = None if alone else delong(truth, score, patients=people)
    images = (truth == 1).sum(axis=0), (truth == 0).sum(axis=0)
    counts = np.stack((*metrics.patients_per_class(truth, people), *images), axis=1).tolist()
    chance = found["by_chance"].drawn.T
    for name in METRICS:
        value, resampled = found[name].value, found[name].drawn
        each = [
            intervals.interval(
                name, value[[k]], resampled[None, :, k], intervals.LabelPatients(*of), 0.95, by_chance=chance[[k]]
            )
            for k, of in enumerate(counts)
        ]
        for label, ours in enumerate(each):
            of = np.array([label])
            yield SimulatedInterval(name, "ours", ours.low, ours.high, of)
            if alone:
                continue
            yield SimulatedInterval(name, "percentiles", *np.quantile(resampled[:, label], [0.025, 0.975]), of)
            for method in ("BC", "BCa")[: 2 if leave_out else 1]:
                yield SimulatedInterval(name, method, *corrected(found[name], label, method == "BCa"), of)
            if by_patient is not None and name == "auroc":
                yield SimulatedInterval(name, "DeLong", by_patient.low[label], by_patient.high[label], of)
        for members in (np.flatnonzero(group == one) for one in range(LABELS // GROUP)):
            if len(members) > 1:
                drawn, macro = resampled[:, members].mean(axis=1), value[members].mean(keepdims=True)
                null = chance[members].mean(axis=0)[None] if name == "ece" else None
                ours = intervals.of_labels([each[k] for k in members], macro, drawn[None], 0.95, by_chance=null)
                yield SimulatedInterval(f"macro {name}", "ours", ours.low, ours.high, members)
                if not alone:
                    ends = np.quantile(drawn, [0.025, 0.975])
                    yield SimulatedInterval(f"macro {name}", "percentiles", *ends, members)


class Coverage(NamedTuple):
    """Whether each interval lies above the true value, below it, and its width, (n, 3), by metric and method.

    `given` is the share of labels that have an interval. Of the method `HERE`, which is ours, the true value is that at
    the prevalence of the test set, for metrics that depend on the prevalence.
    """

    given: float
    found: dict[tuple[str, str], Floats]


def covered(setting: Setting, count: int, resamples: int, *, alone: bool = False) -> Coverage:
    """Until `count` labels had an interval, or 6 times as many had none."""
    true, seen, tried = true_values(setting, setting.prevalence), 0, 0
    grid = np.geomspace(setting.prevalence / 4, min(6 * setting.prevalence, 0.9), 20)
    at = {name: [true_values(setting, each)[name] for each in grid] for name in OF_PREVALENCE}
    found = defaultdict(list)
    while seen < count and tried < 6 * count:
        one = study(setting, np.random.default_rng((STREAM, tried, *(int(1000 * each) for each in setting))))
        able = metrics.eligible(one.truth, one.patients)
        tried, seen = tried + LABELS, seen + int(able.sum())
        if not able.any():
            continue
        kept = SimulatedLabels(one.truth[:, able], one.score[:, able], one.patients, one.group[able])
        prevalence = kept.truth.mean(axis=0)
        for metric, method, low, high, labels in intervals_of(setting, kept, resamples, alone=alone):
            name = metric.removeprefix("macro ")
            found[metric, method].append((low > true[name], high < true[name], high - low))
            if name in OF_PREVALENCE and method == "ours":
                value = np.interp(prevalence[labels], grid, at[name]).mean()
                found[metric, HERE].append((low > value, high < value, high - low))
    return Coverage(seen / tried, {key: np.array(rows, dtype=np.float64) for key, rows in found.items()})


class CoverageRow(NamedTuple):
    """A line of the simulation's output."""

    patients: int
    prevalence: float
    given: float
    count: int
    metric: str
    method: str
    coverage: float
    width: float


def tables(rows: list[CoverageRow]) -> None:
    """Of AUROC and AP a line for each number of patients and prevalence, of the other metrics one for all of these."""

    def cells(some: list[CoverageRow], methods: tuple[str, ...]) -> str:
        found = []
        for method in methods:
            each = [row for row in some if row.method == method]
            value = [row.coverage for row in each]
            found.append(f"{np.mean(value):.3f} ({min(value):.3f})" if each else "")
        old, new = (np.mean([row.width for row in some if row.method == one]) for one in ("percentiles", "ours"))
        return " | ".join([*found, f"{new / old:.2f}"])

    for metric, methods in (
        ("auroc", ("percentiles", "BC", "BCa", "DeLong", "ours")),
        ("average_precision", ("percentiles", "BC", "BCa", "ours", HERE)),
    ):
        print(f"\n| {metric}: patients | prevalence | labels with an interval | {' | '.join(methods)} | width |")
        print("|---" * (len(methods) + 4) + "|")
        for patients, prevalence in sorted({row[:2] for row in rows}):
            some = [row for row in rows if row[:2] == (patients, prevalence) and row.metric == metric]
            if some:
                given = np.mean([row.given for row in some])
                print(f"| {patients:,} | {prevalence:.0%} | {given:.0%} | {cells(some, methods)} |")
    print(f"\n| metric | percentiles | BC | ours | {HERE} | width | missed, of all labels |\n|{'---|' * 7}")
    for metric in (*METRICS, *(f"macro {name}" for name in METRICS)):
        all_ = [row for row in rows if row.metric == metric]
        missed = max(row.given * (1 - row.coverage) for row in all_ if row.method == "ours")
        some = [row for row in all_ if row.given >= NO_LUCK]
        print(f"| {metric} | {cells(some, ('percentiles', 'BC', 'ours', HERE))} | at most {missed:.3f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--labels", type=int, default=1000)
    parser.add_argument("--resamples", type=int, default=300)
    parser.add_argument("--only", type=int, choices=PATIENTS)
    parser.add_argument("--ours", action="store_true", help="no other method")
    parser.add_argument("--tables", type=Path, nargs="+", help="outputs of earlier runs")
    arguments = parser.parse_args()
    if arguments.tables:
        lines = [line.split("\t") for file in arguments.tables for line in file.read_text().splitlines()]
        rows = [
            CoverageRow(int(a), float(b), float(c), int(d), metric, method, float(e), float(f))
            for a, b, c, d, metric, method, e, f in lines
        ]
        tables([row for row in rows if row.count >= FEWEST])
        return
    chosen = PATIENTS if arguments.only is None else (arguments.only,)
    for patients, prevalence, most, (auroc, stretched) in itertools.product(chosen, PREVALENCES, IMAGES, SETTINGS):
        setting = Setting(patients, prevalence, auroc, most, stretched)
        given, found = covered(setting, arguments.labels, arguments.resamples, alone=arguments.ours)
        for (metric, method), each in found.items():
            above, below, width = each.mean(axis=0)
            row = CoverageRow(patients, prevalence, given, len(each), metric, method, 1 - above - below, width)
            print(*row[:2], f"{given:.3f}", *row[3:6], f"{row.coverage:.4f}", f"{width:.4f}", sep="\t", flush=True)


if __name__ == "__main__":
    main()
