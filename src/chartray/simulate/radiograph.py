"""One radiograph: thorax and findings, then exposure, noise and everything else that carries no label information."""

import io
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from chartray.simulate import anatomy, devices, findings, planted
from chartray.simulate.anatomy import Array

# Anatomy has no edge sharper than this many pixels: a grid coarser by this factor takes a ninth of the time.
COARSE = 3


class Acquisition(NamedTuple):
    """The image style of a hospital: the ranges of what is drawn for each image."""

    contrast: tuple[float, float]
    gamma: tuple[float, float]
    noise: tuple[float, float]
    collimated: float
    marker: float
    shapes: tuple[float, ...]
    sharpen: float
    scale: tuple[float, float]


STYLES = {
    "mimic": Acquisition((0.75, 1.35), (0.65, 1.5), (0.010, 0.035), 0.35, 0.8, (0.83, 1.0, 1.2), 0.0, (0.92, 1.32)),
    "chexpert": Acquisition((0.95, 1.55), (0.75, 1.6), (0.006, 0.02), 0.15, 0.5, (0.82, 1.0), 0.6, (1.0, 1.4)),
    "nih": Acquisition((0.60, 1.15), (0.6, 1.3), (0.015, 0.045), 0.55, 0.9, (1.0,), 0.0, (0.88, 1.25)),
}


class Radiograph(NamedTuple):
    """What one radiograph shows. `values` are those of LATENTS; the keys seed the randomness of patient and image."""

    path: str
    view: str
    recumbent: bool
    look: str
    size: int
    values: dict[str, float]
    patient_key: tuple[int, ...]
    image_key: tuple[int, ...]
    damage: str = ""


