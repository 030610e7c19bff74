"""What an evaluation says on the command line before its numbers: label matches, blanks, charts of the baselines."""

from collections.abc import Iterable, Mapping

from chartray.results.arm import CHART_BASELINES, CHART_ONLY, Arm
from chartray.results.manifest import EvaluationManifest, StoreEntry
from chartray.truth import counted


def chart_baselines_said(arms: Iterable[Arm], left_out: Mapping[str, str]) -> list[str]:
    """Which chart the baselines among `arms` read and without what, or why none is scored.

    >>> chart_baselines_said([Arm(), Arm("sex", "chart-only")], {})
    ['chart-only and image+chart read the chart sex']
    """
    read = dict.fromkeys(arm.chart for arm in arms if arm.control in CHART_BASELINES)
    if read:
        without = [
            f"{name.removeprefix(f'{CHART_ONLY} ')}: {why}"
            for name, why in left_out.items()
            if name.startswith(f"{CHART_ONLY} ")
        ]
        return [
            f"chart-only and image+chart read the chart {' and '.join(read)}" + "".join(f"; {each}" for each in without)
        ]
    if CHART_ONLY in left_out:
        return [f"no {' and no '.join(CHART_BASELINES)}: {left_out[CHART_ONLY]}"]
    return []


def said_first(manifest: EvaluationManifest, arms: Iterable[Arm]) -> list[str]:
    """What a reader must know of an evaluation before its numbers."""
    return [
        *matches_said(manifest),
        *blanks_counted(manifest.settings.blank, manifest.stores, manifest.blank_negatives_learnt_from),
        *chart_baselines_said(arms, manifest.left_out),
        *(f"note: {note}" for note in manifest.not_compared),
        *(f"note: {arm.title}: {arm.caution}" for arm in dict.fromkeys(arms) if arm.caution),
    ]


def matches_said(manifest: EvaluationManifest) -> list[str]:
    """Which label of each external store each label of an evaluation met, and which met none."""
    lines = []
    for entry in manifest.stores[1:]:
        there = {match.label: match.there for match in entry.matches}
        if entry.part_of:
            continue  # it has the labels of the whole
        lines.append(f"{entry.dataset}: {len(there)} of {len(manifest.labels)} labels matched by name")
        width = max(len(label) for label in manifest.labels)
        lines += [f"  {label:<{width}}  {there.get(label, '-')}" for label in manifest.labels]
        if entry.unmatched_there:
            lines.append(f"  only there, not scored: {', '.join(entry.unmatched_there)}")
    return lines


def blanks_counted(blank: str, stores: Iterable[StoreEntry], learnt_from: Mapping[str, int] | None = None) -> list[str]:
    """How many blank labels count as negative in training, and in each data set that was scored.

    >>> stores = [StoreEntry(dataset="mimic", hash="", blank_negatives={"Edema": 12})]
    >>> blanks_counted("source", stores)
    ['blank labels counted as negative in mimic: Edema 12']
    """
    asked = "" if blank == "source" else f" (--blank {blank})"
    return [
        f"blank labels counted as negative in {where}{asked}: {counted(found, masked=True) or 'none'}"
        for where, found in blanks_by_place(stores, learnt_from)
    ]


def blanks_by_place(
    stores: Iterable[StoreEntry], learnt_from: Mapping[str, int] | None
) -> list[tuple[str, dict[str, int]]]:
    """The same as numbers: training and each data set that was counted, each with labels -> blanks."""
    places = [] if learnt_from is None else [("training", dict(learnt_from))]
    return places + [
        (one.dataset, dict(one.blank_negatives))
        for one in stores
        if one.blank_negatives is not None and not one.part_of
    ]
