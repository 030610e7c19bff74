"""The thorax without findings: attenuation along the beam, from the front and from the side.

Thorax coordinates: x in [-1, 1] from image left (the patient's right) to image right, y from the neck (-1) to the
abdomen (1). Attenuation is in arbitrary units: 0 is air, 0.5 soft tissue, 1 bone. All arrays are (h, w) float32.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Values = Mapping[str, float]


class Thorax(NamedTuple):
    """The geometry that findings are placed by.

    `air` is the share of lung along the beam (0 to 1), `wall` the distance to the chest wall (positive inside),
    `height` the distance above the diaphragm, `across` 0 at the mediastinum (lateral: the sternum) and 1 at the wall
    (lateral: the spine), `side` -1 and 1 for the patient's right and left lung and 0 in lateral views. `opacity` is
    the share of the lung filled by heart and vessels, `tissue` the attenuation of all but the lung's air, `ribs` that
    of the ribs.
    """

    x: Array
    y: Array
    air: Array
    wall: Array
    height: Array
    across: Array
    side: Array
    opacity: Array
    tissue: Array
    ribs: Array
    hila: tuple[tuple[float, float], ...]
    half_width: float
    base: float
    lateral: bool


def step(distance: Array, softness: float) -> Array:
    """0 below -softness / 2, 1 above softness / 2, smooth between."""
    t: Array = distance * np.float32(1.0 / softness)
    t += np.float32(0.5)
    np.maximum(t, 0, out=t)
    np.minimum(t, 1, out=t)
    smooth: Array = t * np.float32(-2.0)
    smooth += np.float32(3.0)
    smooth *= t
    smooth *= t
    return smooth


def disc(x: Array, y: Array, centre: tuple[float, float], radii: tuple[float, float], softness: float) -> Array:
    """A soft-edged ellipse; `softness` in thorax units."""
    rho = np.sqrt(((x - centre[0]) / radii[0]) ** 2 + ((y - centre[1]) / radii[1]) ** 2)
    return step((1 - rho) * np.float32(min(radii)), softness)


def bell(x: Array, y: Array, centre: tuple[float, float], radii: tuple[float, float]) -> Array:
    """A Gaussian hill of height 1; `radii` are its standard deviations."""
    return np.exp(-0.5 * (((x - centre[0]) / radii[0]) ** 2 + ((y - centre[1]) / radii[1]) ** 2))


def border(y: Array, points: Sequence[tuple[float, float]]) -> Array:
    """A smooth outline x(y) through `points` (y, x), y increasing."""
    rows = np.linspace(-1.6, 1.6, 256)
    outline = np.interp(rows, [p[0] for p in points], [p[1] for p in points])
    kernel = np.hanning(15)
    padded = np.pad(outline, 7, mode="edge")
    smooth = np.convolve(padded, kernel / kernel.sum(), mode="valid").astype(np.float32)
    at = np.clip((y + np.float32(1.6)) * np.float32(255 / 3.2), 0, 254.99)
    index = at.astype(np.int32)
    part = at - index
    return np.asarray(smooth[index] * (1 - part) + smooth[index + 1] * part)


def _power(base: Array, whole: int) -> Array:
    """base ** (whole + 0.25), without the slow general power."""
    return np.asarray(base**whole * np.sqrt(np.sqrt(base)))


def _bands(phase: Array, duty: float) -> Array:
    """Ribs: one bright band for each whole number of `phase`, with brighter edges, as in cortical bone."""
    wave = 0.5 + 0.5 * np.cos(np.float32(2 * np.pi) * phase)
    band = step(wave - (1 - duty), 0.25)
    return band * (0.65 + 1.4 * (1 - band))


def frontal(x: Array, y: Array, v: Values) -> Thorax:
    """The thorax in a frontal view; `v` holds the anatomy latents, the severities and the traits of one radiograph."""
    wide, empty = v["thorax_width"], v["emphysema"]
    base = 0.47 + v["inspiration"] + 0.10 * empty
    ax = np.abs(x)
    depth = np.clip((y + 0.80) / 0.95, 0.0, None)
    cage = wide * np.sqrt(np.clip(1 - _power(1 - np.minimum(depth, 1), 2), 1e-4, 1)) + 0.04 * np.clip(depth - 1, 0, 1)
    wall, across = cage - ax, ax / cage
    side = np.sign(x)
    leftness = step(x, 0.16)
    lift = 0.05 + v["lift_right"] + leftness * np.float32(v["lift_left"] - v["lift_right"] - 0.05)
    flat = 1 - 0.6 * empty
    height = (
        base
        - 0.10 * flat
        - lift
        + flat * (0.62 * np.clip(across - 0.42, 0, 1) ** 2 + 0.3 * np.clip(0.42 - across, 0, 1) ** 2)
        - y
    )
    inside = step(wall, 0.045) * step(height, 0.03) * step(ax - 0.03, 0.06)
    air = inside * (0.58 + 0.42 * np.sqrt(np.clip(wall / (0.45 * wide), 0, 1)))

    heart_width = 2 * wide * (v["heart_ratio"] + 0.03 * v["portable"]) * (1 - 0.15 * empty)
    aorta, root = v["aorta"], 0.105 + 0.015 * v["portable"]
    widened = 0.16 * v["wide_mediastinum"]
    left_heart, right_heart = 0.66 * heart_width, 0.34 * heart_width
    top = base - 0.62 * heart_width - 0.10
    left = border(
        y,
        (
            (-1.0, root),
            (-0.62, root + 0.02 + widened),
            (-0.45, root + 0.01 + widened),
            (-0.34, root + 0.02 + 0.09 * aorta + 0.8 * widened),
            (-0.24, root + 0.01 + 0.02 * aorta + 0.8 * widened),
            (-0.14, root + 0.05 + 0.3 * widened),
            (max(top, -0.08), 0.45 * left_heart + 0.06),
            (base - 0.22, 0.92 * left_heart),
            (base - 0.10, left_heart),
            (base - 0.01, 0.97 * left_heart),
            (base + 0.10, 0.75 * left_heart),
        ),
    )
    right = border(
        y,
        (
            (-1.0, root),
            (-0.60, root + 0.01 + widened),
            (-0.25, root + 0.005 + 0.8 * widened),
            (-0.10, root + 0.02),
            (base - 0.28, 0.88 * right_heart + 0.02),
            (base - 0.15, right_heart + 0.02),
            (base + 0.10, 0.75 * right_heart),
        ),
    )
    shadow = step(np.minimum(left - x, x + right), 0.028)
    heart = shadow * step(y - min(top, 0.0), 0.3)
    hila = ((-0.17, -0.04), (0.18, -0.08))
    roots = sum(bell(x, y, hilum, (0.05, 0.09)) for hilum in hila)
    opacity = 1 - (1 - (0.70 + 0.14 * step(y + 0.1, 0.6)) * shadow) * (1 - 0.38 * roots)

    tissue, ribs = _frontal_bones(x, y, ax, across, cage, side, v)
    tissue = tissue - ribs * (0.6 * step(-height, 0.1))
    outline = 0.17 + (wide + 0.48) * np.sqrt(step(y + 0.80, 0.50)) - 0.30 * step(y + 0.15, 0.5) + v["girth"]
    body = step(outline - ax, 0.04) * (0.36 + 0.18 * np.sqrt(np.clip((outline - ax) / 0.5, 0, 1)))
    belly = step(-height, 0.06) * step(cage + 0.06 - ax, 0.1)
    bubble = disc(x, y, (0.36, base + 0.10 + 0.1 * v["bubble"]), (0.13, 0.07 + 0.05 * v["bubble"]), 0.03)
    tissue = tissue + body + belly * (0.20 - 0.22 * bubble * v["bubble"]) + 0.10 * heart
    if v["breast"] > 0.15:
        for sign in (-1, 1):
            around = (sign * 0.42 * wide / 0.7, 0.20 + 0.1 * v["sag"])
            cup = disc(x, y, around, (0.30, 0.27 + 0.06 * v["sag"]), 0.02)
            tissue = tissue + 0.12 * v["breast"] * cup * (0.25 + 0.75 * np.clip((y - around[1] + 0.2) / 0.4, 0, 1))
    return Thorax(x, y, air, wall, height, across, side, opacity, tissue, ribs, hila, wide, base, False)


def _frontal_bones(
    x: Array, y: Array, ax: Array, across: Array, cage: Array, side: Array, v: Values
) -> tuple[Array, Array]:
    bone, spacing = v["bone_density"], 0.150
    within = step(cage + 0.02 - ax, 0.05) * step(0.85 - y, 0.2) * step(y + 0.80, 0.06)
    slope = np.clip(across, 0, 1.05)
    posterior = (y - 0.36 * _power(slope, 2) + 0.10 * slope + 0.70) / spacing
    if v["fracture"] > 0:
        # Broken ribs: the lateral ends are displaced.
        out = step(across - v["break_across"], 0.02) * (side == v["break_side"])
        broken = out * bell(posterior, posterior, (v["break_rib"], v["break_rib"]), (0.9, 0.9))
        posterior = posterior + 0.60 * min(1.0, v["fracture"] * 1.5) * broken
    anterior = (y - 0.52 * _power(np.clip(1 - slope, 0, 1), 1) + 0.62 + 0.25 * slope) / spacing
    ribs = 0.15 * _bands(posterior, 0.42) * step(across - 0.14, 0.12)
    ribs = ribs + 0.095 * _bands(anterior, 0.40) * step(across - 0.42, 0.25)
    ribs = bone * ribs * within * (0.55 + 0.45 * across**2)
    disc_space = 0.5 + 0.5 * np.cos(np.float32(2 * np.pi / 0.135) * (y + 0.03))
    spine = step(0.080 - np.abs(x - v["scoliosis"] * y * y), 0.045) * (1 - 0.35 * step(disc_space - 0.8, 0.3))
    rise = 0.09 * v["portable"]
    collar_y = -0.60 - rise - 0.13 * np.sin(np.clip((ax - 0.08) / 0.8, 0, 1) * 2.6)
    collar = step(0.032 - np.abs(y - collar_y), 0.018) * step(ax - 0.08, 0.05) * step(0.85 - ax, 0.05)
    blade_edge = cage * (0.98 - 0.22 * v["portable"]) - 0.12 * np.clip(y + 0.3, 0, 1)
    blade = step(ax - blade_edge, 0.03) * step(0.02 - y, 0.1) * step(y + 0.66, 0.1) * step(cage + 0.25 - ax, 0.1)
    shoulder = disc(ax, y, (float(v["thorax_width"]) + 0.24, -0.60), (0.13, 0.13), 0.03)
    tube = np.abs(x - 0.03 * v["aorta"] * bell(y, y, (-0.35, -0.35), (0.1, 0.1))) - 0.036
    windpipe = step(-tube, 0.02) * step(-0.22 - y, 0.06)
    bones = bone * (0.10 * spine + 0.17 * collar + 0.06 * blade + 0.17 * shoulder)
    return ribs + bones - 0.13 * windpipe, ribs


def lateral(x: Array, y: Array, v: Values) -> Thorax:
    """The thorax in a lateral view, sternum at image left; the two lungs overlap."""
    empty = v["emphysema"]
    base = 0.46 + v["inspiration"] + 0.10 * empty
    deep = 0.50 * v["thorax_width"] / 0.7 + 0.06 * empty
    front = -deep * (0.50 + 0.55 * step(y + 0.30, 1.0)) - 0.05 * empty
    back = deep * (0.80 + 0.45 * v["kyphosis"] * np.cos(1.7 * (y + 0.15))) - 0.14 * np.clip(y - 0.2, 0, 1)
    wall = np.minimum(x - front, back - x)
    across = np.clip((x - front) / (back - front), -0.2, 1.2)
    dome = base - 0.06 * (1 - empty) + 0.75 * np.clip(across - 0.42, 0, 1) ** 2 + 0.12 * np.clip(0.3 - across, 0, 1)
    height = dome - y
    inside = step(wall, 0.05) * (0.5 * step(height, 0.03) + 0.5 * step(height + 0.07, 0.03))
    inside *= step(y + 0.72 - 1.1 * (x - 0.05) ** 2, 0.10) * step(y + 0.80, 0.05)
    air = inside * (0.7 + 0.3 * np.sqrt(np.clip(wall / 0.3, 0, 1)))
    size = 0.62 * (v["heart_ratio"] + 0.02)
    slant = x + 0.45 * (y - base + size)
    heart = disc(slant, y, (-0.16, base + 0.02 - 0.80 * size), (0.80 * size, 1.05 * size), 0.07)
    aorta = v["aorta"]
    arch = disc(x, y, (0.06, -0.36), (0.12 + 0.03 * aorta, 0.10 + 0.03 * aorta), 0.05)
    descending = step(0.05 + 0.02 * aorta - np.abs(x - back + 0.19), 0.05) * step(y + 0.38, 0.1)
    middle = step(0.07 + 0.16 * v["wide_mediastinum"] - np.abs(x + 0.02), 0.06) * step(-0.15 - y, 0.3)
    hila = ((0.03, -0.12),)
    roots = bell(x, y, hila[0], (0.07, 0.09))
    vessels = np.maximum.reduce([heart, 0.5 * arch * (0.5 + aorta), 0.35 * descending * (0.5 + aorta), 0.6 * middle])
    opacity = 1 - (1 - 0.80 * vessels) * (1 - 0.45 * roots)

    bone, spacing = v["bone_density"], 0.150
    within = step(wall + 0.04, 0.05) * step(0.8 - y, 0.2) * step(y + 0.75, 0.1)
    bow = 0.55 * (x - back) + 0.30 * (x - front) ** 2
    phase = (y + bow) / spacing
    if v["fracture"] > 0:
        out = step(across - v["break_across"], 0.02)
        broken = out * bell(phase, phase, (v["break_rib"] + 1, v["break_rib"] + 1), (0.9, 0.9))
        phase = phase + 0.60 * min(1.0, v["fracture"] * 1.5) * broken
    ribs = bone * within * (0.070 * _bands(phase, 0.40) + 0.04 * _bands((y + 0.9 * bow) / spacing + 0.4, 0.35))
    column = step(0.105 - np.abs(x - back), 0.03)
    disc_space = 0.5 + 0.5 * np.cos(np.float32(2 * np.pi / 0.15) * (y + 0.25 * (x - back)))
    vertebra = 1 - 0.55 * step(disc_space - 0.85, 0.15)
    sternum = step(0.025 - np.abs(x - front + 0.02), 0.02) * step(0.25 - y, 0.1) * step(y + 0.55, 0.1)
    tube = np.abs(x - 0.02 - 0.10 * (y + 0.5)) - 0.04
    windpipe = step(-tube, 0.02) * step(-0.25 - y, 0.06)
    arms = step(-0.50 - y + 0.25 * x, 0.25) * step(0.62 - np.abs(x - 0.02), 0.25)
    body_front = front - 0.10 - v["girth"] * 0.7 - 0.10 * (1 - step(y + 0.65, 0.5))
    body = step(x - body_front, 0.05) * step(back + 0.30 + 0.5 * v["girth"] - x, 0.05)
    belly = step(-height - 0.04, 0.07) * step(wall + 0.1, 0.1)
    tissue = 0.52 * body + 0.24 * belly + 0.13 * arms + ribs + bone * (0.17 * column * vertebra + 0.09 * sternum)
    tissue = tissue - 0.10 * windpipe + 0.06 * heart
    if v["breast"] > 0.15:
        bust = disc(x, y, (float(front.min()) + 0.02, 0.20 + 0.1 * v["sag"]), (0.27, 0.24), 0.03)
        tissue = tissue + 0.26 * v["breast"] * bust * step(front + 0.05 - x, 0.35)
    side = np.zeros_like(x)
    return Thorax(x, y, air, wall, height, across, side, opacity, tissue, ribs, hila, deep, base, True)
