"""`chartray plan`: from a pilot's seeds and test set, what a study of more seeds and patients could see."""

import itertools
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from chartray.config.evaluate import PlanOptions
from chartray.errors import InputError
from chartray.evaluation.comparable import EvaluatedRun, Sheet, read_sheets
from chartray.evaluation.differences import Pair
from chartray.evaluation.scoring import Scored, judged
from chartray.results.arm import Arm
from chartray.results.folder import open_evaluation
from chartray.results.schema import MACRO, METRIC_WORDS
from chartray.statistics.metrics import eligible
from chartray.statistics.power import POWER, Design, patients_needed, seeds_needed
from chartray.wording import plural

SEEDS, PATIENTS = (2, 3, 5, 10, 20), (0.5, 1, 2, 4, 10)
DEFAULTS = PlanOptions()


class PlannedCell(NamedTuple):
    """The smallest difference that `seeds` an arm and `patients` show with 80 % power, in one label or the macro.

    `at_upper` is that where the seed SD is at the 80 % upper limit that the pilot leaves open.
    """

    label: str
    seeds: int
    patients: int
    detectable: float
    at_upper: float


class Plan(NamedTuple):
    """What a pilot says of a study: its numbers, and the cells of all tables."""

    dataset: str
    split: str
    metric: str
    patients: int
    labels: tuple[str, ...]
    arms: tuple[str, ...]
    seeds: int
    freedom: int
    seed_sd: float
    seed_sd_upper: float
    patient_se: float
    cells: list[PlannedCell]
    margin: float | None
    margin_seeds: int | None
    margin_patients: int | None
    notes: list[str]

    def cell(self, label: str, seeds: int, patients: int) -> PlannedCell:
        """One cell."""
        return next(one for one in self.cells if one[:3] == (label, seeds, patients))


def plan_study(folders: Sequence[Path], options: PlanOptions = DEFAULTS) -> Plan:
    """What two arms could be told apart by, for numbers of seeds and patients, from evaluations of a pilot.

    Variance from the patients falls as 1 / patients, that from the seeds as 1 / seeds (`statistics.power`).

    Args:
        folders: evaluations of a pilot: two seeds or more of one arm at least; more arms say more.
        options: metric, margin, arms of the planned study, resamples.

    Raises:
        InputError: no arm has two seeds, the evaluations cannot be compared, or no label has enough patients.
    """
    runs = [EvaluatedRun(open_evaluation(Path(folder))) for folder in folders]
    arms: dict[Arm, list[EvaluatedRun]] = {}
    for run in runs:
        arms.setdefault(run.arm, []).append(run)
    if all(len({run.seed for run in members}) < 2 for members in arms.values()):
        named = ", ".join(f"{arm.title} (seed {members[0].seed})" for arm, members in arms.items()) or "none"
        raise InputError(
            f"expected evaluations of two seeds of one arm at least, found {named}; pretrain and evaluate another "
            "seed: without it nobody knows how much seeds vary"
        )
    sheets = read_sheets(runs)
    own = sheets[runs[0].folder].own
    where = max((place for place in own if place[0] == next(iter(own))[0]), key=lambda place: place[1])
    sheet = own[where]
    counted = eligible(sheet.truth, sheet.patients)
    if not counted.any():
        raise InputError(f"expected a label with enough patients of both classes in {runs[0].folder}, found none")
    parts = {
        arm: [_scored(sheets[run.folder].own[where], counted, options) for run in members]
        for arm, members in arms.items()
    }
    variance, spread, freedom, notes = _variances(parts, sheet, counted, options)
    patients = len(np.unique(sheet.patients))
    labels = [label for label, here in zip(sheet.labels, counted, strict=True) if here]
    places = {label: place for place, label in enumerate([*sheet.labels, MACRO])}
    upper = float(np.sqrt(freedom / _quantile(freedom)))
    cells = []
    for label in (MACRO, *labels):
        alpha = 0.05 / (1 if label == MACRO else len(labels))
        place = places[label]
        for seeds, many in itertools.product(SEEDS, _sizes(patients)):
            one = Design(variance[place], patients, spread[place], seeds, options.arms).on(many)
            high = one._replace(seed_variance=spread[place] * upper**2)
            cells.append(PlannedCell(label, seeds, many, one.detectable(alpha=alpha), high.detectable(alpha=alpha)))
    most = max(len(members) for members in arms.values())
    design = Design(variance[-1], patients, spread[-1], max(most, 2), options.arms)
    margin = options.margin
    return Plan(
        dataset=where[0],
        split=runs[0].settings.split,
        metric=options.metric,
        patients=patients,
        labels=tuple(labels),
        arms=tuple(arm.title for arm in arms),
        seeds=most,
        freedom=freedom,
        seed_sd=float(np.sqrt(spread[-1])),
        seed_sd_upper=float(np.sqrt(spread[-1])) * upper,
        patient_se=float(np.sqrt(variance[-1])),
        cells=cells,
        margin=margin,
        margin_seeds=None if margin is None else seeds_needed(margin, design),
        margin_patients=None if margin is None else patients_needed(margin, design),
        notes=notes,
    )


