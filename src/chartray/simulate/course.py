"""The course of simulated patients: visits, stays, studies and their times."""

from datetime import datetime, timedelta
from typing import NamedTuple

import numpy as np

from chartray.simulate import population
from chartray.simulate.planted import plant
from chartray.simulate.population import LATENTS, OF_PATIENT, Columns
from chartray.simulate.radiograph import Radiograph


class Stay(NamedTuple):
    """An admission and its ICU stay, if there is one; None: no such time."""

    registered: datetime | None
    admitted: datetime
    discharged: datetime
    icu_in: datetime | None
    icu_out: datetime | None
    died: bool


class SimulatedStudy(NamedTuple):
    """One study of `patient`, taken at `taken`; `row` is its row of the latents, `views` the views of its images."""

    patient: int
    row: int
    taken: datetime
    views: tuple[str, ...]


class Course(NamedTuple):
    """`latents` has one row per study (patient columns repeated), `stays` one list per patient."""

    latents: Columns
    studies: list[SimulatedStudy]
    stays: list[list[Stay]]
    anchor_year: list[int]


def course(
    patients: int, rng: np.random.Generator, *, chart_effect: float, planted_effect: float | None = None
) -> Course:
    """`patients` patients of one hospital, each with one to three visits."""
    person = population.draw(OF_PATIENT, {}, patients, rng, chart_effect=chart_effect)
    visits = 1 + (rng.random(patients) < 0.30).astype(np.int64) + (rng.random(patients) < 0.10)
    owner = np.repeat(np.arange(patients), visits)
    known = {name: column[owner] for name, column in person.items()}
    known = population.illness(known, len(owner), rng, chart_effect=chart_effect)
    latents = population.draw(tuple(LATENTS), known, len(owner), rng, chart_effect=chart_effect)
    if planted_effect is not None:
        latents = plant(latents, planted_effect, rng.spawn(1)[0])

    studies: list[SimulatedStudy] = []
    stays: list[list[Stay]] = [[] for _ in range(patients)]
    keep: list[int] = []
    anchor_year = [int(year) for year in rng.integers(2110, 2200, patients)]
    clock = [datetime(year, 1, 1) + timedelta(days=float(rng.uniform(0, 300))) for year in anchor_year]
    dead = np.zeros(patients, dtype=bool)
    for visit, patient in enumerate(owner.tolist()):
        if dead[patient]:
            continue
        now = clock[patient].replace(second=0, microsecond=0) + timedelta(days=float(rng.uniform(20, 400)))
        stay = _stay(latents, visit, now, rng) if latents["admitted"][visit] else None
        if stay is not None:
            stays[patient].append(stay)
            dead[patient] = stay.died
        for taken in _moments(stay, now, rng):
            views = _views(bool(latents["portable"][visit]), rng)
            studies.append(SimulatedStudy(patient, len(keep), taken, views))
            keep.append(visit)
        clock[patient] = (stay.discharged if stay else now) + timedelta(days=10)
    rows = np.array(keep, dtype=np.int64)
    return Course({name: column[rows] for name, column in latents.items()}, studies, stays, anchor_year)


def _stay(latents: Columns, visit: int, start: datetime, rng: np.random.Generator) -> Stay:
    days = float(np.clip(rng.gamma(2.0, 2.0) * (1 + latents["icu"][visit]), 0.6, 40))
    end = start + timedelta(days=days)
    registered = None
    if rng.random() < 0.66:
        registered = start - timedelta(hours=float(np.clip(rng.lognormal(1.4, 0.6), 0.3, 24)))
    icu_in = icu_out = None
    if latents["icu"][visit]:
        # As in MIMIC-IV, some ICU stays start before the admission or end after the discharge.
        icu_in = start + timedelta(
            hours=float(rng.uniform(-1.5, 0)) if rng.random() < 0.06 else float(rng.gamma(1.0, 4.0))
        )
        icu_in = min(icu_in, start + timedelta(days=0.3 * days))
        icu_out = icu_in + timedelta(days=0.7 * days * float(rng.uniform(0.5, 1)))
        if rng.random() < 0.16:
            icu_out = end + timedelta(minutes=float(rng.uniform(5, 300)))
        if rng.random() < 0.015:
            # Two of the open demo's 140 stays end before they begin.
            icu_in, icu_out = icu_out, icu_in
    return Stay(registered, start, end, icu_in, icu_out, bool(latents["died"][visit]))


def _moments(stay: Stay | None, now: datetime, rng: np.random.Generator) -> list[datetime]:
    """When the images of a visit are taken: in the emergency department, the ICU, the ward, or without a stay."""
    if stay is None:
        return [now]
    moments = []
    for _ in range(1 + int(rng.random() < 0.2)):
        where = rng.random()
        if stay.icu_in is not None and stay.icu_out is not None and where < 0.85:
            inside = sorted((stay.icu_in, stay.icu_out))
            first, last = max(inside[0], stay.admitted), min(inside[1], stay.discharged)
        elif stay.registered is not None and where > 0.80:
            first, last = stay.registered, stay.admitted
        elif where > 0.76:
            first, last = stay.admitted - timedelta(days=20), stay.admitted - timedelta(days=2)
        else:
            first, last = stay.admitted, stay.discharged
        moments.append(first + (last - first) * float(rng.uniform(0.02, 0.98)))
    return sorted(moment.replace(microsecond=0) for moment in moments)


def _views(portable: bool, rng: np.random.Generator) -> tuple[str, ...]:
    if portable:
        return ("AP", "AP") if rng.random() < 0.08 else ("AP",)
    if rng.random() < 0.25:
        return ("PA",)
    return ("PA", "LL" if rng.random() < 0.3 else "LATERAL")


def radiographs(
    latents: Columns, row: int, views: tuple[str, ...], paths: list[str], look: str, size: int, keys: tuple[int, ...]
) -> list[Radiograph]:
    """The images of one study; `keys` are seed, data set, patient, study."""
    values = {name: float(column[row]) for name, column in latents.items()}
    recumbent = bool(values["recumbent"])
    return [
        Radiograph(path, view, recumbent and view == "AP", look, size, values, keys[:3], (*keys, n))
        for n, (view, path) in enumerate(zip(views, paths, strict=True))
    ]
