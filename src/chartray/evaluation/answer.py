"""What the rows of a comparison say of the declared question: roles, correction over its family, equivalence, power."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from chartray.errors import InputError
from chartray.results.arm import BASELINES, Arm
from chartray.results.question import DECLARED_LATE, EXPLORATORY, DeclaredQuestion
from chartray.results.schema import MACRO, Comparison
from chartray.results.verdict import Verdict, verdict
from chartray.statistics import power
from chartray.statistics.dunnett import dunnett
from chartray.statistics.equivalence import FEWEST_PATIENTS, equivalence
from chartray.statistics.holm import holm
from chartray.wording import joined


class Compared(NamedTuple):
    """What was compared: the names of each arm's runs by the arm's title, and the test patients of each data set."""

    runs: Mapping[str, Sequence[str]]
    patients: Mapping[str, int]


def answered(
    rows: Sequence[Comparison], compared: Compared, declared: DeclaredQuestion | None, evaluation: str | None = None
) -> list[Comparison]:
    """The rows with what a true difference would have needed to be seen, and with their part in the question.

    Rows of the family get p corrected over it, and a verdict from that; where there is a margin, the test of
    equivalence. All others are exploratory: their intervals stay, and nothing is claimed.

    Args:
        rows: of one comparison.
        compared: what was compared.
        declared: the question; None where none was declared: no row has a role.
        evaluation: the evaluation in the study that the rows are of; None: the one that the question names.

    Raises:
        InputError: the rows are of the question's evaluation, and lack a pair of the family or a run of its arms.
    """
    labels = {_group(row): 0 for row in rows}
    for row in rows:
        labels[_group(row)] += row.label != MACRO and row.p is not None
    seen = [_with_power(row, 1 if row.label == MACRO else max(labels[_group(row)], 1)) for row in rows]
    if declared is None:
        return seen
    family: dict[int, tuple[str, str]] = {}
    if evaluation in (None, declared.question.evaluation):
        named = _Named(declared, _names(compared.runs, declared))
        seen = [row.reversed if named.pair(row)[::-1] in declared.question.family else row for row in seen]
        family = _family_rows(seen, named)
    exploratory = {"role": "exploratory", "claim": EXPLORATORY, "verdict": Verdict.NO_CLAIM}
    found = [
        row if place in family else row.replaced(**exploratory | ({"claim": row.claim} if row.claim else {}))
        for place, row in enumerate(seen)
    ]
    for place, row in zip(family, _corrected(seen, family, declared, compared), strict=True):
        found[place] = row
    return found


def _names(runs: Mapping[str, Sequence[str]], declared: DeclaredQuestion) -> dict[str, str]:
    """Title of an arm in the comparison -> its name in the study; raises InputError where runs of an arm are absent."""
    wanted = {name for pair in declared.question.family for name in pair if name in declared.arms}
    found = {}
    for title, here in runs.items():
        for name, there in declared.arms.items():
            if set(here) <= set(there):
                found[title] = name
                if name in wanted and (absent := sorted(set(there) - set(here))):
                    raise InputError(
                        f"expected all runs of {name} that the question was declared for, found no "
                        f"{', '.join(absent)}; give the folders of their evaluations too"
                    )
    if absent := sorted(wanted - set(found.values())):
        raise InputError(
            f"expected evaluations of {joined(sorted(wanted))}, of which the question is, found none of "
            f"{joined(absent)}; give their folders too"
        )
    return found


class _Named(NamedTuple):
    """A declared question, and the name in the study of each arm of the comparison, by its title there."""

    declared: DeclaredQuestion
    names: Mapping[str, str]

    def pair(self, row: Comparison) -> tuple[str, str]:
        """The two arms of a row as the question names them, a and b."""
        return self._name(row.a, row.arm_a), self._name(row.b, row.arm_b)

    def _name(self, title: str, arm: Arm) -> str:
        own = arm.control in self.declared.arms
        return arm.control if arm.is_baseline and not own else self.names.get(title, "")


def _family_rows(rows: Sequence[Comparison], named: _Named) -> dict[int, tuple[str, str]]:
    """Place of each row of the family, a minus b as declared -> its pair."""
    asked = named.declared.question
    about = [
        (place, named.pair(row))
        for place, row in enumerate(rows)
        if (row.dataset, row.metric, row.label, row.fraction)
        == (asked.dataset, asked.metric, asked.label, asked.fraction)
    ]
    found: dict[int, tuple[str, str]] = {}
    for place, pair in about:
        if pair in asked.family and pair not in found.values():  # a baseline may read several charts: the first counts
            found[place] = pair
    absent = [pair for pair in asked.family if pair not in found.values()]
    if absent:
        raise InputError(
            f"expected a comparison of {' and '.join(absent[0])} in {asked.metric} of {asked.label} on "
            f"{asked.dataset}, as the question declares, found none; compare the evaluations of its study"
        )
    return found


def _corrected(
    rows: Sequence[Comparison], family: Mapping[int, tuple[str, str]], declared: DeclaredQuestion, compared: Compared
) -> list[Comparison]:
    """The rows of the family with their corrected p, verdict, equivalence and power."""
    asked = declared.question
    these = [rows[place] for place in family]
    raw = np.array([math.nan if row.p is None else row.p for row in these])
    corrected = holm(raw)
    if asked.control is not None and all(_error(row) is not None for row in these):
        corrected = dunnett(raw, _correlation(rows, these), [row.degrees_of_freedom or math.nan for row in these])
    found = []
    equal = np.full(len(these), math.nan)
    if asked.margin is not None and compared.patients[asked.dataset] >= FEWEST_PATIENTS:
        equal = holm([_equivalence(row, asked.margin) for row in these])
    for pair, row, p, same in zip(family.values(), these, corrected.tolist(), equal.tolist(), strict=True):
        changed = _with_power(row, len(these)).replaced(
            role=asked.role(*pair),
            p_family=p,
            family_size=len(these),
            margin=asked.margin,
            p_equivalence=same,
            verdict=verdict(row.difference, None if math.isnan(p) else p, row.seeds, row.level),
        )
        if not declared.before_test:
            changed = changed.replaced(claim=DECLARED_LATE, verdict=Verdict.NO_CLAIM)
        found.append(_with_needs(changed, compared, len(these)))
    return found


def _correlation(rows: Sequence[Comparison], family: Sequence[Comparison]) -> np.ndarray:
    """Correlations (m, m) of differences from one control, from the variance of their own difference.

    var(A - B) = var(A - C) + var(B - C) - 2 cov(A - C, B - C). A pair that was not compared counts as uncorrelated,
    which corrects for more.
    """
    control = set.intersection(*({row.a, row.b} for row in family))
    others = [({row.a, row.b} - control).pop() for row in family]
    about = family[0]
    same = ("dataset", "metric", "label", "fraction")
    errors = {
        frozenset((row.a, row.b)): error
        for row in rows
        if all(getattr(row, name) == getattr(about, name) for name in same) and (error := _error(row)) is not None
    }
    found = np.eye(len(family))
    own = [_error(row) or 0.0 for row in family]
    for one, other in itertools.combinations(range(len(family)), 2):
        between = errors.get(frozenset((others[one], others[other])))
        if between is not None and own[one] > 0 and own[other] > 0:
            covariance = (own[one] ** 2 + own[other] ** 2 - between**2) / 2
            found[one, other] = found[other, one] = np.clip(covariance / (own[one] * own[other]), 0.0, 1.0)
    return found


def _equivalence(row: Comparison, margin: float) -> float:
    error = _error(row)
    if error is None or row.difference is None:
        return math.nan
    return float(equivalence(row.difference, error, row.degrees_of_freedom or math.nan, margin))


def _with_power(row: Comparison, tests: int) -> Comparison:
    """What would have been seen with 80 % power where `tests` are corrected together, each at its share of alpha."""
    error = _error(row)
    if error is None:
        return row
    alpha = (1 - row.level) / tests
    return row.replaced(detectable=power.detectable(error, row.degrees_of_freedom or math.nan, alpha=alpha))


def _with_needs(row: Comparison, compared: Compared, tests: int) -> Comparison:
    """How many seeds or patients would show a difference as large as the margin."""
    if row.margin is None or row.patient_se is None or row.seed_se is None:
        return row
    arms = (row.arm_a, row.arm_b)
    baseline = any(arm.control in BASELINES for arm in arms)
    pooled = 2 if baseline else sum(len(runs) == row.seeds for runs in compared.runs.values())
    design = power.Design(
        patient_variance=row.patient_se**2,
        patients=compared.patients[row.dataset],
        seed_variance=row.seed_se**2 * row.seeds / (1 if any(arm.is_fixed for arm in arms) else 2),
        seeds=row.seeds,
        arms=pooled,
    )
    alpha = (1 - row.level) / tests
    return row.replaced(
        seeds_needed=power.seeds_needed(row.margin, design, alpha=alpha),
        patients_needed=power.patients_needed(row.margin, design, alpha=alpha),
    )


def _error(row: Comparison) -> float | None:
    """The standard error of a difference over seeds; None of single encoders."""
    if row.patient_se is None or row.seed_se is None or row.degrees_of_freedom is None:
        return None
    return math.hypot(row.patient_se, row.seed_se, row.draw_se or 0.0)


def _group(row: Comparison) -> tuple[str, str, str, str, float]:
    """What rows share whose labels are corrected together."""
    return row.a, row.b, row.dataset, row.metric, row.fraction
