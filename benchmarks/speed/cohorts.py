"""A cohort from tables as large as the real ones, against the published row loops over the same tables."""

import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.speed.full_size_tables import Sizes, write_tables
from benchmarks.speed.measuring import Once, Row, side_by_side
from benchmarks.speed.options import Options
from benchmarks.speed.processor import Counted, timed
from benchmarks.speed.starting import command
from chartray.records.cohort import read_cohort, write_cohort
from chartray.records.mimic import mimic_cohort
from chartray.schema import ICU_LEVELS, MORTALITY_LEVELS, Rules

RATIO_GOAL, SECONDS_GOAL = 300.0, 4.0
_FILMS_TIMED = 500
_QUICK_FILMS = 4_000


def measure(name: str, options: Options) -> Row:
    """Seconds of `chartray cohort mimic --rules published`, process start included, and of the loops.

    The loops are timed on some images, evenly spread, and said for all of them; reading the tables counts once. Before
    anything is measured both must link those images alike. Raises RuntimeError where they do not.
    """
    sizes = Sizes().scaled(_QUICK_FILMS) if options.quick else Sizes()
    tables = options.scratch / "tables"
    size = write_tables(tables, sizes)
    films_timed = min(_FILMS_TIMED, sizes.films)
    checked = refuse_other_links(tables, options.scratch / "checked.parquet", films_timed)
    ours, strict, inside, loops = side_by_side(
        [
            partial(from_process_start, tables, options.scratch / "published.parquet", "published"),
            partial(from_process_start, tables, options.scratch / "strict.parquet", "strict"),
            partial(within_a_process, tables, options.scratch / "inside.parquet"),
            partial(looping, tables, films_timed),
        ],
        options.repeats,
    )
    used = [way.notes["processor_seconds"] for way in (ours, strict, inside, loops)]
    details: dict[str, float | str] = {
        "films": sizes.films,
        "films_timed_of_the_loops": films_timed,
        "films_linked_alike": checked,
        "seconds_goal": SECONDS_GOAL,
        "strict_rules_seconds": strict.median,
        "in_process_seconds": inside.median,
        "processor_seconds_ours": used[0],
        "processor_seconds_strict": used[1],
        "processor_seconds_in_process": used[2],
        "processor_seconds_reference": used[3],
        "megabytes_read": size / 1e6,
        "megabytes_written": (options.scratch / "published.parquet").stat().st_size / 1e6,
    }
    return Row(name, "s", "lower", ours, loops, RATIO_GOAL, "ratio", details)


def from_process_start(tables: Path, out: Path, rules: Rules) -> Once:
    """The command as a user pays for it."""
    iv, cxr = tables / "mimic-iv", tables / "mimic-cxr-jpg"
    tokens = [*command(), "cohort", "mimic", "--mimic-iv", str(iv), "--mimic-cxr", str(cxr), "--out", str(out)]
    return Counted(
        lambda: timed(lambda: subprocess.run([*tokens, "--rules", rules], check=True, stdout=subprocess.DEVNULL))
    )


def within_a_process(tables: Path, out: Path) -> Once:
    """The same without process start and imports, which the uncounted round has paid."""
    iv, cxr = tables / "mimic-iv", tables / "mimic-cxr-jpg"
    return Counted(lambda: timed(lambda: write_cohort(mimic_cohort(str(iv), cxr, rules="published"), out)))


def looping(tables: Path, films_timed: int) -> Once:
    """The published way: tables by pandas, then a loop over images and, inside it, over their patient's stays."""

    def once() -> tuple[float, float]:
        read: list[tuple[pd.DataFrame, ...]] = []
        reading = timed(lambda: read.append(read_for_loops(tables)))
        films, admissions, icu_stays = read[0]
        sample = _evenly(films, films_timed)
        linking = timed(lambda: link_by_rows(sample, admissions, icu_stays))
        times = len(films) / len(sample)
        return reading[0] + linking[0] * times, reading[1] + linking[1] * times

    return Counted(once)


def read_for_loops(tables: Path) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Images with sex and age, admissions and ICU stays, times as calendar dates: all that pandas does at once."""
    iv, cxr = tables / "mimic-iv", tables / "mimic-cxr-jpg"
    films = pd.read_csv(cxr / "mimic-cxr-2.0.0-metadata.csv", dtype={"dicom_id": str})
    films["StudyDate"] = pd.to_datetime(films["StudyDate"], format="%Y%m%d")
    patients = pd.read_csv(iv / "hosp" / "patients.csv")
    films = films.merge(patients[["subject_id", "gender", "anchor_age", "anchor_year"]], on="subject_id", how="left")
    films["age"] = films["StudyDate"].dt.year - (films["anchor_year"] - films["anchor_age"])
    admissions = pd.read_csv(iv / "hosp" / "admissions.csv", parse_dates=["admittime", "dischtime"])
    icu_stays = pd.read_csv(iv / "icu" / "icustays.csv", parse_dates=["intime", "outtime"])
    for stays, begins, ends in ((admissions, "admittime", "dischtime"), (icu_stays, "intime", "outtime")):
        stays["begins"], stays["ends"] = stays[begins].dt.normalize(), stays[ends].dt.normalize()
    return films, admissions, icu_stays


def link_by_rows(films: pd.DataFrame, admissions: pd.DataFrame, icu_stays: pd.DataFrame) -> tuple[list[int], list[int]]:
    """Died in hospital and in an ICU of each image, 0 or 1: METHOD's published linking rule, row by row."""
    died: list[int] = []
    for _, film in films.iterrows():
        value = 0
        for _, stay in admissions[admissions["subject_id"] == film["subject_id"]].iterrows():
            if stay["begins"] <= film["StudyDate"] <= stay["ends"]:
                value = int(stay["hospital_expire_flag"])
        died.append(value)
    in_icu: list[int] = []
    for _, film in films.iterrows():
        value = 0
        for _, stay in icu_stays[icu_stays["subject_id"] == film["subject_id"]].iterrows():
            if stay["begins"] <= film["StudyDate"] <= stay["ends"]:
                value = 1
        in_icu.append(value)
    return died, in_icu


def refuse_other_links(tables: Path, out: Path, films_timed: int) -> int:
    """How many of the timed images both ways link alike: all that the published exclusions leave.

    Raises RuntimeError for an image that they do not.
    """
    write_cohort(mimic_cohort(str(tables / "mimic-iv"), tables / "mimic-cxr-jpg", rules="published"), out)
    films, admissions, icu_stays = read_for_loops(tables)
    sample = _evenly(films, films_timed)
    died, in_icu = link_by_rows(sample, admissions, icu_stays)
    cohort = read_cohort(out)
    place = pc.index_in(pa.array(sample["dicom_id"].tolist()), value_set=cohort["image_id"].combine_chunks())
    ours = cohort.select(["ehr.mortality", "ehr.icu", "ehr.age"]).take(pc.drop_null(place))
    kept = place.is_valid().to_numpy(zero_copy_only=False)
    theirs: dict[str, Any] = {
        "ehr.mortality": np.array(MORTALITY_LEVELS)[died],
        "ehr.icu": np.array(ICU_LEVELS)[[1 - value for value in in_icu]],
    }
    for name, values in theirs.items():
        found = np.array(ours[name].to_pylist())
        if not (found == values[kept]).all():
            raise RuntimeError(f"{name} of {int((found != values[kept]).sum())} images is not what the row loops say")
    return int(kept.sum())


def _evenly(films: pd.DataFrame, count: int) -> pd.DataFrame:
    return films.iloc[np.linspace(0, len(films) - 1, count).astype(int)]
