"""What an audit found, in the sentences at the end of `chartray audit`."""

from collections.abc import Sequence

from chartray.audit.attributes import COIN
from chartray.audit.families import control_failed, control_tests, readable
from chartray.results.audit_rows import AttributeDifference, AttributeProbe, AuditRow, Leak, RemovalRow, SubgroupRow
from chartray.results.schema import MACRO, Interval
from chartray.results.verdict import after_correction
from chartray.small_counts import told
from chartray.wording import p_said, plural

_METRICS = {"auroc": "AUROC", "r2": "R2"}
_GAPS = {
    "auroc": "disease AUROC",
    "calibration": "calibration (mean score - observed rate)",
    "false_negative_rate": "rate of missed findings",
    "false_positive_rate": "rate of false alarms",
    "positive_predictive_value": "positive predictive value",
}
_IMAGES = {"exact film": "identical to", "near film": "nearly identical to"}


def audit_sentences(rows: Sequence[AuditRow], leaks: Sequence[Leak], notes: Sequence[str]) -> list[str]:
    """An audit of the first data set in words: attributes and differences, gaps, removal, leakage, then notes.

    Leakage comes first, and again last: no number can be trusted before it is removed.
    """
    home = [row for row in rows if row.dataset == rows[0].dataset]
    names = list(dict.fromkeys(row.attribute for row in home))
    found = [f"LEAK: {line}" for line in leak_sentences([leak for leak in leaks if leak.count])]
    lines = [line for name in names for line in _attribute([row for row in home if row.attribute == name])]
    lines += [line for name in names for line in _gaps(home, name)]
    lines += [line] if (line := control_sentence(home)) else []
    removals = [row for row in home if isinstance(row, RemovalRow) and row.label == MACRO]
    lines += [_removal(row) for row in removals if row.attribute != COIN]
    lines += [] if found else _no_leakage(leaks)
    lines += [f"note: {note}" for note in notes]
    return [*found, *lines, *(found if lines else [])]


def _attribute(rows: Sequence[AuditRow]) -> list[str]:
    """How well the encoder predicts an attribute, then how the other arms do."""
    probes = [row for row in rows if isinstance(row, AttributeProbe) and row.level is None and row.metric in _METRICS]
    if not probes:
        return []
    own, name = probes[0], probes[0].attribute
    if own.reason or own.value is None or own.ci_low is None or own.ci_high is None:
        return [f"{name} was not predicted from the embedding of {own.run} ({own.reason})"]
    if name == COIN:
        return []
    where = f"{name} {{}} from the embedding of {own.run}: {_METRICS[own.metric]} {_interval(own.value, own)}"
    line = where.format("can be predicted" if readable(own) else "is not shown to be predictable") + _could_see(own)
    differences = [row for row in rows if isinstance(row, AttributeDifference)]
    parts = [_difference(row) for row in differences if row.reason is None]
    left = {f"{row.arm.title}{without(row.without)}": row.reason for row in probes[1:] if row.reason}
    parts += [f"{title}: {reason}" for title, reason in left.items()]
    return [line, *(f"  {part}" for part in parts)]


def _could_see(own: AttributeProbe) -> str:
    """Beside an attribute that is not shown: what would have been."""
    if readable(own) or own.detectable is None:
        return ""
    return f"; {_METRICS[own.metric]} {own.detectable:.3f} would be shown in 80 % of such audits"


def without(variables: Sequence[str]) -> str:
    """What was taken out of a baseline's chart.

    >>> without(["sex"]), without([])
    (' without sex', '')
    """
    return f" without {' and '.join(variables)}" if variables else ""


def control_sentence(rows: Sequence[AuditRow]) -> str | None:
    """Whether the coin shows anything on one data set; None where it was not tested."""
    tests, failed = control_tests(rows), control_failed(rows)
    if not tests:
        return None
    what = plural(len(tests), "test")
    least, part = min((row.p_holm, row.part) for row in failed or tests if row.p_holm is not None)
    if not failed:
        said = f"smallest {p_said(least)}"
        return f"negative control passed: a random coin flip per patient shows nothing in {what} ({said})"
    return (
        f"negative control failed: the results are unreliable; a random coin flip per patient shows something in "
        f"{len(failed)} of {what} ({p_said(least)} after correction, part {part})"
    )


