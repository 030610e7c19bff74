"""Commands of the data: simulate, cohort, features, ingest and check."""

import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from chartray.commands.options import Count, CountIfGiven, Positive, Seed
from chartray.config.section import separated
from chartray.console import tell
from chartray.errors import InputError
from chartray.outputs.replacing import reserved
from chartray.wording import plural

if TYPE_CHECKING:
    from chartray.records.cohort import Cohort

Charts = Annotated[tuple[str, ...], Parameter(negative=(), show_default=False)]
Rules = Literal["strict", "published"]


def simulate(
    out: Path,
    *,
    patients: int = 800,
    mimic_iv_release: Literal["1.0", "2.2", "3.1"] = "2.2",
    seed: Seed = 0,
    chart_effect: float = 1.0,
    planted_effect: float | None = None,
    data_sets: str = "mimic,chexpert,nih",
    size: Count = 512,
    workers: CountIfGiven = None,
) -> None:
    """Simulates a hospital in the layouts of MIMIC-IV, MIMIC-CXR-JPG, CheXpert and NIH ChestX-ray14.

    Args:
        out: A new or empty folder; mimic-iv, mimic-cxr-jpg, chexpert and nih are written in it.
        patients: Patients with images in MIMIC-CXR-JPG; the other two data sets get about half as many each.
        mimic_iv_release: Release whose layout and column names the tables have.
        seed: Random seed; the same seed gives the same bytes.
        chart_effect: Strength of the link between chart and findings: 1 as documented, 0 none.
        planted_effect: Plants a finding, Edema, that the image shows only once sex and age are accounted for; strength
            from 0, the negative control, to 3. By default nothing is planted.
        data_sets: Data sets to write, separated by commas. Each has the same files whichever others are written.
        size: Longer side of the images in pixels; those of CheXpert and NIH have three quarters of it.
        workers: Number of processes; by default one per core.
    """
    from chartray.simulate.hospital import simulate as simulate_hospital

    simulate_hospital(
        out,
        patients=patients,
        mimic_iv_release=mimic_iv_release,
        seed=seed,
        chart_effect=chart_effect,
        planted_effect=planted_effect,
        data_sets=separated(data_sets),
        size=size,
        workers=workers,
    )


def cohort_mimic(
    *,
    mimic_iv: str,
    mimic_cxr: Path,
    out: Path,
    rules: Rules = "strict",
    measured: str = "",
    window_hours: Positive | None = None,
) -> None:
    """Makes a cohort of MIMIC-IV tables and MIMIC-CXR-JPG images.

    Args:
        mimic_iv: The folder of MIMIC-IV (1.0, 2.x or 3.x), or the URL of a database that holds its tables.
        mimic_cxr: The folder of MIMIC-CXR-JPG.
        out: The cohort's Parquet file, with its flow file in the same folder; an earlier cohort is replaced.
        rules: How admissions are linked: by full timestamps (strict), or by dates as in the published code.
        measured: Laboratory and vital values to add, separated by commas, such as creatinine,crp: each image has the
            last one that was stored by then. Also laboratory, vital, body, or all of them.
        window_hours: How old such a value may be; by default 72 (laboratory), 24 (vital) and 8760 (body).
    """
    from chartray.records.mimic import mimic_cohort

    names = [name.strip() for name in measured.split(",") if name.strip()]
    made = partial(mimic_cohort, mimic_iv, mimic_cxr, rules=rules, measured=names, window_hours=window_hours)
    _write_cohort(made, out)


def cohort_chexpert(root: Path, *, out: Path) -> None:
    """Makes a cohort of CheXpert-v1.0 or CheXpert-v1.0-small.

    Args:
        root: The folder that holds train.csv.
        out: The cohort's Parquet file.
    """
    from chartray.records.chexpert import chexpert_cohort

    _write_cohort(lambda: chexpert_cohort(root), out)


def cohort_nih(root: Path, *, out: Path) -> None:
    """Makes a cohort of NIH ChestX-ray14, split by its official lists if present, else by patient.

    Args:
        root: The folder that holds Data_Entry_2017_v2020.csv.
        out: The cohort's Parquet file.
    """
    from chartray.records.nih import nih_cohort

    _write_cohort(lambda: nih_cohort(root), out)


def cohort_dicom(
    folder: Path,
    *,
    out: Path,
    mapping: Path | None = None,
    charts: Charts = (),
    modality: str = "CR,DX",
    laterals: bool = True,
    workers: CountIfGiven = None,
) -> None:
    """Makes a cohort of the chest radiographs in a folder of DICOM files; all others are counted.

    Only headers are read. They are kept in OUT.headers, so that after an interruption the same command continues, and
    another mapping needs no reading.

    Args:
        folder: Folder with DICOM files of any name, also in folders inside it.
        out: The cohort's Parquet file.
        mapping: YAML file that adds variables and labels, from tags or from the chart.
        charts: A table joined to the images as `charts` in the mapping says: CSV, Parquet or a database (URL#table).
        modality: Modalities of the images to keep, separated by commas.
        laterals: Keep lateral views.
        workers: Number of processes; by default one per core.
    """
    from chartray.records.dicom import dicom_cohort

    inputs = tuple(file for file in (mapping, *_files(charts)) if file is not None)
    modalities = [name.strip().upper() for name in modality.split(",") if name.strip()]
    made = partial(dicom_cohort, folder, mapping, charts, modalities=modalities, laterals=laterals, workers=workers)
    _write_cohort(lambda: made(headers=out.absolute().with_name(f"{out.stem}.headers")), out, inputs)


