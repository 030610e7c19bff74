"""The methods paragraph's second half: what was measured besides AUROC, how arms were compared, what was audited."""

from collections.abc import Sequence

from chartray.report.inputs import AuditResults, Results
from chartray.results.schema import Comparison, Score
from chartray.wording import joined

_ATTRIBUTE_METRICS = {
    "auroc": "AUROC for categories",
    "r2": "the explained variance R²",
    "mae": "the mean absolute error for numbers",
}


def evidence_sentences(results: Sequence[Results], audits: Sequence[AuditResults]) -> list[str]:
    """Sentences for a paper on what these folders hold, and on nothing else."""
    scores = [score for one in results for score in one.scores]
    comparisons = [pair for one in results for pair in one.comparisons]
    studies = any(one.studies for one in results)
    return [*_measured(scores, studies=studies), *_compared(comparisons), *_audited(audits)]


def _measured(scores: Sequence[Score], *, studies: bool) -> list[str]:
    found = []
    fewer = sorted({one.fraction for one in scores if one.fraction < 1})
    if fewer:
        draws = max(one.draws for one in scores if one.fraction < 1)
        shares = joined(f"{100 * share:g} %" for share in fewer)
        over = f", each the mean over {draws} draws of patients, which the intervals cover" if draws > 1 else ""
        found.append(
            f"Probes were also fitted on {shares} of the training and validation patients, nested by patient{over}."
        )
    metrics = {one.metric for one in scores}
    if metrics & {"brier", "ece"}:
        found.append(
            "Calibration was measured by the Brier score and the expected calibration error over bins of equally many "
            "images; the interval of the latter is its upper percentile, mirrored at the value."
        )
    wanted = next((one.at_specificity for one in scores if one.at_specificity is not None), None)
    if wanted is not None:
        reached = f"{100 * wanted:g} % specificity on the validation images"
        found.append(f"Sensitivity is reported at thresholds that reached {reached}.")
    if any(one.delong_low is not None for one in scores):
        found.append(
            "As a cross-check, DeLong's variance was computed with images clustered by patient (Obuchowski 1997)."
        )
    if studies:
        found.append("The score of a study is the mean of its images' scores.")
    return found


def _compared(comparisons: Sequence[Comparison]) -> list[str]:
    if not comparisons:
        return []
    found = []
    if any(one.degrees_of_freedom is not None for one in comparisons):
        found.append(
            "Differences between arms of several seeds were tested by Student's t on the same images. The variance "
            "is that of the patients (paired bootstrap) plus that of the seeds; degrees of freedom by Satterthwaite."
        )
    others = [one for one in comparisons if one.degrees_of_freedom is None]
    if others:
        above = any("seeds" in one.levels for one in others)
        how = "a hierarchical bootstrap of patients and seeds" if above else "a paired bootstrap of patients"
        found.append(f"{'Other differences' if found else 'Differences between arms'} were tested by {how}.")
    if any(one.p_holm is not None for one in comparisons):
        found.append("P values of labels were corrected by Holm's method within one pair of arms, data set and metric.")
    if any(one.delong_p is not None for one in comparisons):
        found.append("DeLong's test of paired AUROCs, clustered by patient, was computed too.")
    return found


def _audited(audits: Sequence[AuditResults]) -> list[str]:
    probes = [row for one in audits for row in one.probes]
    subgroups = [row for one in audits for row in one.subgroups]
    found = []
    if probes:
        names = joined(dict.fromkeys(row.attribute for row in probes))
        metrics = joined(_ATTRIBUTE_METRICS.get(one, one) for one in dict.fromkeys(row.metric for row in probes))
        found.append(f"How well {names} can be read from the frozen embedding was measured by {metrics}.")
    if subgroups:
        names = joined(dict.fromkeys(row.attribute for row in subgroups))
        found.append(f"Scores were compared between subgroups by {names}; subgroups under 10 patients were suppressed.")
    if any(one.removals for one in audits):
        found.append("Findings were scored again after each attribute's directions were removed from the embedding.")
    if any(one.leaks is not None for one in audits):
        found.append(
            "Pretraining, training, validation and test were searched for shared patients and for exact or near copies "
            "of images (re-encoded, scaled, brightened or mirrored; cropped or rotated copies are not recognised)."
        )
    return found
