"""The findings, each drawn where it typically occurs, in proportion to its severity."""

from collections.abc import Callable

import numpy as np
from PIL import Image

from chartray.simulate.anatomy import Array, Thorax, Values, bell, disc, step

# How much less a lung full of air attenuates the beam.
AIR = 0.46


class Lungs:
    """What findings change: `opacity` (0 = air, 1 = tissue), `markings` (vessels, 1 = normal), `extra` attenuation."""

    def __init__(self, thorax: Thorax, rng: np.random.Generator) -> None:
        self.thorax, self.rng = thorax, rng
        self.opacity = thorax.opacity.copy()
        self.markings = np.ones_like(thorax.air)
        self.extra = np.zeros_like(thorax.air)

    def fill(self, amount: Array) -> None:
        """Replaces `amount` of the remaining air with tissue or fluid; in lateral views both lungs share the beam."""
        self.opacity += (1 - self.opacity) * np.clip(amount * (0.8 if self.thorax.lateral else 1.0), -0.3, 0.97)

    def on(self, side: float) -> Array:
        """1 in the lung of that side (-1 the patient's right, 1 left, 0 both)."""
        t = self.thorax
        return np.ones_like(t.air) if t.lateral or side == 0 else (t.side == side).astype(np.float32)

    def spot(self, side: float, across: tuple[float, float], height: tuple[float, float]) -> tuple[float, float]:
        """A random place in a lung: `across` as in Thorax, `height` 0 at the diaphragm and 1 at the apex."""
        t = self.thorax
        a, h = self.rng.uniform(*across), self.rng.uniform(*height)
        y = t.base - 0.08 - h * (t.base + 0.62)
        if t.lateral:
            return (2 * a - 1) * t.half_width * 0.75, y
        return side * a * t.half_width * (0.95 - 0.3 * h * h), y

    def clouds(self, cells: int) -> Array:
        """Smooth noise in [0, 1], about `cells` lumps on the longer side of the image."""
        height, width = self.thorax.air.shape
        small = self.rng.random((cells, max(2, cells * width // height)), dtype=np.float32)
        return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def _shown(s: float) -> float:
    """The opacity of a finding with sharp borders: full if it counts as present, little if it is faint."""
    return min(1.0, max(0.0, 3.0 * (s - 0.08)))


def effusion(lungs: Lungs, s: float, v: Values) -> None:
    """Fluid from the base up, rising to the wall (meniscus); in recumbent patients it veils the whole lung."""
    t, side = lungs.thorax, v["effusion_side"]
    for which, amount in ((side, s), (-side, s * v["effusion_other"])):
        level = (
            0.02
            + 0.52 * amount**1.3 * (1 - 0.5 * v["recumbent"])
            + 0.42 * amount**0.6 * np.square(np.clip(t.across, 0, 1.1) ** 2)
        )
        fluid = step(level - t.height, 0.05) * min(1.0, 6 * amount)
        veil = 0.45 * amount * v["recumbent"] * np.clip(1.1 - t.height, 0.3, 1)
        lungs.fill(lungs.on(which) * np.maximum(0.95 * fluid, veil))
        if t.lateral:
            return


def edema(lungs: Lungs, s: float, v: Values) -> None:
    """Bat-wing opacities around the hila, enlarged vessels, septal lines at the bases."""
    t = lungs.thorax
    wings = sum(bell(t.x, t.y, (1.35 * hx, hy + 0.05), (0.21, 0.26)) for hx, hy in t.hila)
    cloud = lungs.clouds(26)
    lungs.fill(s * (0.75 * wings * (0.55 + 0.9 * cloud) + 0.22 * cloud))
    lungs.markings *= 1 + 1.1 * s
    lines = step(0.10 - np.abs(lungs.clouds(60) - 0.5), 0.08)
    lungs.fill(0.22 * s * lines * step(0.35 - t.height, 0.2))


def pneumothorax(lungs: Lungs, s: float, v: Values) -> None:
    """A rim of air without vessels between the wall and the bright line of the collapsed lung's edge."""
    t = lungs.thorax
    rim = (0.05 + 0.24 * s) * (1.0 + 0.7 * step(-0.1 - t.y, 0.6)) * t.half_width / 0.7
    gap = lungs.on(v["pneumothorax_side"]) * step(rim - t.wall, 0.015) * step(t.wall, 0.02) * step(t.height, 0.04)
    line = lungs.on(v["pneumothorax_side"]) * step(0.009 - np.abs(t.wall - rim), 0.012) * step(t.height, 0.04)
    inner = lungs.on(v["pneumothorax_side"]) * step(t.wall - rim, 0.02)
    shown = min(1.0, 2.2 * s)
    lungs.markings *= 1 - shown * gap
    lungs.opacity -= (0.30 + 0.1 * lungs.opacity) * shown * gap
    lungs.fill(0.20 * s * inner)
    lungs.extra += 0.10 * shown * line * np.minimum(1, 3 * t.air)


def consolidation(lungs: Lungs, s: float, v: Values) -> None:
    """A dense part of a lobe with one sharp border (a fissure) and air bronchograms."""
    t, side = lungs.thorax, v["consolidation_side"]
    centre = lungs.spot(side, (0.35, 0.75), (0.10, 0.75))
    radii = (0.17 + 0.13 * s, 0.15 + 0.11 * s)
    lobe = disc(t.x, t.y, centre, radii, 0.16) * step(centre[1] + 0.55 * radii[1] - t.y + 0.12 * t.x, 0.03)
    lungs.fill(lungs.on(side) * min(1.0, 0.35 + 0.7 * s) * lobe * (0.72 + 0.36 * lungs.clouds(22)) * _shown(s))
    lungs.markings *= 1 - 1.7 * lobe * min(1.0, 2 * s)


def pneumonia(lungs: Lungs, s: float, v: Values) -> None:
    """Several patches of uneven opacity, most in one lower lobe."""
    t, side = lungs.thorax, v["pneumonia_side"]
    rough = lungs.clouds(34)
    for n in range(6):
        where = side if n < 5 else -side
        centre = lungs.spot(where, (0.25, 0.85), (0.02, 0.5))
        lungs.fill(lungs.on(where) * s * 1.05 * bell(t.x, t.y, centre, (0.10, 0.09)) * (0.2 + 1.2 * rough))


def haze(lungs: Lungs, s: float, v: Values) -> None:
    """Ground-glass opacity of one zone, in which vessels stay visible."""
    t, side = lungs.thorax, v["haze_side"]
    centre = lungs.spot(side, (0.4, 0.7), (0.35, 0.85))
    lungs.fill(lungs.on(side) * 0.62 * s * bell(t.x, t.y, centre, (0.22, 0.24)) * (0.75 + 0.5 * lungs.clouds(60)))


def atelectasis(lungs: Lungs, s: float, v: Values) -> None:
    """Plates: bright bands across the lower zones; the diaphragm is drawn up (in `traits`)."""
    t, side = lungs.thorax, v["atelectasis_side"]
    for n in range(3):
        where = side if n < 2 else -side
        cx, cy = lungs.spot(where, (0.35, 0.65), (0.06 + 0.12 * n, 0.12 + 0.14 * n))
        slope = where * lungs.rng.uniform(-0.1, 0.5) if not t.lateral else lungs.rng.uniform(-0.3, 0.3)
        length = 0.15 + 0.12 * s
        across = np.abs(t.y - cy - slope * (t.x - cx) + 0.6 * (t.x - cx) ** 2)
        band = step(0.018 + 0.012 * s - across, 0.02) * step(length - np.abs(t.x - cx), 0.08)
        lungs.fill(lungs.on(where) * min(1.0, 1.1 * s) * band)
    lungs.fill(lungs.on(side) * 0.45 * s * step(0.10 - t.height, 0.2))


def nodule(lungs: Lungs, s: float, v: Values) -> None:
    """One to three round spots."""
    t = lungs.thorax
    for n in range(1 + int(v["nodule_count"])):
        side = v["nodule_side"] * (1 if n != 1 else -1)
        radius = 0.030 + 0.035 * s
        centre = lungs.spot(side, (0.3, 0.85), (0.1, 0.95))
        lungs.fill(min(1.0, 0.25 + 0.75 * s) * _shown(s) * disc(t.x, t.y, centre, (radius, radius), 0.02))


def mass(lungs: Lungs, s: float, v: Values) -> None:
    """One large lobulated lump."""
    t = lungs.thorax
    radius = 0.09 + 0.09 * s
    cx, cy = lungs.spot(v["mass_side"], (0.3, 0.75), (0.2, 0.9))
    wobble = 0.04 * (lungs.clouds(14) - 0.5)
    rho = np.sqrt((t.x - cx) ** 2 + (t.y - cy) ** 2) + wobble
    lungs.fill(min(1.0, 0.3 + 0.7 * s) * _shown(s) * step(radius - rho, 0.025))


def fracture(lungs: Lungs, s: float, v: Values) -> None:
    """Callus and bleeding around the fracture; the broken ribs are drawn in anatomy.py."""
    t = lungs.thorax
    rib_y = v["break_rib"] * 0.150 - 0.70 + 0.36 * v["break_across"] ** 2.25 - 0.10 * v["break_across"]
    for n in (-1, 0, 1):
        place = (v["break_side"] * v["break_across"] * t.half_width * 0.97, rib_y + 0.150 * n)
        if t.lateral:
            place = ((2 * v["break_across"] - 1) * t.half_width * 0.7, rib_y + 0.150 * n)
        lungs.extra += 0.30 * s * v["bone_density"] * disc(t.x, t.y, place, (0.036, 0.030), 0.03)
    lungs.fill(
        lungs.on(v["break_side"]) * 0.5 * s * step(0.05 - t.wall, 0.05) * bell(t.y, t.y, (rib_y, rib_y), (0.14, 0.14))
    )


def pleural_thickening(lungs: Lungs, s: float, v: Values) -> None:
    """An uneven bright rind along the wall and a cap on the apex, with plaques."""
    t = lungs.thorax
    uneven = lungs.clouds(9)
    rind = lungs.on(v["rind_side"]) * step(0.02 + 0.11 * s * uneven - t.wall, 0.02) * step(t.wall, 0.02)
    lungs.fill(min(1.0, 1.6 * s) * rind)
    lungs.extra += 0.12 * s * rind * (uneven > 0.62) * np.minimum(1, 3 * t.air)


def emphysema(lungs: Lungs, s: float, v: Values) -> None:
    """Few vessels, dark lungs, bullae (the large flat thorax is in anatomy.py)."""
    t = lungs.thorax
    lungs.markings *= 1 - 0.55 * s
    lungs.opacity -= 0.14 * s * (1 - lungs.opacity)
    for side in (-1, 1):
        centre = lungs.spot(side, (0.4, 0.8), (0.65, 0.95))
        radius = 0.08 + 0.06 * s
        ring = disc(t.x, t.y, centre, (radius, radius), 0.02)
        lungs.opacity -= 0.12 * s * ring
        lungs.extra += 0.09 * s * ring * (1 - ring) * 4
        lungs.markings *= 1 - ring * s


def fibrosis(lungs: Lungs, s: float, v: Values) -> None:
    """A net of coarse lines at the bases and the wall."""
    t = lungs.thorax
    net = np.maximum(
        step(0.07 - np.abs(lungs.clouds(38) - 0.5), 0.08), step(0.07 - np.abs(lungs.clouds(52) - 0.5), 0.08)
    )
    zone = np.clip(step(0.55 - t.height, 0.5) + step(0.14 - t.wall, 0.2), 0, 1)
    lungs.fill(s * zone * (0.55 * net + 0.12))


def hernia(lungs: Lungs, s: float, v: Values) -> None:
    """A piece of stomach behind the heart: a round wall, air above and fluid below a level line."""
    t = lungs.thorax
    centre = (0.06, t.base - 0.12) if not t.lateral else (0.20, t.base - 0.10)
    radius = 0.10 + 0.10 * s
    sac = disc(t.x, t.y, centre, (radius * 1.2, radius), 0.02)
    shown = _shown(s)
    lungs.fill(0.8 * shown * sac)
    gas = disc(t.x, t.y, centre, (radius * 1.05, radius * 0.85), 0.02) * step(centre[1] - t.y, 0.02)
    lungs.extra += shown * (0.08 * sac - 0.26 * gas)


DRAWN: dict[str, Callable[[Lungs, float, Values], None]] = {
    "emphysema": emphysema,
    "fibrosis": fibrosis,
    "haze": haze,
    "edema": edema,
    "consolidation": consolidation,
    "pneumonia": pneumonia,
    "nodule": nodule,
    "mass": mass,
    "atelectasis": atelectasis,
    "pleural_thickening": pleural_thickening,
    "pneumothorax": pneumothorax,
    "effusion": effusion,
    "fracture": fracture,
    "hernia": hernia,
}


def traits(v: Values, rng: np.random.Generator) -> dict[str, float]:
    """The traits of a patient, the sides of findings, and the effects of findings on the anatomy."""
    sides = {
        f"{name}_side": float(rng.choice((-1, 1)))
        for name in ("effusion", "pneumothorax", "consolidation", "pneumonia", "haze", "atelectasis", "nodule", "mass")
    }
    drawn_up = 0.16 * v["atelectasis"]
    return {
        **v,
        **sides,
        "effusion_other": float(rng.choice((0.0, 0.0, 0.7))),
        "rind_side": float(rng.choice((-1, 1, 0))),
        "break_side": float(rng.choice((-1, 1))),
        "break_across": float(rng.uniform(0.55, 0.85)),
        "break_rib": float(rng.integers(2, 6)),
        "nodule_count": float(rng.integers(0, 3)),
        "heart_ratio": v["heart_ratio"] + 0.23 * v["cardiomegaly"],
        "lift_right": drawn_up * (sides["atelectasis_side"] < 0) + float(abs(rng.normal(0, 0.015))),
        "lift_left": drawn_up * (sides["atelectasis_side"] > 0) + float(abs(rng.normal(0, 0.015))),
        "girth": float(np.clip(0.06 + 0.05 * v["habitus"], -0.03, 0.22)),
        "bubble": float(rng.uniform(0, 1)),
        "sag": float(np.clip(0.3 * v["age"], 0, 1)),
        "scoliosis": float(rng.normal(0, 0.03)),
    }