def cohort_table(file: str, *, mapping: Path, images: Path, out: Path, charts: Charts = ()) -> None:
    """Makes a cohort of your own table (CSV, Parquet or a database), described by a mapping file.

    Args:
        file: The table, one row an image; of a database its URL and name, such as postgres://host/base#schema.images.
        mapping: YAML file that describes the columns.
        images: Folder that image paths are relative to.
        out: The cohort's Parquet file.
        charts: A second table, joined to the first as `charts` in the mapping says.
    """
    from chartray.records.table import table_cohort

    _write_cohort(lambda: table_cohort(file, mapping, images, charts), out, (mapping, *_files((file, *charts))))


def features(cohort_file: Path, *, out: Path) -> None:
    """Writes the 23 published feature files, with the same folders, names and columns.

    A path that a spreadsheet would read as a formula, such as =cmd, is written as '=cmd.

    Args:
        cohort_file: A cohort.parquet.
        out: A new or empty folder, or one that `features` wrote.
    """
    from chartray.features import write_feature_csvs
    from chartray.records.cohort import read_cohort

    with reserved(out):
        files = write_feature_csvs(read_cohort(cohort_file), out)
    tell(out=out, written={name: rows for name, (rows, _) in files.written.items()}, wanting=files.wanting)
    for name, (rows, left_out) in files.written.items():
        tell(f"{name}: {rows} images" + (f", {left_out} left out for a missing value" if left_out else ""))
    if files.lacking:
        tell(f"not written: {len(files.lacking)} of {len(files.written) + len(files.lacking)} sets; the cohort has")
    for absent, names in files.wanting.items():
        tell(f"  no {absent}: {', '.join(names)}")


def ingest(
    cohort_file: Path,
    *,
    out: Path,
    size: int = 448,
    workers: CountIfGiven = None,
    images: Path | None = None,
    max_megapixels: float = 100.0,
    max_seconds: float = 60.0,
    allow_outside: bool = False,
    cluster: str | None = None,
    retry: bool = False,
) -> None:
    """Decodes every image once into a memory-mapped store; after an interruption the same command continues.

    Args:
        cohort_file: A cohort.parquet.
        out: The store's folder.
        size: Size of a stored image in pixels: 448 (twice the 224 px view), or 256 to save time and space.
        workers: Number of processes; by default one per core.
        images: Folder of the images, if they were moved after the cohort was made.
        max_megapixels: Maximum size of an image; larger ones go to quarantine without being decoded.
        max_seconds: Maximum processor seconds per image; slower ones go to quarantine.
        allow_outside: Allow paths and links that lead out of the image folder.
        cluster: Address of a Dask scheduler (tcp://HOST:PORT), or its scheduler file. Its workers read the images; they
            need the same folders.
        retry: Read only the quarantined images of a finished store again, for instance with a new decoder, restored
            files or higher limits.
    """
    from chartray.pixels.image_process import Limits
    from chartray.pixels.ingest import ingest as ingest_films

    limits = Limits(pixels=int(max_megapixels * 1e6), seconds=max_seconds)
    made = ingest_films(
        cohort_file,
        out,
        size=size,
        workers=workers,
        images_root=images,
        limits=limits,
        allow_outside=allow_outside,
        cluster=cluster,
        retry=retry,
    )
    tell(f"{made.store}: {made.images} images of {size} px, hash {made.hash[:12]}", **made._asdict())
    for reason, count in made.quarantined.items():
        tell(f"  quarantine: {count} ({reason})")
    for lost in made.lost:
        print(f"warning: {lost}", file=sys.stderr)


def check(path: Path) -> None:
    """Checks a cohort or a store for errors before training; exit code 2 if there are any.

    Rows count from 1, in the order of the cohort or of the store's cohort.parquet.

    Args:
        path: A cohort.parquet, or a store.
    """
    from chartray.check import check as check_data
    from chartray.check import spoken

    cohort = path / "cohort.parquet" if path.is_dir() else path

    findings = check_data(path)
    first = f"rows count from 1, in the order of {cohort}; identifiers are not printed, so look the row up there"
    tell(first, *spoken(findings), findings=findings)
    wrong = sum(finding.severity == "error" for finding in findings)
    if wrong:
        raise InputError(f"found {plural(wrong, 'error')} in {path}; correct what is listed above")


def _files(tables: Iterable[str]) -> list[Path]:
    """Those of the tables that are files."""
    return [Path(table) for table in tables if "://" not in table]


def _write_cohort(make: Callable[[], "Cohort"], out: Path, inputs: tuple[Path, ...] = ()) -> None:
    """Makes a cohort, where it may be written, and writes it with its flow, and prints the flow."""
    from chartray.records.cohort import describe, flow_of, warning_lines, write_cohort
    from chartray.records.replaceable import check_cohort_out

    check_cohort_out(out, inputs)
    with reserved(out):
        made = make()
        write_cohort(made, out)
    rows = made.table.num_rows
    tell(*describe(made).splitlines(), out=out, images=rows, flow=flow_of(made).content(), warnings=warning_lines(made))
    if not sys.stdout.isatty():  # who sends the flow to a file still sees them
        for line in warning_lines(made):
            print(line, file=sys.stderr)
