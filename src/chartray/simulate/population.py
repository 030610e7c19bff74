"""The simulated patients: a table of dependencies, and a sampler that follows its order.

The table was written before any pretraining. Directions are clinical; strengths are chosen, not estimated.
Units of a cause: age in decades from 60, male -0.5 or 0.5, factors in standard deviations, yes/no as 0 or 1.
Units of an effect: log-odds if it is yes/no, else its own unit.
"""

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Columns = dict[str, NDArray[np.float64]]


class Latent(NamedTuple):
    """One simulated variable: `baseline` is a mean, or log-odds if `kind` is yes_no or finding."""

    baseline: float
    spread: float
    kind: Literal["number", "yes_no", "finding"]
    group: Literal["chart", "scan", "hidden", "anatomy", "finding"]


class Dependency(NamedTuple):
    """`effect` rises by `strength` for one unit of `cause`."""

    cause: str
    effect: str
    strength: float


# In the order of drawing: causes before effects. A finding is a severity in [0, 1].
LATENTS: dict[str, Latent] = {
    "age": Latent(0.0, 1.8, "number", "chart"),
    "male": Latent(0.05, 0.0, "yes_no", "chart"),
    "severity": Latent(0.0, 0.9, "number", "chart"),
    "admitted": Latent(0.3, 0.0, "yes_no", "chart"),
    "icu": Latent(-1.3, 0.0, "yes_no", "chart"),
    "died": Latent(-4.2, 0.0, "yes_no", "chart"),
    "portable": Latent(-1.2, 0.0, "yes_no", "scan"),
    "recumbent": Latent(-2.5, 0.0, "yes_no", "scan"),
    "smoking": Latent(0.0, 1.0, "number", "hidden"),
    "habitus": Latent(0.0, 1.0, "number", "hidden"),
    "heart_failure": Latent(0.0, 1.0, "number", "hidden"),
    "infection": Latent(0.0, 1.0, "number", "hidden"),
    "malignancy": Latent(0.0, 1.0, "number", "hidden"),
    "trauma": Latent(0.0, 1.0, "number", "hidden"),
    "bone_density": Latent(1.0, 0.10, "number", "anatomy"),
    "aorta": Latent(0.35, 0.15, "number", "anatomy"),
    "heart_ratio": Latent(0.44, 0.015, "number", "anatomy"),
    "thorax_width": Latent(0.71, 0.025, "number", "anatomy"),
    "breast": Latent(0.55, 0.15, "number", "anatomy"),
    "kyphosis": Latent(0.30, 0.12, "number", "anatomy"),
    "inspiration": Latent(0.0, 0.035, "number", "anatomy"),
    "underexposure": Latent(0.0, 0.6, "number", "anatomy"),
    "cardiomegaly": Latent(-1.9, 0.0, "finding", "finding"),
    "edema": Latent(-2.5, 0.0, "finding", "finding"),
    "pneumonia": Latent(-2.7, 0.0, "finding", "finding"),
    "consolidation": Latent(-2.9, 0.0, "finding", "finding"),
    "haze": Latent(-2.7, 0.0, "finding", "finding"),
    "fracture": Latent(-2.9, 0.0, "finding", "finding"),
    "effusion": Latent(-2.3, 0.0, "finding", "finding"),
    "atelectasis": Latent(-2.2, 0.0, "finding", "finding"),
    "emphysema": Latent(-2.8, 0.0, "finding", "finding"),
    "fibrosis": Latent(-3.1, 0.0, "finding", "finding"),
    "pneumothorax": Latent(-3.0, 0.0, "finding", "finding"),
    "nodule": Latent(-2.9, 0.0, "finding", "finding"),
    "mass": Latent(-3.4, 0.0, "finding", "finding"),
    "wide_mediastinum": Latent(-2.5, 0.0, "finding", "finding"),
    "pleural_thickening": Latent(-2.8, 0.0, "finding", "finding"),
    "hernia": Latent(-3.9, 0.0, "finding", "finding"),
    "devices": Latent(-1.9, 0.0, "finding", "finding"),
}
# Drawn once per patient; all others once per study.
OF_PATIENT = ("age", "male", "smoking", "habitus", "bone_density", "aorta", "thorax_width", "breast", "kyphosis")

