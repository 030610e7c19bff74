"""Drawn findings -> labels in the csv files, by a labeller of reports and by radiologists."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from chartray.schema import CHEXPERT_LABELS, NIH_LABELS
from chartray.simulate.population import PRESENT_FROM

Severities = Mapping[str, NDArray[np.float64]]
# The drawn findings of each label; their greatest severity counts. "No Finding" is derived from the others.
SOURCES: dict[str, tuple[str, ...]] = {
    "Atelectasis": ("atelectasis",),
    "Cardiomegaly": ("cardiomegaly",),
    "Consolidation": ("consolidation",),
    "Edema": ("edema",),
    "Enlarged Cardiomediastinum": ("wide_mediastinum",),
    "Fracture": ("fracture",),
    "Lung Lesion": ("nodule", "mass"),
    "Lung Opacity": ("haze", "consolidation", "pneumonia", "mass"),
    "Pleural Effusion": ("effusion",),
    "Pleural Other": ("pleural_thickening",),
    "Pneumonia": ("pneumonia",),
    "Pneumothorax": ("pneumothorax",),
    "Support Devices": ("devices",),
    "Effusion": ("effusion",),
    "Infiltration": ("haze",),
    "Mass": ("mass",),
    "Nodule": ("nodule",),
    "Emphysema": ("emphysema",),
    "Fibrosis": ("fibrosis",),
    "Pleural_Thickening": ("pleural_thickening",),
    "Hernia": ("hernia",),
}
# The probability that a report says that a finding is absent, instead of not mentioning it.
DENIED = {"Pleural Effusion": 0.45, "Pneumothorax": 0.50, "Edema": 0.20, "Consolidation": 0.18, "Pneumonia": 0.15}
_DENIED_OTHERWISE = 0.06
# The labeller's errors: present findings labelled uncertain or missed; absent ones labelled present or uncertain (more
# often if faint).
UNCERTAIN, MISSED, INVENTED, DOUBTED, DOUBTED_FAINT = 0.08, 0.04, 0.01, 0.015, 0.12


def severity(label: str, severities: Severities) -> NDArray[np.float64]:
    """The drawn severity of `label`, (n,); for "No Finding" 1 minus the greatest of all others."""
    if label == "No Finding":
        others = [
            severity(name, severities) for name in CHEXPERT_LABELS if name not in ("No Finding", "Support Devices")
        ]
        return np.asarray(1.0 - np.max(others, axis=0))
    return np.asarray(np.max([severities[source] for source in SOURCES[label]], axis=0))


def truth(label: str, severities: Severities) -> NDArray[np.bool_]:
    """Whether the finding's severity counts as present."""
    if label == "No Finding":
        return np.asarray(severity(label, severities) > 1.0 - PRESENT_FROM)
    return np.asarray(severity(label, severities) >= PRESENT_FROM)


def labeller(severities: Severities, rng: np.random.Generator) -> dict[str, NDArray[np.float64]]:
    """The 14 CheXpert labels of n reports: 1, 0, -1 uncertain, NaN not mentioned; No Finding is 1 or NaN."""
    written: dict[str, NDArray[np.float64]] = {}
    for label in CHEXPERT_LABELS:
        if label == "No Finding":
            continue
        present, strength = truth(label, severities), severity(label, severities)
        chance, said = rng.random((2, len(present)))
        positive = np.select([chance < MISSED, chance < MISSED + UNCERTAIN], [np.nan, -1.0], 1.0)
        doubt = np.where(strength > 0.05, DOUBTED_FAINT, DOUBTED)
        denied = np.where(said < DENIED.get(label, _DENIED_OTHERWISE), 0.0, np.nan)
        negative = np.select([chance < INVENTED, chance < INVENTED + doubt], [1.0, -1.0], denied)
        written[label] = np.where(present, positive, negative)
    mentioned = [np.isin(column, (1.0, -1.0)) for name, column in written.items() if name != "Support Devices"]
    clear = ~np.any(mentioned, axis=0) & (rng.random(len(mentioned[0])) < 0.9)
    written["No Finding"] = np.where(clear, 1.0, np.nan)
    return {label: written[label] for label in CHEXPERT_LABELS}


def radiologist(severities: Severities) -> dict[str, NDArray[np.float64]]:
    """The 14 CheXpert labels read from the image: 1 or 0, complete."""
    return {label: truth(label, severities).astype(np.float64) for label in CHEXPERT_LABELS}


def nih(severities: Severities, rng: np.random.Generator) -> list[str]:
    """NIH's "Finding Labels", one string per image: names joined by |, or "No Finding"; with some label noise."""
    columns = {}
    for label in NIH_LABELS:
        present = truth(label, severities)
        chance = rng.random(len(present))
        columns[label] = np.where(present, chance > MISSED, chance < INVENTED)
    count = len(next(iter(columns.values())))
    return ["|".join(name for name in NIH_LABELS if columns[name][n]) or "No Finding" for n in range(count)]