def _difference(row: AttributeDifference) -> str:
    said = after_correction(row.in_words(row.a, row.b), row.ci_low, row.ci_high, row.corrected_over, "attribute")
    a = "" if row.seeds == 1 else f"mean of {row.seeds} seeds, {row.a} {_number(row.value_a)}, "
    b = f"{row.b}{without(row.without)}"
    return f"{a}{b} {_number(row.value_b)}: difference {_interval(row.difference, row, '+')}, {said}"


def _gaps(rows: Sequence[AuditRow], name: str) -> list[str]:
    """The gaps of the mean over labels, each with what equal subgroups would show; the coin is the negative control."""
    parts = []
    for row in rows:
        if isinstance(row, SubgroupRow) and (row.attribute, row.metric, row.label) == (name, "gap", MACRO):
            if row.reason or row.p_holm is None or row.of is None or name == COIN:
                continue
            at = {None: "", "common": " at the common threshold", "own": " at each subgroup's own threshold"}
            ends = f"{row.smallest} lowest, {row.largest} highest"
            chance = f"{_number(row.expected)} between equal subgroups, {p_said(row.p_holm)} after correction"
            parts.append(f"{_GAPS[row.of]}{at[row.threshold]} {_interval(row.value, row)} ({ends}; {chance})")
    return [f"largest gap between subgroups of {name}:", *(f"  {part}" for part in parts)] if parts else []


def _removal(row: RemovalRow) -> str:
    readers = (("a linear probe", row.attribute_after), ("nearest neighbours", row.neighbours_after))
    left = [f"{value:.3f} by {who}" for who, value in readers if value is not None]
    metric = _METRICS[row.attribute_metric]
    then = f"; {row.attribute} is then predicted with {metric} {', '.join(left)}" if left else ""
    directions = f"{row.directions} direction{'' if row.directions == 1 else 's'}"
    removed = f"after removal of {row.attribute} (LEACE, {directions})"
    if row.reason:
        return f"{removed} there is no disease AUROC ({row.reason}){then}"
    difference = _interval(row.difference, row, "+")
    said = f"{removed} disease AUROC is {_number(row.after)} instead of {_number(row.before)}: {difference}"
    if row.beyond_random is not None:
        ends = f"[{_number(row.beyond_low, '+')}, {_number(row.beyond_high, '+')}]"
        said += f", beyond as many random directions {row.beyond_random:+.3f} {ends}"
    return said + then


def _no_leakage(leaks: Sequence[Leak]) -> list[str]:
    patients, images = (
        len({leak.between for leak in leaks if leak.kind in kinds}) for kinds in (("patient",), _IMAGES)
    )
    if not patients + images:
        return ["leakage was not checked: no two splits could be compared"] if leaks else []
    said = [
        f"no {what} appears in two splits ({_pairs(count)} compared)" if count else f"{what}s were not compared"
        for what, count in (("patient", patients), ("image", images))
    ]
    return [f"no leakage found: {', '.join(said)}"]


def leak_sentences(leaks: Sequence[Leak], *, masked: bool = False) -> list[str]:
    """Rows of leaks.jsonl that share something, in words; `masked` for what leaves the house, without
    small counts.

    >>> leak_sentences([Leak(kind="patient", between=("pretraining", "mimic:test"), count=1)])
    ['1 patient is in pretraining and in mimic:test']
    """
    lines = []
    for leak in leaks:
        (first, second), one = leak.between, leak.count == 1 and not masked
        count = told if masked else plural
        if leak.kind == "variable":
            lines.append(f"{first} used {', '.join(map(str, leak.examples))}, known only after the image")
        elif leak.kind == "patient":
            lines.append(f"{count(leak.count, 'patient')} {'is' if one else 'are'} in {first} and in {second}")
        else:
            alike = f"{'is' if one else 'are'} {_IMAGES[leak.kind]} {'one' if one else 'some'} of {first}"
            lines.append(f"{count(leak.count, 'image')} of {second} {alike}")
    return lines


def _pairs(count: int) -> str:
    return f"{count} pair{'s' if count > 1 else ''}"


def _number(value: float | None, sign: str = "") -> str:
    return "nothing" if value is None else f"{value:{sign}.3f}"


def _interval(value: float | None, row: Interval, sign: str = "") -> str:
    return f"{_number(value, sign)} [{_number(row.ci_low, sign)}, {_number(row.ci_high, sign)}]"
