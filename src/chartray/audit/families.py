"""One rule for the many tests of an audit, and one for its negative control.

A family is what one question asks of one data set: the attributes of one encoder (readability), of one pair
(difference), of one metric at one threshold (gap), of removal. The rows of single labels are families of their own,
over attributes and labels. p_holm is Holm's p within the family, `corrected_over` its size; verdicts follow p_holm.

The coin is in no family, since it must show nothing. Its own tests (macro rows of the audited encoder) are corrected
among themselves, and the control fails below `CONTROL`: one sound audit in 1,000 does.
"""

from collections.abc import Hashable, Sequence

import numpy as np

from chartray.audit.attributes import COIN
from chartray.results.audit_rows import AttributeDifference, AttributeProbe, AuditRow, RemovalRow, SubgroupRow
from chartray.results.schema import MACRO
from chartray.results.verdict import verdict
from chartray.statistics.holm import holm
from chartray.statistics.power import detectable

Tested = AttributeProbe | AttributeDifference | SubgroupRow | RemovalRow
# What is reached without any information.
CHANCE = {"auroc": 0.5, "r2": 0.0}
CONTROL = 0.001
_STEPS = 20  # until the error of R2 and the R2 agree


def corrected(rows: Sequence[AuditRow]) -> list[AuditRow]:
    """The rows with p_holm and `corrected_over`, and differences with their verdict."""
    found = list(rows)
    families: dict[Hashable, list[int]] = {}
    for place, row in enumerate(rows):
        if isinstance(row, Tested) and row.p is not None:
            families.setdefault(_family(row), []).append(place)
    for members in families.values():
        p = [row.p for row in rows_of(rows, members)]
        for place, each in zip(members, holm(np.array(p, dtype=np.float64)).tolist(), strict=True):
            found[place] = found[place].replaced(p_holm=each, corrected_over=len(members))
    return [_with_verdict(row) if isinstance(row, AttributeDifference) else _with_power(row) for row in found]


def readable(row: AttributeProbe) -> bool:
    """Whether an attribute is read better than by chance, after correction."""
    if row.value is None or row.p_holm is None:
        return False
    return row.value > CHANCE[row.metric] and row.p_holm <= 1 - row.level_of_interval


def rows_of(rows: Sequence[AuditRow], places: Sequence[int]) -> list[Tested]:
    """The tested rows at these places."""
    return [row for place in places if isinstance(row := rows[place], Tested)]


def control_tests(rows: Sequence[AuditRow]) -> list[Tested]:
    """The tests of the coin that judge an audit: of the whole encoder and the macro means, not of single labels."""
    return [
        row
        for row in rows
        if isinstance(row, Tested) and row.p is not None and row.attribute == COIN and _is_control(row)
    ]


def control_failed(rows: Sequence[AuditRow]) -> list[Tested]:
    """The tests in which the coin shows something."""
    return [row for row in control_tests(rows) if row.p_holm is not None and row.p_holm < CONTROL]


def _is_control(row: Tested) -> bool:
    if isinstance(row, AttributeProbe):
        return not row.arm.is_baseline
    return not isinstance(row, AttributeDifference) and row.label == MACRO


def _family(row: Tested) -> Hashable:
    if isinstance(row, AttributeDifference):
        return row.part, row.dataset, row.arm_a, row.arm_b, row.a, row.b
    of_arm = (row.part, row.dataset, row.arm, row.run)
    if row.attribute == COIN:
        return ("control", row.dataset, row.run) if _is_control(row) else (*of_arm, COIN)
    if isinstance(row, AttributeProbe):
        return of_arm
    single = row.label != MACRO
    return (*of_arm, single) if isinstance(row, RemovalRow) else (*of_arm, single, row.of, row.threshold)


def _with_power(row: AuditRow) -> AuditRow:
    """A reading with the smallest value that would be told from chance in 80 % of such audits, at alpha / family.

    The error of R2 grows with it: that of a correlation, 4 R2 (1 - R2)^2 / n, is added.
    """
    if not isinstance(row, AttributeProbe) or row.standard_error is None or not row.corrected_over:
        return row
    alpha = (1 - row.level_of_interval) / row.corrected_over
    people, away = max(row.n_patients - 1, 1), 0.0
    if row.metric == "auroc":
        away = detectable(row.standard_error, people, alpha=alpha)
    else:
        for _ in range(_STEPS):
            error = (row.standard_error**2 + 4 * away * (1 - away) ** 2 / row.n_patients) ** 0.5
            away = min(detectable(error, people, alpha=alpha), 1.0)
    return row.replaced(detectable=min(CHANCE[row.metric] + away, 1.0))


def _with_verdict(row: AttributeDifference) -> AttributeDifference:
    return row.replaced(verdict=verdict(row.difference, row.p_holm, row.seeds, row.level_of_interval))
