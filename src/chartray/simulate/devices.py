"""Support devices (tubes, lines, wires, pacemakers) and the side marker."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from chartray.simulate.anatomy import Array, Values

Place = Callable[[NDArray[np.float64]], NDArray[np.float64]]
Points = Sequence[tuple[float, float]]
# In order of frequency. Points are (x, y) in thorax coordinates, for frontal and lateral views.
KINDS = ("central_line", "tube", "stomach_tube", "leads", "pacemaker", "wires", "drain")


class _Pen:
    def __init__(self, place: Place, size: tuple[int, int]) -> None:
        self.canvas = Image.new("L", size)
        self.draw = ImageDraw.Draw(self.canvas)
        self.place, self.unit = place, max(size) / 512

    def line(self, points: Points, width: float, grey: int) -> None:
        path = self.place(_smooth(points)).ravel().tolist()
        self.draw.line(path, fill=grey, width=max(1, round(width * self.unit)), joint="curve")

    def blob(self, centre: tuple[float, float], radius: float, grey: int) -> None:
        x, y = self.place(np.array(centre)).tolist()
        r = radius * self.unit
        self.draw.ellipse((x - r, y - r, x + r, y + r), fill=grey)


def _smooth(points: Points) -> NDArray[np.float64]:
    """A Catmull-Rom curve through `points` with eight pieces per segment; (n, 2)."""
    p = np.array([points[0], *points, points[-1]], dtype=np.float64)
    t = np.linspace(0, 1, 8, endpoint=False)[:, None]
    pieces = [
        0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
        for a, b, c, d in zip(p, p[1:], p[2:], p[3:], strict=False)
    ]
    return np.concatenate([*pieces, p[-1:]])


def draw(view: str, v: Values, place: Place, size: tuple[int, int], patient: np.random.Generator) -> Array | None:
    """The attenuation of devices, (height, width) float32, more devices with higher severity; None without devices."""
    order = patient.permutation(len(KINDS))
    sway = patient.normal(0, 0.02, (16, 2))
    if v["devices"] < 0.3:
        return None
    count = 1 + int(4.5 * (v["devices"] - 0.3) / 0.7)
    pen = _Pen(place, size)
    from_side = view in ("LATERAL", "LL")
    # The sickest patients have tubes, others permanent devices.
    likely = [KINDS[i] for i in order]
    if v["severity"] > 0.8:
        likely.sort(key=lambda kind: kind in ("pacemaker", "wires"))
    for kind in likely[:count]:
        _DRAW[kind](pen, from_side, sway)
    blurred = pen.canvas.filter(ImageFilter.SMOOTH)
    return np.asarray(blurred, dtype=np.float32) * np.float32(0.42 / 255)


def _sway(points: Points, sway: NDArray[np.float64]) -> Points:
    return [(x + dx, y + dy) for (x, y), (dx, dy) in zip(points, sway.tolist(), strict=False)]


def _tube(pen: _Pen, from_side: bool, sway: NDArray[np.float64]) -> None:
    path: Points = ((0.0, -1.2), (0.0, -0.8), (0.005, -0.55), (0.01, -0.36))
    if from_side:
        path = ((-0.05, -1.2), (-0.02, -0.8), (0.02, -0.55), (0.04, -0.36))
    for offset in (-0.018, 0.018):
        pen.line([(x + offset, y) for x, y in path], 2.4, 150)
    pen.line(path, 1.5, 240)


def _stomach_tube(pen: _Pen, from_side: bool, sway: NDArray[np.float64]) -> None:
    path: Points = ((0.02, -1.2), (0.03, -0.6), (0.05, -0.1), (0.07, 0.35), (0.16, 0.55), (0.30, 0.68))
    if from_side:
        path = ((0.05, -1.2), (0.12, -0.5), (0.15, 0.0), (0.10, 0.35), (0.0, 0.55), (-0.1, 0.68))
    pen.line(_sway(path, 0.5 * sway), 3.4, 210)


def _central_line(pen: _Pen, from_side: bool, sway: NDArray[np.float64]) -> None:
    side = -1.0 if sway[0, 0] < 0 else 1.0
    path: Points = (
        (side * 0.95, -0.35),
        (side * 0.62, -0.62),
        (side * 0.30, -0.62),
        (-0.07, -0.48),
        (-0.10, -0.20),
        (-0.10, 0.02),
    )
    if from_side:
        path = ((-0.35, -0.75), (-0.20, -0.62), (-0.08, -0.5), (-0.05, -0.2), (-0.06, 0.02))
    pen.line(_sway(path, sway), 3.4, 230)


def _leads(pen: _Pen, from_side: bool, sway: NDArray[np.float64]) -> None:
    spots = ((-0.52, -0.50), (0.55, -0.48), (0.60, 0.28), (-0.50, 0.33))
    ends = ((-0.2, 1.3), (0.9, 1.2), (1.2, 0.5), (-1.2, 0.6))
    for n, (spot, end) in enumerate(zip(spots, ends, strict=True)):
        x, y = spot[0] + 2 * sway[n, 0], spot[1] + 2 * sway[n, 1]
        pen.blob((x, y), 7, 230)
        middle = ((x + end[0]) / 2 + 5 * sway[n + 4, 0], (y + end[1]) / 2 + 5 * sway[n + 4, 1])
        pen.line(((x, y), middle, end), 2.4, 170)


def _pacemaker(pen: _Pen, from_side: bool, sway: NDArray[np.float64]) -> None:
    cx, cy = (0.50 + sway[0, 0], -0.42 + sway[0, 1]) if not from_side else (-0.52, -0.40)
    corners = [(cx + dx, cy + dy) for dx, dy in ((-0.10, -0.07), (0.08, -0.10), (0.11, 0.06), (-0.06, 0.10))]
    pen.draw.polygon(pen.place(np.array(corners)).ravel().tolist(), fill=255)
    path: Points = ((cx, cy), (0.30, -0.62), (0.02, -0.50), (-0.08, -0.15), (-0.04, 0.15), (0.18, 0.28))
    if from_side:
        path = ((cx, cy), (-0.30, -0.6), (-0.05, -0.45), (-0.05, -0.1), (-0.15, 0.15), (-0.33, 0.24))
    pen.line(_sway(path, 0.7 * sway), 3.2, 240)


def _wires(pen: _Pen, from_side: bool, sway: NDArray[np.float64]) -> None:
    for n in range(6):
        y = -0.40 + 0.125 * n
        x = sway[0, 0] * 0.5
        if from_side:
            pen.blob((-0.42 - 0.03 * n, y), 4, 250)
            continue
        ring = ((x - 0.03, y), (x, y - 0.022), (x + 0.03, y), (x, y + 0.022), (x - 0.03, y))
        pen.line(ring, 2.4, 250)


def _drain(pen: _Pen, from_side: bool, sway: NDArray[np.float64]) -> None:
    side = -1.0 if sway[1, 0] < 0 else 1.0
    path: Points = ((side * 1.1, 0.40), (side * 0.75, 0.25), (side * 0.52, -0.05), (side * 0.36, -0.45))
    if from_side:
        path = ((-0.2, 0.6), (0.1, 0.3), (0.2, -0.1), (0.1, -0.45))
    pen.line(_sway(path, 2 * sway), 6.0, 120)
    pen.line(_sway(path, 2 * sway), 2.0, 240)


_DRAW: dict[str, Callable[[_Pen, bool, NDArray[np.float64]], None]] = {
    "tube": _tube,
    "stomach_tube": _stomach_tube,
    "central_line": _central_line,
    "leads": _leads,
    "pacemaker": _pacemaker,
    "wires": _wires,
    "drain": _drain,
}


def mark(
    pixels: NDArray[np.uint8], view: str, probability: float, place: Place, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """The image with a side marker (L or R) near an upper corner, drawn with the given probability."""
    if rng.random() >= probability:
        return pixels
    left = view in ("LATERAL", "LL") or rng.random() < 0.7
    height, width = pixels.shape
    unit = max(height, width) / 512 * rng.uniform(0.7, 1.4)
    x0 = width * (rng.uniform(0.80, 0.93) if left else rng.uniform(0.03, 0.12))
    y0 = height * rng.uniform(0.03, 0.35)
    strokes: tuple[Points, ...] = (((0, 0), (0, 22), (13, 22)),)
    if not left:
        strokes = (((0, 22), (0, 0), (10, 0), (14, 5), (10, 11), (0, 11)), ((7, 11), (14, 22)))
    canvas = Image.fromarray(pixels)
    pen = ImageDraw.Draw(canvas)
    grey = int(rng.integers(190, 256))
    for stroke in strokes:
        pen.line([(x0 + unit * x, y0 + unit * y) for x, y in stroke], fill=grey, width=max(1, round(3.2 * unit)))
    return np.asarray(canvas)
