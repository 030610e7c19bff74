"""The planted effect: a finding that is told from the image only where sex and age are explained away.

    c = (a + g) / sqrt(2)                           a: age in standard deviations; g: -1 for women, 1 for men
    m = (y - 1/2) + 0.35 S c + 0.25 noise           y: the finding, in every second study, whoever the patient is

The image shows m, the marker, all over the lungs, and c, the cue, in one small place. Nothing else in it depends on
sex, age or y. S is the strength, 0 to 3; at 0 the marker says nothing about the chart. Who should gain by it, and why:
docs/planted.md.
"""

import numpy as np

from chartray.simulate.anatomy import Array, Thorax, Values, bell
from chartray.simulate.population import DEPENDENCIES, LATENTS, Columns

STRONGEST = 3.0
# The latent that y replaces, and its label in every layout.
FINDING, LABEL = "edema", "Edema"
MARKER, CUE = "planted_marker", "planted_cue"
CHART_PART, NOISE = 0.35, 0.25
# Attenuation for one unit of each; where the cue is, from the spine and the diaphragm, and its radius.
_MARKER_UNIT, _CUE_UNIT, _CUE_PLACE, _CUE_RADIUS = 0.09, 0.15, (-0.28, 0.16), 0.13


def plant(latents: Columns, strength: float, rng: np.random.Generator, *, mean_age: float = 0.0) -> Columns:
    """The columns with y as FINDING, and with MARKER and CUE; `mean_age` of the hospital in decades from 60."""
    age = (latents["age"] - mean_age) / LATENTS["age"].spread
    cue = (age + 2.0 * latents["male"] - 1.0) / np.sqrt(2.0)
    present = (rng.random(len(cue)) < 0.5).astype(np.float64)
    marker = present - 0.5 + CHART_PART * strength * cue + NOISE * rng.standard_normal(len(cue))
    return {**latents, FINDING: present, MARKER: marker, CUE: cue}


def without_signs(values: Values) -> dict[str, float]:
    """What anatomy and findings draw: neither FINDING nor any sign of sex and age."""
    shown = {**values, FINDING: 0.0, "age": 0.0}
    for cause, effect, strength in DEPENDENCIES:
        if cause in ("age", "male") and LATENTS[effect].group == "anatomy":
            shown[effect] -= strength * (values[cause] - (0.5 if cause == "male" else 0.0))
    return shown


def signs(thorax: Thorax, values: Values) -> Array:
    """The attenuation of marker and cue, (h, w)."""
    x, y = _CUE_PLACE
    spot = bell(thorax.x, thorax.y, (x, thorax.base + y), (_CUE_RADIUS, _CUE_RADIUS))
    return np.float32(_MARKER_UNIT * values[MARKER]) * thorax.air + np.float32(_CUE_UNIT * values[CUE]) * spot
