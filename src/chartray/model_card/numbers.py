"""What a card says in numbers: tables by data set, differences, what can be read from the embedding."""

from collections.abc import Sequence
from typing import NamedTuple

from chartray.model_card.folders import CardAudit, CardEvaluation
from chartray.networks.description import Provenance
from chartray.results.arm import CHART_ONLY, PIXELS, UNTRAINED, dataset_name, disambiguated
from chartray.results.audit_rows import AttributeProbe
from chartray.results.manifest import EvaluationManifest, StoreEntry, reading
from chartray.results.schema import MACRO, METRIC_WORDS, Comparison, Score
from chartray.results.verdict import Verdict, seen, why_no_claim
from chartray.small_counts import nearly, told
from chartray.statistics.metrics import FEW_POSITIVE_PATIENTS
from chartray.truth import BLANK_WORDS, UNCERTAIN_WORDS, counted
from chartray.wording import p_said


class CardTable(NamedTuple):
    """Values by label, the macro first."""

    columns: list[str]
    rows: list[list[str]]


class MeasuredDataSet(NamedTuple):
    """Results on one data set; `says` are sentences."""

    name: str
    says: list[str]
    tables: list[CardTable]


def datasets_of(one: CardEvaluation) -> list[MeasuredDataSet]:
    """What an evaluation measured, data set by data set."""
    found = []
    for store in one.manifest.stores:
        scores = [row for row in one.scores if row.dataset == store.dataset]
        own = [row for row in scores if not row.arm.is_baseline]
        tables = [_beside_baselines(scores), *([_own(own)] if {row.metric for row in own} > {"auroc"} else [])]
        name = dataset_of(one.manifest, store.dataset)
        found.append(MeasuredDataSet(name, _how(one.manifest, store, scores), tables))
    return found


def _how(manifest: EvaluationManifest, store: StoreEntry, scores: Sequence[Score]) -> list[str]:
    settings, seen = manifest.settings, store.patients_seen_in_pretraining
    share = 100 * max(settings.data_percent)
    fixed = sorted({row.holds_fixed for row in scores if row.metric == "auroc" and row.holds_fixed})
    return [
        f"{size(store.films, store.patients)} ({store.split} split).",
        f"Protocol: {settings.protocol}, fitted on the training images of {dataset_name(manifest.home)} "
        f"({share:g} % of the patients).",
        f"Blank labels: {BLANK_WORDS.get(settings.blank, settings.blank)}{_blank(store)}.",
        f"Uncertain labels: {UNCERTAIN_WORDS.get(settings.uncertain, settings.uncertain)}.",
        f"Intervals: {100 * settings.level:g} %, {settings.resamples:,} resamples of the patients.",
        *(f"An interval of AUROC {one}." for one in fixed),
        "Whether the encoder was pretrained on scored patients is unknown."
        if seen is None
        else f"The encoder was pretrained on {told(seen, 'patient')} of those scored.",
        *_threshold(scores),
        *(
            [f"† Fewer than {FEW_POSITIVE_PATIENTS} positive patients: the value leans on single patients."]
            if any(row.few_positives for row in scores)
            else []
        ),
    ]


def _blank(store: StoreEntry) -> str:
    """How many blanks count as negative."""
    if store.blank_negatives is None:
        return " (the number that counts as negative is unknown)"
    said = {cell(label): blanks for label, blanks in store.blank_negatives.items()}
    return f" (counted as negative: {counted(said, masked=True) or 'none'})"


def _threshold(scores: Sequence[Score]) -> list[str]:
    chosen = {row.at_specificity for row in scores if row.at_specificity is not None}
    return [
        f"Sensitivity and specificity are at the threshold with a specificity of {value:g} on the validation images. "
        "Their intervals are exact (Clopper and Pearson)."
        for value in sorted(chosen)
    ]


def _beside_baselines(scores: Sequence[Score]) -> CardTable:
    """AUROC of the encoder and of the baselines."""
    aurocs = [row for row in scores if row.metric == "auroc"]
    arms = sorted({row.arm for row in aurocs}, key=lambda arm: (arm.is_baseline, arm.order))
    by = {(row.label, row.arm): row for row in aurocs}
    lines = []
    whole = max((row.n for row in aurocs if row.n is not None), default=0)
    for label in _labels(aurocs):
        there = [by.get((label, arm)) for arm in arms]
        first = next(row for row in there if row is not None)
        # The macro mean is over labels, each with its own positive images.
        positive = (
            "–"
            if first.n_positive is None or first.n is None
            else f"{nearly(first.n_positive, first.n)} of {nearly(first.n, whole)}"
        )
        lines.append([_title(first), positive, *map(_value, there)])
    titles = [cell(arm.title) if arm.is_baseline else "**this encoder**" for arm in arms]
    return CardTable(["AUROC", "Positive images", *titles], lines)


def _own(scores: Sequence[Score]) -> CardTable:
    """The encoder's other metrics."""
    metrics = [name for name in METRIC_WORDS if name != "auroc" and any(row.metric == name for row in scores)]
    by = {(row.label, row.metric): row for row in scores}
    firsts = {row.label: row for row in scores}
    lines = [
        [_title(firsts[label]), *(_value(by.get((label, metric))) for metric in metrics)] for label in _labels(scores)
    ]
    return CardTable(["This encoder", *(METRIC_WORDS[metric] for metric in metrics)], lines)


