"""What an audit found, in sentences: what a person reads at the end of `chartray audit`."""

from collections.abc import Mapping, Sequence
from typing import Any

from chartray.audit.attributes import COIN
from chartray.evaluation.rows import MACRO
from chartray.results.verdict import Verdict, after_correction

_METRICS = {"auroc": "AUROC", "r2": "R2"}
_GAPS = {
    "auroc": "disease AUROC",
    "calibration": "calibration (mean score - observed rate)",
    "false_negative_rate": "the rate of missed findings",
}
# Half widths of a normal's central 99.9 % and 95 %: in 95 % intervals 1 healthy audit in 20 would read its coin.
_STRICTER = 3.2905 / 1.9600
_KINDS = {"exact film": "films, pixel by pixel,", "near film": "films, nearly alike,"}


def spoken(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The rows of `audit` in words, on the first data set: readings and differences, gaps, removal, leaks, then notes.

    A difference or a gap that was not shown is said to be none shown. Leaks that were found come first, and again last:
    no number between them can be trusted before they are mended.
    """
    audited = [row for row in rows if row["part"] not in ("leak", "note")]
    dataset = audited[0]["dataset"] if audited else None
    home = [row for row in audited if row["dataset"] == dataset]
    leaked = [row for row in rows if row["part"] == "leak"]
    found = _found([row for row in leaked if row["count"]])
    lines = [line for name in _attributes(home) for line in _reading(home, name)]
    lines += [line for name in _attributes(home) if (line := _gaps(home, name))]
    lines += [_removed(row) for row in home if row["part"] == "removed" and row["label"] == MACRO]
    lines += [] if found else _none_found(leaked)
    lines += [f"note: {row['note']}" for row in rows if row["part"] == "note"]
    return [*found, *lines, *(found if lines else [])]


def _attributes(rows: Sequence[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(row["attribute"] for row in rows))


def _reading(rows: Sequence[dict[str, Any]], name: str) -> list[str]:
    """The encoder's reading of an attribute, then what every other arm makes of it."""
    read = [row for row in rows if row["part"] == "readability" and row["attribute"] == name and row["level"] is None]
    read = [row for row in read if row["metric"] in _METRICS]
    if not read:
        return []
    own, metric = read[0], _METRICS[read[0]["metric"]]
    if own["reason"]:
        return [f"{name}: cannot be told from the embedding of {own['run']} ({own['reason']})"]
    chance = 0.5 if own["metric"] == "auroc" else 0.0
    reached = f"from the embedding of {own['run']} with {metric} {_interval(own, 'value')}"
    if name == COIN:
        # Resamples too few for the tails of 99.9 % give its width by the normal's.
        half = (own["ci_high"] - own["ci_low"]) / 2 * _STRICTER
        if abs(own["value"] - 0.5) <= half:
            return [f"{name} is not read {reached}: a toss cannot be read, as it should be"]
        outside = f"0.5 is outside {own['value']:.3f} +- {half:.3f}, 99.9 %"
        return [f"{name} is read {reached}: a toss was read ({outside}), so trust no other"]
    how = "is read" if own["ci_low"] > chance else "is not shown to be read"
    line = f"{name} {how} {reached}"
    parts: list[str] = []
    differences = [row for row in rows if row["part"] == "difference" and row["attribute"] == name]
    for row in differences:
        if row["reason"] is None:
            difference = f"{row['difference']:+.3f} [{row['ci_low']:+.3f}, {row['ci_high']:+.3f}]"
            who = (
                row["b"]
                if row["seeds"] == 1
                else f"over {row['seeds']} seeds {row['a']} {row['value_a']:.3f}, {row['b']}"
            )
            parts.append(f"{who} {row['value_b']:.3f}: difference {difference}, {_verdict(row)}")
    left = {row["control"]: row["reason"] for row in read[1:] if row["reason"]}
    parts += [f"{control}: {reason}" for control, reason in left.items()]
    parts += list(dict.fromkeys(row["claim"] for row in differences if row.get("claim")))
    return [line, *(f"  {part}" for part in parts)]


def _verdict(row: dict[str, Any]) -> str:
    said = Verdict(row["verdict"]).named(row["a"], row["b"])
    return after_correction(said, row["ci_low"], row["ci_high"], row["corrected_over"], "attribute")


def _gaps(rows: Sequence[dict[str, Any]], name: str) -> str | None:
    """The gaps of the mean over labels, each beside what random groups would show."""
    parts = []
    for row in rows:
        if row["part"] == "group" and row["attribute"] == name and row["metric"] == "gap" and row["label"] == MACRO:
            if row["reason"] or not _known(row["p"]):
                continue
            chance = "no more than random groups" if row["p"] >= 0.05 else "random groups"
            ends = f"{row['smallest']} lowest, {row['largest']} highest"
            parts.append(
                f"{_GAPS[row['of']]} differs by {_interval(row, 'value')} ({ends}; {chance}: {row['expected']:.3f})"
            )
    return f"between groups of {name}: " + "; ".join(parts) if parts else None


def _removed(row: dict[str, Any]) -> str:
    readers = {"attribute_after": "by a linear probe", "neighbours_after": "by neighbours"}
    left = [f"{row[name]:.3f} {who}" for name, who in readers.items() if _known(row.get(name))]
    read = (
        f"; {row['attribute']} is then read with {_METRICS[row['attribute_metric']]} {', '.join(left)}" if left else ""
    )
    removed = f"without the directions of {row['attribute']} ({row['directions']})"
    if row["reason"]:
        return f"{removed} disease AUROC cannot be told ({row['reason']}){read}"
    difference = f"{row['difference']:+.3f} [{row['ci_low']:+.3f}, {row['ci_high']:+.3f}]"
    return f"{removed} disease AUROC is {row['after']:.3f} instead of {row['before']:.3f}: {difference}{read}"


def _known(value: float | None) -> bool:
    return value is not None and value == value


def _none_found(rows: Sequence[dict[str, Any]]) -> list[str]:
    patients, films = (
        len({tuple(row["between"]) for row in rows if row["kind"] in kinds}) for kinds in (("patient",), _KINDS)
    )
    if not patients + films:
        return ["no leak looked for: no two places could be compared"] if rows else []
    said = [f"no patient shared in {_pairs(patients)}"] if patients else ["no patients compared"]
    said.append(f"no film shared in {_pairs(films)}" if films else "no films compared")
    return [f"no leak found: {', '.join(said)}"]


def _found(found: Sequence[dict[str, Any]]) -> list[str]:
    return [f"LEAK: {line}" for line in leaks_said(found)]


def leaks_said(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Rows of leaks.jsonl that share something, in words.

    >>> leaks_said([{"kind": "patient", "between": ["pretraining", "mimic:test"], "count": 1, "examples": []}])
    ['1 patient is in pretraining and in mimic:test']
    """
    lines = []
    for row in found:
        first, second = row["between"]
        one = row["count"] == 1
        if row["kind"] == "variable":
            lines.append(f"{first} saw {', '.join(row['examples'])}, known only after the film")
        elif row["kind"] == "patient":
            lines.append(f"{row['count']} patient{' is' if one else 's are'} in {first} and in {second}")
        else:
            kind = _KINDS[row["kind"]].replace("films", "film", int(one))
            lines.append(f"{row['count']} {kind} of {second} {'is' if one else 'are'} in {first} too")
    return lines


def _pairs(count: int) -> str:
    return f"{count} pair{'s' if count > 1 else ''} of places"


def _interval(row: dict[str, Any], value: str) -> str:
    return f"{row[value]:.3f} [{row['ci_low']:.3f}, {row['ci_high']:.3f}]"