DEPENDENCIES: tuple[Dependency, ...] = (
    # The course of an illness.
    Dependency("age", "severity", 0.12),
    Dependency("severity", "admitted", 1.0),
    Dependency("age", "admitted", 0.15),
    Dependency("severity", "icu", 1.2),
    Dependency("severity", "died", 1.2),
    Dependency("age", "died", 0.30),
    Dependency("icu", "died", 1.5),
    # How the image is taken: sicker patients are imaged in bed.
    Dependency("severity", "portable", 0.5),
    Dependency("age", "portable", 0.15),
    Dependency("admitted", "portable", 1.1),
    Dependency("icu", "portable", 3.5),
    Dependency("portable", "recumbent", 1.6),
    Dependency("icu", "recumbent", 1.4),
    # Hidden factors, which depend on the chart.
    Dependency("male", "smoking", 0.5),
    Dependency("age", "heart_failure", 0.30),
    Dependency("severity", "heart_failure", 0.35),
    Dependency("severity", "infection", 0.50),
    Dependency("icu", "infection", 0.30),
    Dependency("age", "malignancy", 0.25),
    Dependency("died", "malignancy", 0.40),
    Dependency("smoking", "malignancy", 0.35),
    Dependency("age", "trauma", -0.15),
    Dependency("male", "trauma", 0.40),
    # Anatomy.
    Dependency("age", "bone_density", -0.11),
    Dependency("male", "bone_density", 0.10),
    Dependency("age", "aorta", 0.13),
    Dependency("age", "heart_ratio", 0.010),
    Dependency("male", "heart_ratio", -0.008),
    Dependency("male", "thorax_width", 0.06),
    Dependency("habitus", "thorax_width", 0.015),
    Dependency("male", "breast", -0.95),
    Dependency("habitus", "breast", 0.12),
    Dependency("age", "kyphosis", 0.10),
    Dependency("severity", "inspiration", -0.030),
    Dependency("portable", "inspiration", -0.045),
    Dependency("icu", "inspiration", -0.025),
    Dependency("icu", "underexposure", 0.5),
    Dependency("portable", "underexposure", 0.5),
    Dependency("habitus", "underexposure", 0.3),
    # Findings, from the chart.
    Dependency("age", "cardiomegaly", 0.40),
    Dependency("male", "cardiomegaly", -0.20),
    Dependency("severity", "edema", 0.40),
    Dependency("icu", "edema", 0.40),
    Dependency("died", "edema", 0.50),
    Dependency("age", "effusion", 0.25),
    Dependency("severity", "effusion", 0.40),
    Dependency("icu", "effusion", 0.40),
    Dependency("severity", "pneumonia", 0.20),
    Dependency("died", "pneumonia", 0.50),
    Dependency("severity", "haze", 0.30),
    Dependency("icu", "haze", 0.30),
    Dependency("severity", "atelectasis", 0.30),
    Dependency("icu", "atelectasis", 0.60),
    Dependency("age", "pneumothorax", -0.20),
    Dependency("male", "pneumothorax", 0.50),
    Dependency("icu", "pneumothorax", 0.50),
    Dependency("age", "fracture", 0.20),
    Dependency("age", "nodule", 0.20),
    Dependency("age", "wide_mediastinum", 0.35),
    Dependency("icu", "wide_mediastinum", 0.30),
    Dependency("male", "pleural_thickening", 0.60),
    Dependency("age", "pleural_thickening", 0.25),
    Dependency("age", "emphysema", 0.25),
    Dependency("age", "fibrosis", 0.30),
    Dependency("age", "hernia", 0.45),
    Dependency("male", "hernia", -0.50),
    Dependency("severity", "devices", 0.60),
    Dependency("icu", "devices", 3.00),
    Dependency("admitted", "devices", 0.50),
    Dependency("died", "devices", 0.60),
    # Findings, from hidden factors.
    Dependency("heart_failure", "cardiomegaly", 1.20),
    Dependency("heart_failure", "edema", 1.30),
    Dependency("heart_failure", "effusion", 0.90),
    Dependency("infection", "pneumonia", 1.40),
    Dependency("infection", "consolidation", 0.70),
    Dependency("infection", "haze", 0.60),
    Dependency("infection", "effusion", 0.30),
    Dependency("trauma", "fracture", 1.40),
    Dependency("trauma", "pneumothorax", 0.80),
    Dependency("malignancy", "nodule", 0.90),
    Dependency("malignancy", "mass", 1.20),
    Dependency("malignancy", "effusion", 0.30),
    Dependency("smoking", "emphysema", 1.30),
    Dependency("smoking", "fibrosis", 0.40),
    # Findings, from each other.
    Dependency("cardiomegaly", "edema", 0.80),
    Dependency("cardiomegaly", "effusion", 0.60),
    Dependency("edema", "effusion", 1.00),
    Dependency("pneumonia", "consolidation", 1.80),
    Dependency("effusion", "atelectasis", 1.20),
    Dependency("emphysema", "pneumothorax", 0.90),
    Dependency("fracture", "pneumothorax", 1.20),
    Dependency("fracture", "effusion", 0.40),
    Dependency("mass", "wide_mediastinum", 0.80),
    Dependency("pneumothorax", "devices", 1.20),
)
# A finding is present from this severity on; absent findings may be faintly visible.
PRESENT_FROM = 0.40
_FAINT_UP_TO, _FAINT_SHARE = 0.22, 0.3