def sentences(plan: Plan) -> list[str]:
    """The plan for a terminal of 80 columns."""
    metric = METRIC_WORDS[plan.metric]
    lines = [
        f"Pilot: {plural(len(plan.arms), 'arm')}, up to {plural(plan.seeds, 'seed')}, "
        f"{plural(plan.patients, 'patient')} of {plan.dataset} ({plan.split}).",
        f"Seed SD of the macro {metric} {plan.seed_sd:.4f} ({plural(plan.freedom, 'degree')} of freedom; 80 %",
        f"upper limit {plan.seed_sd_upper:.4f}).",
        f"SE from the patients of a difference {plan.patient_se:.4f}.",
        "",
        f"Smallest difference of two arms in the macro {metric} of {plural(len(plan.labels), 'label')}",
        f"that is shown with {POWER:.0%} power (p .05, two-sided):".replace("%", " %"),
        "",
    ]
    sizes = _sizes(plan.patients)
    lines.append("seeds an arm " + "".join(f"{size:>10,}" for size in sizes) + "  test patients")
    for seeds in SEEDS:
        found = [plan.cell(MACRO, seeds, size).detectable for size in sizes]
        lines.append(f"{seeds:>12} " + "".join(f"{value:>10.4f}" for value in found))
    least = plan.cell(MACRO, 3, plan.patients)
    lines += [
        "",
        f"With 3 seeds here {least.detectable:.4f}; {least.at_upper:.4f} if the seed SD is at its upper limit.",
    ]
    if plan.margin is not None:
        ways = [] if plan.margin_seeds is None else [f"{plan.margin_seeds} seeds an arm on these patients"]
        ways += (
            []
            if plan.margin_patients is None
            else [f"{plan.margin_patients:,} patients with {max(plan.seeds, 2)} seeds"]
        )
        lines.append(f"A difference of {plan.margin:g} needs {', or '.join(ways) or 'more seeds and more patients'}.")
    width = max(16, *(len(label) for label in plan.labels))
    lines += ["", f"{'One label (Holm)':<{width}}  " + "".join(f"{seeds:>5} seeds" for seeds in SEEDS[:4])]
    for label in plan.labels:
        found = [plan.cell(label, seeds, plan.patients).detectable for seeds in SEEDS[:4]]
        lines.append(f"{label:<{width}}  " + "".join(f"{value:>11.4f}" for value in found))
    return [*lines, "", *(line for note in plan.notes for line in textwrap.wrap(note, 79))] if plan.notes else lines


def _scored(sheet: Sheet, counted: np.ndarray, options: PlanOptions) -> list[Scored]:
    return [
        judged(sheet.truth, each, sheet.patients, counted, resamples=options.resamples, seed=options.seed)
        for each in sheet.scores
    ]


def _variances(
    parts: dict[Arm, list[list[Scored]]], sheet: Sheet, counted: np.ndarray, options: PlanOptions
) -> tuple[np.ndarray, np.ndarray, int, list[str]]:
    """From the patients, of a difference of two arms (C + 1,); over seeds, of one encoder (C + 1,), pooled; its
    degrees of freedom; remarks.
    """
    several = [members for members in parts.values() if len(members) > 1]
    freedom = sum(len(members) - 1 for members in several)
    values = [
        np.array([[*seed[0].values[options.metric], seed[0].macro[options.metric]] for seed in members])
        for members in several
    ]
    spread = sum(((each - each.mean(axis=0)) ** 2).sum(axis=0) for each in values) / freedom
    notes = []
    if len(parts) > 1:
        pairs = list(itertools.combinations(parts.values(), 2))
    else:
        notes.append("The pilot has one arm: two of its seeds stand for two arms in the variance from the patients.")
        pairs = [(members[:1], members[1:2]) for members in several]
    errors = [
        Pair(a, b, sheet.truth, sheet.patients).difference(options.metric, counted, 0.95).patient_se for a, b in pairs
    ]
    if freedom < 4:
        notes.append(f"The seed SD is from {plural(freedom, 'degree')} of freedom: more pilot seeds would say more.")
    if np.mean(np.square(errors), axis=0)[-1] == 0:
        notes.append(
            "The arms of the pilot differ on these patients no more than their seeds do: its SE from the patients is "
            "too small to be told from 0, and more patients seem to help less than they may."
        )
    return np.mean(np.square(errors), axis=0), np.asarray(spread), freedom, notes


def _sizes(patients: int) -> list[int]:
    """Numbers of patients around those of the pilot."""
    return [max(int(patients * times), 2) for times in PATIENTS]


def _quantile(freedom: int) -> float:
    from scipy.stats import chi2  # a second to import: only a plan pays for it

    return float(chi2.ppf(0.2, freedom))
