"""Rows of an evaluation and of a comparison, typed: one value or one difference with all that it depends on."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from chartray.report.arms import SOURCES, Arm, arm_of

MACRO = "macro"

_DATASETS = {"mimic": "MIMIC-CXR", "chexpert": "CheXpert", "nih": "NIH ChestX-ray14"}


def place_of(dataset: str, home: str) -> str:
    """Where a probe was scored, as a key: the data set, and whose probe it was where `home` says so."""
    return f"{dataset}<{home}" if home else dataset


def shown(place: str) -> str:
    """What a reader calls a data set or a place.

    >>> shown("mimic"), shown("mimic:second.store"), shown("hannover")
    ('MIMIC-CXR', 'MIMIC-CXR (second.store)', 'hannover')
    >>> shown("nih<nih"), shown("nih<mimic")
    ('NIH ChestX-ray14 (own probe)', 'NIH ChestX-ray14 (probe of MIMIC-CXR)')
    """
    dataset, _, home = place.partition("<")
    source, colon, folder = dataset.partition(":")
    name = _DATASETS.get(source, source) + (f" ({folder})" if colon else "")
    return name + ("" if not home else " (own probe)" if home == dataset else f" (probe of {shown(home)})")


class Score(NamedTuple):
    """One line of results.jsonl; `low` and `high` are None where there can be no interval, `reason` says why.

    `labels` are those of the macro mean, in macro rows; `home` is the data set that the probe was fitted on, ""
    where it is not recorded or goes without saying. `unit` is film or study. `threshold` was chosen on validation
    for the specificity `at_specificity`; `delong_low` and `delong_high` take films as independent; `draws` training
    subsets stand behind a value; `holds_fixed` says what its interval holds fixed; `by_chance` is the calibration error
    that scores without fault would have on as many films; `chosen_by` says on what the probe's strength, or the number
    of neighbours, was chosen.
    """

    arm: Arm
    run: str
    dataset: str
    protocol: str
    fraction: float
    split: str
    label: str
    metric: str
    value: float | None
    low: float | None
    high: float | None
    n: int | None
    n_positive: int | None
    seed: int | None
    uncertain: str | None
    blank: str | None
    resamples: int | None
    labels: tuple[str, ...]
    reason: str | None
    home: str = ""
    unit: str = "film"
    threshold: float | None = None
    at_specificity: float | None = None
    delong_low: float | None = None
    delong_high: float | None = None
    draws: int = 1
    holds_fixed: str = ""
    by_chance: float | None = None
    chosen_by: str = ""

    @property
    def place(self) -> str:
        """The data set, and whose probe was scored there."""
        return place_of(self.dataset, self.home)


class Comparison(NamedTuple):
    """One line of comparisons.jsonl: value(a) - value(b) on the same patients.

    `split` is "", `uncertain` and `blank` are None where they are not recorded; `seed` is that of the pretraining of a
    single pair of runs; `p_holm` is corrected over the labels, `delong_p` takes films as independent. `levels` says
    what was resampled (patients, or patients and seeds), `verdict` what may be said: a higher, b higher, no difference
    shown, or no claim; `by_seed` are the differences of the seeds that both have.
    """

    a: Arm
    b: Arm
    dataset: str
    protocol: str
    fraction: float
    label: str
    metric: str
    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    seeds: int
    split: str = ""
    uncertain: str | None = None
    blank: str | None = None
    home: str = ""
    seed: int | None = None
    p_holm: float | None = None
    delong_p: float | None = None
    levels: str = ""
    verdict: str = ""
    by_seed: tuple[float, ...] = ()

    @property
    def place(self) -> str:
        """The data set, and whose probe was scored there."""
        return place_of(self.dataset, self.home)


class Bin(NamedTuple):
    """One line of calibration.jsonl: of `n` films the mean `score` and the share `observed` that is positive.

    `low` and `high` enclose the observed share, patients resampled; NaN where there is no interval.
    """

    arm: Arm
    run: str
    dataset: str
    fraction: float
    label: str
    place_in_curve: int
    n: int
    score: float
    observed: float
    low: float
    high: float
    home: str = ""

    @property
    def place(self) -> str:
        """The data set, and whose probe was scored there."""
        return place_of(self.dataset, self.home)


def scores(rows: Sequence[Mapping[str, Any]]) -> list[Score]:
    """Rows of results.jsonl, of one or several runs.

    Raises KeyError where data set, label or metric is missing.
    """
    bases = {_beside(row): _arm(row) for row in rows if row.get("control") not in SOURCES}
    return [_score(row, bases.get(_beside(row))) for row in rows]


def comparison(row: Mapping[str, Any]) -> Comparison:
    """A row of comparisons.jsonl."""
    a = _arm(row, "_a")
    b = _arm(row, "_b", a)
    seeds = row.get("seeds") or 1
    return Comparison(
        a=a,
        b=b,
        dataset=str(row["dataset"]),
        protocol=str(row.get("protocol", "linear")),
        fraction=float(row.get("fraction") or 1.0),
        label=str(row["label"]),
        metric=_metric(str(row["metric"])),
        difference=number(row.get("difference")),
        low=number(row.get("ci_low")),
        high=number(row.get("ci_high")),
        p=number(row.get("p")),
        seeds=len(seeds) if isinstance(seeds, Sequence) else int(seeds),
        split=str(row.get("split") or ""),
        uncertain=row.get("uncertain"),
        blank=row.get("blank"),
        home=str(row.get("home") or ""),
        seed=_count(row.get("run_seed")),
        p_holm=number(row.get("p_holm")),
        delong_p=number(row.get("delong_p")),
        levels=str(row.get("levels") or ""),
        verdict=str(row.get("verdict") or ""),
        by_seed=tuple(value for one in row.get("by_seed") or () if (value := number(one)) is not None),
    )


def bins(rows: Sequence[Mapping[str, Any]], base: Arm | None) -> list[Bin]:
    """Rows of calibration.jsonl; `base` is the encoder of the folder. A bin without score or rate is left out."""
    found = []
    for row in rows:
        source = row.get("control") in SOURCES
        score, observed = number(row.get("score")), number(row.get("observed"))
        if score is None or observed is None:
            continue
        low, high = (number(row.get(end)) for end in ("ci_low", "ci_high"))
        found.append(
            Bin(
                arm=_arm(row, base=base) if source or base is None else base,
                run=str(row.get("run", "")),
                dataset=str(row["dataset"]),
                fraction=float(row.get("fraction") or 1.0),
                label=str(row["label"]),
                place_in_curve=int(row.get("bin") or 0),
                n=_count(row.get("n")) or 0,
                score=score,
                observed=observed,
                low=math.nan if low is None else low,
                high=math.nan if high is None else high,
                home=str(row.get("home") or ""),
            )
        )
    return found


def _beside(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Which encoder a floor was scored beside: two runs may share a name."""
    return row.get("run"), row.get("run_seed"), row.get("objective"), row.get("settings_hash")


