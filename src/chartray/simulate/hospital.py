"""`simulate`: draws the patients, writes the tables, and draws the images in several processes."""

import shutil
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from chartray.cores import available_cores
from chartray.errors import InputError
from chartray.outputs.guard import refuse_other
from chartray.outputs.replacing import reserved
from chartray.progress import progress
from chartray.schema import SIMULATED_FILE
from chartray.simulate import mimic_layout, other_layouts, radiograph
from chartray.simulate.planted import STRONGEST
from chartray.simulate.radiograph import Radiograph
from chartray.wording import nearest

FOLDERS = ("mimic-iv", "mimic-cxr-jpg", "chexpert", "nih")
DATA_SETS = {"mimic": ("mimic-iv", "mimic-cxr-jpg"), "chexpert": ("chexpert",), "nih": ("nih",)}
# About 2,850 images: half a minute on two cores.
DEFAULT_PATIENTS = 800
SMALLEST_SIZE = 64
_CHUNK = 24
_PARTIAL, _MOVING = ".simulating", "moving"


def simulate(
    out: Path,
    *,
    patients: int = DEFAULT_PATIENTS,
    mimic_iv_release: Literal["1.0", "2.2", "3.1"] = "2.2",
    seed: int = 0,
    chart_effect: float = 1.0,
    planted_effect: float | None = None,
    data_sets: Sequence[str] = tuple(DATA_SETS),
    size: int = 512,
    workers: int | None = None,
) -> None:
    """Writes a simulated hospital: OUT/mimic-iv, OUT/mimic-cxr-jpg, OUT/chexpert, OUT/nih.

    `patients` is the number of MIMIC-CXR patients (about two images each); CheXpert and NIH have half as many each.
    `chart_effect` multiplies the dependence of findings on the chart (the table in population.py). `planted_effect`, 0
    to 3, plants a finding that needs the chart to be told (planted.py); None plants nothing. `data_sets` are written
    alone, as they are with the others. `size` is the longer side of an image in pixels. The files are identical for the
    same arguments and any number of `workers`.
    Raises InputError for arguments out of range, and unless `out` is new or empty.
    """
    with reserved(out):
        _clean(out)
        _check(patients, mimic_iv_release, seed, size, workers)
        _check_effects(chart_effect, planted_effect)
        _check_data_sets(data_sets)
        refuse_other(out)
        new = not out.exists()
        drawn = Drawn(
            mimic_layout.draw(patients, seed, chart_effect=chart_effect, planted_effect=planted_effect, size=size),
            *(
                draw(max(8, patients // 2), seed, chart_effect=chart_effect, planted_effect=planted_effect, size=size)
                for draw in (other_layouts.draw_chexpert, other_layouts.draw_nih)
            ),
        )
        try:
            _write(out, drawn, mimic_iv_release, seed, chart_effect, data_sets, workers)
        finally:
            if new:
                with suppress(OSError):  # it stays where something is in it
                    out.rmdir()


class Drawn(NamedTuple):
    """The three data sets, not yet written."""

    mimic: mimic_layout.Mimic
    chexpert: other_layouts.Elsewhere
    nih: other_layouts.Elsewhere


def _write(
    out: Path,
    drawn: Drawn,
    release: str,
    seed: int,
    chart_effect: float,
    data_sets: Sequence[str],
    workers: int | None,
) -> None:
    # Written here first, so that a folder with its final name is complete.
    partial = out / _PARTIAL
    wanted = [folder for name in DATA_SETS if name in data_sets for folder in DATA_SETS[name]]
    try:
        for name in FOLDERS:
            (partial / name).mkdir(parents=True)
            (partial / name / SIMULATED_FILE).write_text("Drawn by chartray simulate: nothing here is real.\n")
        tables = np.random.default_rng((seed, 0))
        mimic_layout.write_iv(partial / "mimic-iv", drawn.mimic, release, tables, chart_effect=chart_effect)
        # Its own generator, so that labels do not depend on the release of MIMIC-IV; all tables draw from it in turn.
        reports = np.random.default_rng((seed, 4))
        mimic_layout.write_cxr(partial / "mimic-cxr-jpg", drawn.mimic, reports)
        other_layouts.write_chexpert(partial / "chexpert", drawn.chexpert, reports)
        other_layouts.write_nih(partial / "nih", drawn.nih, reports)
        images = (drawn.mimic.images, drawn.chexpert.images, drawn.nih.images)
        jobs = [each for each in zip(FOLDERS[1:], images, strict=True) if each[0] in wanted]
        _draw_all([(partial / name, image) for name, group in jobs for image in group], workers)
        (partial / _MOVING).touch()
        for name in wanted:
            (partial / name).rename(out / name)
        (partial / _MOVING).unlink()
    finally:
        _clean(out)


def _clean(out: Path) -> None:
    """Removes what an interrupted command left: what it drew and what it had already moved."""
    partial = out / _PARTIAL
    if (partial / _MOVING).exists():
        for name in FOLDERS:
            if not (partial / name).exists():
                shutil.rmtree(out / name, ignore_errors=True)
    shutil.rmtree(partial, ignore_errors=True)


def _check(patients: int, release: str, seed: int, size: int, workers: int | None) -> None:
    if release not in mimic_layout.CORE:
        raise InputError(f"expected a MIMIC-IV release of {', '.join(mimic_layout.CORE)}, found {release!r}")
    least_of = {"patients": (patients, 8), "seed": (seed, 0), "size": (size, SMALLEST_SIZE), "workers": (workers, 1)}
    for name, (value, least) in least_of.items():
        if value is not None and value < least:
            raise InputError(f"expected --{name} of at least {least}, found {value}")


def _check_effects(chart_effect: float, planted_effect: float | None) -> None:
    if not 0.0 <= chart_effect <= 10.0:
        raise InputError(f"expected --chart-effect from 0 to 10, found {chart_effect}")
    if planted_effect is not None and not 0.0 <= planted_effect <= STRONGEST:
        raise InputError(f"expected --planted-effect from 0 to {STRONGEST:g}, found {planted_effect}")


def _check_data_sets(data_sets: Sequence[str]) -> None:
    for name in data_sets:
        if name not in DATA_SETS:
            raise InputError(
                f"expected --data-sets of {', '.join(DATA_SETS)}, found {name!r}{nearest(name, list(DATA_SETS))}"
            )
    if not data_sets:
        raise InputError(f"expected --data-sets of {', '.join(DATA_SETS)}, found none; name at least one")


def _draw_all(jobs: list[tuple[Path, Radiograph]], workers: int | None) -> None:
    chunks = [jobs[n : n + _CHUNK] for n in range(0, len(jobs), _CHUNK)]
    workers = min(workers or available_cores(), len(chunks))
    with progress("drawing images", len(jobs), "images") as advance:
        if workers == 1:
            for chunk in chunks:
                advance(_draw_chunk(chunk))
            return
        # Not forked: a fork of a process that has run torch can hang.
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            waiting = [pool.submit(_draw_chunk, chunk) for chunk in chunks]
            for done in as_completed(waiting):
                advance(done.result())


def _draw_chunk(jobs: list[tuple[Path, Radiograph]]) -> int:
    for root, image in jobs:
        path = root / image.path
        path.parent.mkdir(parents=True, exist_ok=True)
        content = radiograph.encode(radiograph.draw(image), image.path, rgba=image.damage == "rgba")
        if image.damage == "truncated":
            content = content[: len(content) // 3]
        path.write_bytes(b"" if image.damage == "empty" else content)
    return len(jobs)
