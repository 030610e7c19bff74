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
from chartray.results.schema import (
    MACRO,
    AttributeDifference,
    AttributeProbe,
    AuditRow,
    RemovalRow,
    SubgroupRow,
)
from chartray.results.verdict import verdict
from chartray.statistics.holm import holm

Tested = AttributeProbe | AttributeDifference | SubgroupRow | RemovalRow
CONTROL = 0.001


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
    return [_with_verdict(row) if isinstance(row, AttributeDifference) else row for row in found]


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


def _with_verdict(row: AttributeDifference) -> AttributeDifference:
    return row.replaced(verdict=verdict(row.difference, row.p_holm, row.seeds, row.level_of_interval))