def _arm(row: Mapping[str, Any], side: str = "", base: Arm | None = None) -> Arm:
    def of(name: str) -> Any:
        return row.get(name + side, row.get(name))

    return arm_of(
        of("chart"),
        of("control"),
        of("chart_use"),
        base,
        objective=of("objective"),
        settings=of("settings_hash"),
    )


def number(value: Any) -> float | None:
    """A finite number, else None: JSON null and NaN both say that there is no value."""
    return None if value is None or value != value or abs(value) == float("inf") else float(value)


def _score(row: Mapping[str, Any], base: Arm | None) -> Score:
    source = row.get("control") in SOURCES
    # A floor has the seed of its evaluation, an encoder that of its pretraining.
    seed = row.get("seed") if source or row.get("run_seed") is None else row["run_seed"]
    return Score(
        arm=_arm(row, base=base) if source or base is None else base,
        run=str(row.get("run", "")),
        dataset=str(row["dataset"]),
        protocol=str(row.get("protocol", "linear")),
        fraction=float(row.get("fraction") or 1.0),
        split=str(row.get("split", "test")),
        label=str(row["label"]),
        metric=_metric(str(row["metric"])),
        value=number(row.get("value")),
        low=number(row.get("ci_low")),
        high=number(row.get("ci_high")),
        n=_count(row.get("n")),
        n_positive=_count(row.get("n_positive")),
        seed=_count(seed),
        uncertain=row.get("uncertain"),
        blank=row.get("blank"),
        resamples=_count(row.get("resamples")),
        labels=tuple(row.get("labels") or ()),
        reason=row.get("reason"),
        home=str(row.get("home") or ""),
        unit=str(row.get("unit") or "film"),
        threshold=number(row.get("threshold")),
        at_specificity=number(row.get("at_specificity")),
        delong_low=number(row.get("delong_low")),
        delong_high=number(row.get("delong_high")),
        draws=_count(row.get("draws")) or 1,
        holds_fixed=str(row.get("holds_fixed") or ""),
        by_chance=number(row.get("by_chance")),
        chosen_by=str(row.get("chosen_by") or ""),
    )


def _metric(name: str) -> str:
    return {"average_precision": "auprc", "ap": "auprc"}.get(name.lower(), name.lower())


def _count(value: Any) -> int | None:
    return None if value is None or value != value else int(value)