def draw(
    names: tuple[str, ...],
    known: Columns,
    count: int,
    rng: np.random.Generator,
    *,
    chart_effect: float = 1.0,
    shift: dict[str, float] | None = None,
) -> Columns:
    """Adds those of `names` that `known` lacks to its columns, each (count,), in the order of LATENTS.

    `chart_effect` multiplies every dependency of findings and hidden factors on the chart; at 0 findings do not depend
    on it. `shift` is added to the baselines (another hospital).
    """
    columns = dict(known)
    for name, latent in LATENTS.items():
        if name not in names or name in known:
            continue
        value = np.full(count, latent.baseline + (shift or {}).get(name, 0.0))
        for cause, effect, strength in DEPENDENCIES:
            if effect != name:
                continue
            scaled = latent.group in ("finding", "hidden") and LATENTS[cause].group == "chart"
            value = value + strength * (chart_effect if scaled else 1.0) * _as_cause(cause, columns[cause])
        noise, uniform = rng.standard_normal(count), rng.random((count, 2))
        if latent.kind == "number":
            columns[name] = value + latent.spread * noise
            continue
        yes = uniform[:, 0] < 1.0 / (1.0 + np.exp(-value))
        if latent.kind == "yes_no":
            columns[name] = yes.astype(np.float64)
        else:
            faint = np.clip((uniform[:, 1] - 1.0 + _FAINT_SHARE) / _FAINT_SHARE, 0.0, 1.0) * _FAINT_UP_TO
            columns[name] = np.where(yes, PRESENT_FROM + (1.0 - PRESENT_FROM) * uniform[:, 1], faint)
    return columns


def illness(
    known: Columns,
    count: int,
    rng: np.random.Generator,
    *,
    chart_effect: float = 1.0,
    shift: dict[str, float] | None = None,
) -> Columns:
    """Adds severity, admission, ICU stay and death; the last two only for admitted patients."""
    columns = dict(known)
    for name, needs in (("severity", None), ("admitted", None), ("icu", "admitted"), ("died", "admitted")):
        columns = draw((name,), columns, count, rng, chart_effect=chart_effect, shift=shift)
        if needs is not None:
            columns[name] = columns[name] * columns[needs]
    return columns


def _as_cause(name: str, value: NDArray[np.float64]) -> NDArray[np.float64]:
    if name == "male":
        return value - 0.5
    if LATENTS[name].kind == "finding":
        return (value >= PRESENT_FROM).astype(np.float64)
    return value


def years(age: NDArray[np.float64]) -> NDArray[np.int64]:
    """Latent age in decades from 60 -> whole years, 18 to 91 (MIMIC-IV writes everyone over 89 as 91)."""
    whole = np.clip(np.round(60.0 + 10.0 * age), 18, 91).astype(np.int64)
    return np.where(whole > 89, 91, whole)
