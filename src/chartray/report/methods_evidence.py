"""The methods' part on what was measured besides AUROC and what was audited."""

from collections.abc import Sequence

from chartray.report.inputs import AuditResults, Results
from chartray.results.schema import METRIC_WORDS
from chartray.wording import joined

_ATTRIBUTE_METRICS = {
    "auroc": "AUROC for categories",
    "r2": "the explained variance R²",
    "mae": "the mean absolute error for numbers",
}


def measured(results: Sequence[Results]) -> list[str]:
    """Sentences on the metrics that these folders hold."""
    scores = [score for one in results for score in one.scores]
    metrics = {one.metric for one in scores}
    ranked = [METRIC_WORDS[one] for one in ("auroc", "average_precision") if one in metrics]
    found = [f"Measured were {joined(ranked)}."] if ranked else []
    if metrics & {"brier", "ece"}:
        found.append(
            "Calibration was measured by the Brier score and the expected calibration error over bins of equally many "
            "images."
        )
    wanted = next((one.at_specificity for one in scores if one.at_specificity is not None), None)
    if wanted is not None:
        reached = f"{100 * wanted:g} % specificity on the validation images"
        found.append(f"Sensitivity is reported at thresholds that reached {reached}.")
    if any(one.delong_low is not None for one in scores):
        found.append(
            "As a cross-check, DeLong's variance was computed with images clustered by patient (Obuchowski 1997)."
        )
    if any(one.studies for one in results):
        found.append("The score of a study is the mean of its images' scores.")
    return found


def audited(audits: Sequence[AuditResults]) -> list[str]:
    """Sentences on what these folders hold, and on nothing else."""
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
