"""The planted effect: a finding that is told from the image only where sex and age are explained away.

    c = (a + g) / sqrt(2)                           a: age in standard deviations; g: -1 for women, 1 for men
    m = (y - 1/2) + 0.35 S c + 0.25 noise           y: the finding, in every second study, whoever the patient is

The image shows m, the marker, all over the lungs, and a and g, the cues, in one small place each. Nothing else in it
depends on sex, age or y. S is the strength, 0 to 3; at 0 the marker says nothing about the chart. Who should gain by
it, and why: docs/planted.md.
"""

import numpy as np
from numpy.typing import NDArray

from chartray.simulate.anatomy import Array, Thorax, Values, bell
from chartray.simulate.population import DEPENDENCIES, LATENTS, Columns

STRONGEST = 3.0
# The latent that y replaces, and its label in every layout.
FINDING, LABEL = "edema", "Edema"
MARKER, AGE_CUE, SEX_CUE = "planted_marker", "planted_age", "planted_sex"
CHART_PART, NOISE = 0.35, 0.25
# How much exposure and pose vary, as a share of what they do otherwise: a small encoder is to learn in few steps.
WOBBLE = 0.25
# Attenuation for one unit of each. A cue is gas, of which there is none 2.5 or 1 units under the mean; its place is
# measured from the spine and the diaphragm.
_MARKER_UNIT, _AGE_UNIT, _SEX_UNIT = 0.12, 0.12, 0.2
_LEAST_AGE, _LEAST_SEX = -2.5, -1.0
_AGE_PLACE, _SEX_PLACE, _CUE_RADIUS = (-0.42, 0.12), (-0.02, 0.20), 0.12


def plant(latents: Columns, strength: float, rng: np.random.Generator, *, mean_age: float = 0.0) -> Columns:
    """The columns with y as FINDING, and with MARKER and both cues; `mean_age` of the hospital in decades from 60."""
    age = (latents["age"] - mean_age) / LATENTS["age"].spread
    sex = 2.0 * latents["male"] - 1.0
    present = (rng.random(len(age)) < 0.5).astype(np.float64)
    columns = {**latents, FINDING: present, AGE_CUE: age, SEX_CUE: sex}
    marker = present - 0.5 + CHART_PART * strength * of_chart(columns) + NOISE * rng.standard_normal(len(age))
    return {**columns, MARKER: marker}


def of_chart(columns: Columns) -> NDArray[np.float64]:
    """c, of which the marker takes a part: (a + g) / sqrt(2), (n,), with mean 0 and standard deviation 1."""
    return np.asarray((columns[AGE_CUE] + columns[SEX_CUE]) / np.sqrt(2.0))


def without_signs(values: Values) -> dict[str, float]:
    """What anatomy and findings draw: neither FINDING nor any sign of sex and age."""
    shown = {**values, FINDING: 0.0, "age": 0.0}
    for cause, effect, strength in DEPENDENCIES:
        if cause in ("age", "male") and LATENTS[effect].group == "anatomy":
            shown[effect] -= strength * (values[cause] - (0.5 if cause == "male" else 0.0))
    return shown


def narrowed(low: float, high: float) -> tuple[float, float]:
    """A range around the same middle, WOBBLE times as wide."""
    middle, half = (low + high) / 2, WOBBLE * (high - low) / 2
    return middle - half, middle + half


def signs(thorax: Thorax, values: Values) -> Array:
    """The attenuation of marker and cues, (h, w)."""

    def gas(place: tuple[float, float], amount: float) -> Array:
        centre = (place[0], thorax.base + place[1])
        return np.float32(max(0.0, amount)) * bell(thorax.x, thorax.y, centre, (_CUE_RADIUS, _CUE_RADIUS))

    age = gas(_AGE_PLACE, _AGE_UNIT * (values[AGE_CUE] - _LEAST_AGE))
    sex = gas(_SEX_PLACE, _SEX_UNIT * (values[SEX_CUE] - _LEAST_SEX))
    return np.float32(_MARKER_UNIT * values[MARKER]) * thorax.air - age - sex