def _labels(scores: Sequence[Score]) -> list[str]:
    """The labels in their order, the macro mean first."""
    return sorted(dict.fromkeys(row.label for row in scores), key=lambda label: label != MACRO)


def _title(row: Score) -> str:
    few = " †" if row.few_positives else ""
    return f"macro mean of {len(row.labels or ())} labels" if row.label == MACRO else cell(row.label) + few


def _value(row: Score | AttributeProbe | None) -> str:
    if row is None or row.value is None:
        return "not scored" if row is None else cell(row.reason or "not defined")
    if row.ci_low is None or row.ci_high is None:
        return f"{row.value:.3f} (no interval: {cell(row.reason or 'unknown reason')})"
    return f"{row.value:.3f} [{row.ci_low:.3f}, {row.ci_high:.3f}]"


def compared(rows: Sequence[Comparison]) -> list[str]:
    """One sentence for each comparison of two arms, with its verdict."""
    found = []
    for row in rows:
        alike = disambiguated([row.arm_a, row.arm_b])
        titles = [alike.get(arm, arm).title for arm in (row.arm_a, row.arm_b)]
        a, b = titles if row.arm_a != row.arm_b else (row.a, row.b)
        found.append(_compared(row, cell(a), cell(b), dataset_name(row.dataset)))
    return found


def beside_baselines(evaluations: Sequence[CardEvaluation]) -> list[str]:
    """One sentence for each baseline and data set."""
    return [
        _compared(row, "This encoder", cell(row.arm_b.title), dataset_of(one.manifest, row.dataset))
        for one in evaluations
        for row in one.comparisons
        if (row.label, row.metric) == (MACRO, "auroc")
    ]


def _compared(row: Comparison, a: str, b: str, place: str) -> str:
    note = f" Note: {cell(row.note)}." if row.note else ""
    if why_no_claim(row.seeds) and row.ci_low is not None and row.ci_high is not None:
        way = "is higher than" if row.ci_low > 0 else "is lower than" if row.ci_high < 0 else ""
        on = f"on {place}: {_difference(row)}"
        what = f"{a} {way} {b} in macro AUROC {on}" if way else f"{a} against {b}: no difference seen {on}"
        return f"{seen(what, row.seeds, () if row.run_seed is None else (row.run_seed,))}.{note}"
    said = row.claim or (row.verdict.named(a, b) if row.verdict is not None else "no verdict")
    seeds = f"{row.seeds} seed{'' if row.seeds == 1 else 's'}"
    is_open = row.detectable is not None and row.verdict == Verdict.NO_DIFFERENCE and row.claim is None
    power = f" (80 % power for {row.detectable:.3f})" if is_open else ""
    return f"{a} minus {b} on {place}: macro AUROC {_difference(row)}, {seeds}; **{said}**{power}.{note}"


def _difference(row: Comparison) -> str:
    if row.difference is None or row.ci_low is None or row.ci_high is None:
        return f"not compared ({row.reason or 'no value'})"
    p = "" if row.p is None else f", {p_said(row.p)}"
    return f"{row.difference:+.3f} [{row.ci_low:+.3f}, {row.ci_high:+.3f}]{p}"


def better_baselines(one: CardEvaluation) -> list[str]:
    """A sentence for each baseline that pretraining should beat and whose macro AUROC is above the encoder's."""
    macro = [(row, row.value) for row in one.scores if (row.label, row.metric) == (MACRO, "auroc")]
    own = {row.dataset: value for row, value in macro if not row.arm.is_baseline and value is not None}
    return [
        f"On {dataset_of(one.manifest, row.dataset)} a baseline has the higher macro AUROC: {cell(row.arm.title)} "
        f"{value:.3f}, this encoder {own[row.dataset]:.3f}."
        for row, value in macro
        if row.arm.control in (UNTRAINED, PIXELS, CHART_ONLY)
        and value is not None
        and value > own.get(row.dataset, 1.0)
    ]


def readable(audit: CardAudit, made: Provenance) -> list[list[str]]:
    """How well attributes are read: attribute, data set, metric, value from the embedding, value from plain pixels."""
    runs = {one.run for one in audit.manifest.encoders if reading(one.provenance) == reading(made)}
    probes = [row for row in audit.rows if isinstance(row, AttributeProbe)]
    probes = [row for row in probes if row.level is None and row.metric != "mae"]
    pixels = {(row.dataset, row.attribute, row.metric): row for row in probes if row.arm.control == PIXELS}
    return [
        [
            cell(row.attribute),
            dataset_name(row.dataset),
            {"auroc": "AUROC", "r2": "R²"}.get(row.metric, row.metric),
            _value(row),
            _value(pixels.get((row.dataset, row.attribute, row.metric))),
        ]
        for row in probes
        if row.run in runs and not row.arm.is_baseline
    ]


def dataset_of(manifest: EvaluationManifest, dataset: str) -> str:
    """A data set of an evaluation, as a reader calls it, and whether it is simulated."""
    simulated = any(store.simulated for store in manifest.stores if store.dataset == dataset)
    return dataset_name(dataset) + (" (simulated)" if simulated else "")


def size(images: int | None, patients: int | None) -> str:
    """So many images of so many patients."""
    named = {"image": images, "patient": patients}
    return " of ".join(f"unknown {noun}s" if number is None else told(number, noun) for noun, number in named.items())


def cell(text: str) -> str:
    """Text that cannot break a Markdown table or become markup."""
    return "".join(f"\\{letter}" if letter in "\\|*_`<>[]#" else letter for letter in text)