class Pose(NamedTuple):
    """Thorax to image coordinates: `matrix` @ (x, y) + `shift`, from the centre in units of half the longer side."""

    matrix: NDArray[np.float64]
    shift: NDArray[np.float64]
    width: int
    height: int

    def pixels(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Thorax points (..., 2) -> pixels (..., 2)."""
        half = max(self.width, self.height) / 2
        placed: NDArray[np.float64] = (points @ self.matrix.T + self.shift) * half
        placed += np.array((self.width / 2, self.height / 2))
        return placed

    def grid(self) -> tuple[Array, Array]:
        """Thorax coordinates at every COARSE-th pixel, each (h, w)."""
        half = max(self.width, self.height) / 2
        h, w = self.coarse
        columns = ((np.arange(w) + 0.5) / w - 0.5) * self.width / half - self.shift[0]
        rows = ((np.arange(h) + 0.5) / h - 0.5) * self.height / half - self.shift[1]
        inverse = np.linalg.inv(self.matrix)
        x = inverse[0, 0] * columns[None, :] + inverse[0, 1] * rows[:, None]
        y = inverse[1, 0] * columns[None, :] + inverse[1, 1] * rows[:, None]
        return x.astype(np.float32), y.astype(np.float32)

    @property
    def coarse(self) -> tuple[int, int]:
        """(h, w) of the grid that smooth structures are drawn on before upsampling."""
        return -(-self.height // COARSE), -(-self.width // COARSE)


def draw(image: Radiograph) -> NDArray[np.uint8]:
    """The pixels, uint8 (height, width), longer side `image.size`; deterministic in `image`."""

    # Each part has its own generator, so that another finding changes neither vessels nor exposure.
    def patient(part: int) -> np.random.Generator:
        return np.random.default_rng((*image.patient_key, part))

    rng = np.random.default_rng(image.image_key)
    look, wobble = _style(image)
    from_side = image.view in ("LATERAL", "LL")
    is_planted = planted.MARKER in image.values
    values = findings.traits(planted.without_signs(image.values) if is_planted else image.values, patient(0))
    values["portable"], values["recumbent"] = float(image.view == "AP"), float(image.recumbent)
    pose = _pose(image, look, wobble, rng)
    x, y = pose.grid()
    thorax = anatomy.lateral(x, y, values) if from_side else anatomy.frontal(x, y, values)
    lungs = findings.Lungs(thorax, patient(0))
    for part, (name, finding) in enumerate(findings.DRAWN.items(), start=3):
        if values[name] > 0.02:
            lungs.rng = patient(part)
            finding(lungs, values[name], values)
    vessels = _vessels(thorax, pose, patient(1))
    attenuation = thorax.tissue + lungs.extra - findings.AIR * thorax.air * (1 - lungs.opacity)
    attenuation += (
        0.24 * vessels * np.clip(lungs.markings, -0.5, 2.5) * thorax.air * (1 - 0.8 * np.clip(lungs.opacity, 0, 1))
    )
    if is_planted:
        attenuation += planted.signs(thorax, image.values)
    shown = devices.draw(image.view, values, pose.pixels, (pose.width, pose.height), patient(2))
    return _expose(attenuation, shown, image, values, look, wobble, pose, rng)


def _style(image: Radiograph) -> tuple[Acquisition, float]:
    """The style of the hospital, and how much else varies between images: less with a planted effect."""
    look = STYLES[image.look]
    if planted.MARKER not in image.values:
        return look, 1.0
    steady = look._replace(
        contrast=planted.narrowed(*look.contrast),
        gamma=planted.narrowed(*look.gamma),
        noise=planted.narrowed(*look.noise),
        scale=planted.narrowed(*look.scale),
    )
    return steady, planted.WOBBLE


def _pose(image: Radiograph, look: Acquisition, wobble: float, rng: np.random.Generator) -> Pose:
    shape = float(rng.choice(look.shapes))
    width, height = (image.size, round(image.size / shape)) if shape >= 1 else (round(image.size * shape), image.size)
    portable = image.view == "AP"
    turn = np.deg2rad(rng.normal(0, wobble * (7.0 if portable else 3.5)))
    scale = rng.uniform(*look.scale)
    squeeze, shear = rng.normal(1, 0.05 * wobble), rng.normal(0, wobble * (0.05 if portable else 0.02))
    matrix = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    matrix = matrix @ np.array([[squeeze, shear], [0, 1 / squeeze]])
    if image.view == "LL":
        matrix = matrix @ np.diag((-1.0, 1.0))
    shift = wobble * rng.normal(0, (0.09, 0.08)) + np.array((0.0, 0.05))
    return Pose(matrix, shift, width // 2 * 2, height // 2 * 2)


def _vessels(thorax: anatomy.Thorax, pose: Pose, patient: np.random.Generator) -> Array:
    """The tapering vessels from each hilum; (h, w) in [0, 1]."""
    h, w = pose.coarse
    canvas = Image.new("L", (w, h))
    pen = ImageDraw.Draw(canvas)
    thick = 0.020 * max(h, w) / 2
    for hilum in thorax.hila:
        twigs, joints = 30, 9
        fan = (-1.9, 1.9) if not thorax.lateral else (-np.pi, np.pi)
        heading = np.linspace(*fan, twigs) + patient.normal(0, 0.10, twigs)
        if hilum[0] < 0:
            heading = np.pi - heading
        bend = np.cumsum(patient.normal(0, 0.16, (twigs, joints)), axis=1)
        length = patient.uniform(0.035, 0.085, (twigs, 1)) * np.ones((1, joints))
        directions = heading[:, None] + bend
        steps = np.stack([length * np.cos(directions), 1.15 * length * np.sin(directions)], axis=-1)
        paths = np.concatenate([np.zeros((twigs, 1, 2)), np.cumsum(steps, axis=1)], axis=1) + np.array(hilum)
        pixels = pose.pixels(paths) * (w / pose.width)
        girth = patient.uniform(0.4, 1.0, twigs)
        for path, wide in zip(pixels.tolist(), girth, strict=True):
            for n in range(0, joints, 3):
                taper = wide * (1 - 0.8 * n / joints)
                line = [tuple(point) for point in path[n : n + 4]]
                pen.line(line, fill=int(60 + 180 * taper), width=max(1, round(thick * taper)))
    blurred = canvas.filter(ImageFilter.GaussianBlur(0.6))
    return np.asarray(blurred, dtype=np.float32) / np.float32(255)


def _expose(
    attenuation: Array,
    shown: Array | None,
    image: Radiograph,
    values: dict[str, float],
    look: Acquisition,
    wobble: float,
    pose: Pose,
    rng: np.random.Generator,
) -> NDArray[np.uint8]:
    if image.view == "AP":
        # Scatter: no grid at the bedside.
        attenuation = 0.90 * attenuation + 0.06
    # Window: black and white levels vary more between images than between patients.
    under = min(2.0, max(0.0, values["underexposure"]))
    contrast = np.float32(1.15 * rng.uniform(*look.contrast) * (1 - 0.08 * under))
    middle = 0.47 + rng.normal(0, 0.06 * wobble) - 0.03 * under
    h, w = attenuation.shape
    slope_x, slope_y = rng.normal(0, 0.06 * wobble, 2)
    coarse = (attenuation - np.float32(middle)) * contrast
    coarse += np.linspace(-slope_x, slope_x, w, dtype=np.float32)[None, :]
    coarse += np.linspace(-slope_y, slope_y, h, dtype=np.float32)[:, None]
    full = Image.fromarray(coarse).resize((pose.width, pose.height), Image.Resampling.BICUBIC)
    grey = np.array(full)
    if shown is not None:
        grey += shown * contrast
    grey += np.float32(rng.uniform(*look.noise) * (1 + 0.5 * under)) * _grain(pose, rng)
    # Characteristic curve: a soft toe and shoulder, then gamma.
    curve = 0.5 + 0.5 * np.tanh(1.7 * np.linspace(-1.5, 1.5, 1536))
    gamma = np.exp(rng.uniform(np.log(look.gamma[0]), np.log(look.gamma[1])))
    low, high = rng.uniform(0, 0.10 * wobble), rng.uniform(1.0 - 0.14 * wobble, 1.0)
    table = (255 * (low + (high - low) * curve**gamma)).astype(np.uint8)
    grey += np.float32(1.5)
    grey *= np.float32(512)
    np.clip(grey, 0, 1535, out=grey)
    pixels = table[grey.astype(np.int16)]
    pixels = _frame(pixels, look, rng)
    return devices.mark(pixels, image.view, look.marker, pose.pixels, rng)


def _frame(pixels: NDArray[np.uint8], look: Acquisition, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Collimation: black outside the shutters."""
    if rng.random() < look.collimated:
        height, width = pixels.shape
        top, bottom, left, right = (rng.uniform(0, 0.09, 4) * (rng.random(4) < 0.6)).tolist()
        black = np.uint8(rng.integers(0, 30))
        pixels[: int(top * height)] = black
        pixels[height - int(bottom * height) :] = black
        pixels[:, : int(left * width)] = black
        pixels[:, width - int(right * width) :] = black
    return pixels


def _grain(pose: Pose, rng: np.random.Generator) -> Array:
    """Quantum noise: a window of one fixed field, which is faster than new noise for each image."""
    field = _grain_field()
    side = field.shape[0]
    field = np.roll(field, int(rng.integers(0, side)), axis=1) if max(pose.width, pose.height) > side // 2 else field
    reps = (-(-pose.height * 2 // side), -(-pose.width * 2 // side))
    if max(reps) > 1:
        field = np.tile(field, reps)
    top = int(rng.integers(0, field.shape[0] - pose.height + 1))
    left = int(rng.integers(0, field.shape[1] - pose.width + 1))
    window = field[top : top + pose.height, left : left + pose.width]
    return window[:, ::-1] if rng.random() < 0.5 else window


@cache
def _grain_field() -> Array:
    fine = np.random.default_rng(0).standard_normal((1024, 1024)).astype(np.float32)
    # Neighbouring detector cells share light.
    mixed = fine + 0.5 * (np.roll(fine, 1, 0) + np.roll(fine, 1, 1))
    return np.asarray(mixed / mixed.std(), dtype=np.float32)


def shape(image: Radiograph) -> tuple[int, int]:
    """The (height, width) that `draw` returns."""
    pose = _pose(image, *_style(image), np.random.default_rng(image.image_key))
    return pose.height, pose.width


def encode(pixels: NDArray[np.uint8], path: str, *, rgba: bool = False) -> bytes:
    """JPEG (quality 85) or PNG by the suffix of `path`; `rgba` as in some of NIH's PNG files."""
    image = Image.fromarray(pixels)
    buffer = io.BytesIO()
    if path.endswith(".png"):
        # Huffman coding only: noise has no repetitions.
        (image.convert("RGBA") if rgba else image).save(buffer, "PNG", compress_level=1, compress_type=2)
    else:
        image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
