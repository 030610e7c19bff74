"""Commands of the results: report, export, demo and bench."""

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Annotated, Literal

from cyclopts import Parameter

from chartray.commands.options import Count, CountIfGiven, Seed
from chartray.config.export import Form, check_form
from chartray.console import tell
from chartray.errors import InputError
from chartray.outputs.replacing import reserved

Folders = Annotated[list[Path] | None, Parameter(negative=())]


def report(
    results: Annotated[list[Path] | None, Parameter(negative=())] = None,
    *,
    out: Path,
    run: Folders = None,
    store: Folders = None,
    audit: Folders = None,
    title: str | None = None,
    films: bool = True,
) -> None:
    """Writes one self-contained HTML page of runs and results, with its figures as SVG and PDF.

    Args:
        results: Folders that `evaluate` and `compare` wrote; optional.
        out: The report's folder.
        run: Run folders, for training curves; may be repeated.
        store: Stores, for the images on the map; may be repeated.
        audit: Folders that `audit` wrote; may be repeated.
        title: Title of the page.
        films: Show thumbnails of images.
    """
    from chartray.commands.opening import need_inputs

    need_inputs(folders=[*(results or []), *(run or []), *(audit or [])], stores=store or [], out=out)
    from chartray.report.write import write_report

    with reserved(out):
        page = write_report(
            run or [], results or [], out, stores=store or [], audits=audit or [], title=title, films=films
        )
    tell(page, page=page)


def demo(out: Path = Path("demo"), *, seed: Seed = 0, patients: int = 700, steps: CountIfGiven = None) -> None:
    """Runs the whole pipeline on a simulated hospital, in minutes on two cores; ends in OUT/report/report.html.

    Args:
        out: A new or empty folder.
        seed: Random seed of the hospital and of the initial weights.
        patients: Number of patients.
        steps: Steps of each pretraining, with the recipe small-cpu; by default 600.
    """
    from chartray.outputs.guard import refuse_other

    refuse_other(out)
    from chartray.demo import run_demo

    run_demo(out, seed=seed, patients=patients, steps=steps)


def export(
    source: Path,
    *,
    out: Path,
    to: Form = "timm",
    results: Folders = None,
    store: Path | None = None,
    preprocessing: bool = False,
) -> None:
    """Writes the encoder as a folder that timm, transformers or an ONNX runtime loads, with its model card.

    Loaded by that library, it is compared with Chartray on 32 images: parity.json and the card hold the differences.

    Args:
        source: A run, or an encoder folder.
        out: A new folder, or an earlier export of this encoder, which is replaced. A card with results is replaced only
            by another with results.
        to: The library that is to load the encoder; huggingface is transformers, onnx needs the extra onnx.
        results: Folders that `evaluate`, `compare` or `audit` wrote, whose numbers go on the card; may be repeated.
        store: The store of the 32 images; by default that of the pretraining, or random noise if it is gone.
        preprocessing: With onnx: the graph itself resizes and standardises uint8 images of any size.
    """
    from chartray.commands.opening import need_inputs
    from chartray.model_card.earlier import check_export_replaceable, refuse_to_lose
    from chartray.model_card.folders import read_folders
    from chartray.networks.description import encoder_folder, sealed_description

    check_form(to, preprocessing=preprocessing)
    need_inputs(encoders=[source], folders=results or [], stores=[store] if store else [], out=out)
    check_export_replaceable(out)
    made = sealed_description(encoder_folder(source)).provenance
    read_folders(results or [], made)
    from chartray.export.bundle import export_encoder

    with reserved(out):
        if out.exists():
            refuse_to_lose(out, made, results or [])
        made_at = export_encoder(source, out, to=to, results=results or [], store=store, preprocessing=preprocessing)
        tell(made_at, out=out, to=to)


def bench(
    only: Annotated[list[str] | None, Parameter(negative=())] = None,
    *,
    repeats: Count = 5,
    quick: bool = False,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    batch_size: CountIfGiven = None,
    json: Path | None = None,
    growth: Path | None = None,
    growth_rows: int = 1_000_000,
) -> None:
    """Measures the speed of Chartray on this machine against the published method on lightly.

    Args:
        only: Names of measurements; by default all.
        repeats: Timed rounds of each method, in turns.
        quick: Small sizes, only to check that everything runs.
        device: Device.
        batch_size: Images per training step.
        json: File to write the rows to, as a list of objects.
        growth: Folder to write time and memory of every stage at 1, 10 and 100 times the rows to, instead.
        growth_rows: Rows of the largest size; 10000000 needs 12 GiB of memory and 5 minutes.
    """
    if growth is not None:
        _benchmarks("growth").run_growth(growth, largest=growth_rows)
        return
    _benchmarks("bench").run_bench(
        only or [], repeats=repeats, quick=quick, device=device, batch_size=batch_size, out=json
    )


def _benchmarks(module: str) -> ModuleType:
    """A module of the folder `benchmarks` of a checkout: it is no part of the installed package."""
    checkout = Path(__file__).resolve().parents[3]
    if not (checkout / "benchmarks" / "speed").is_dir():
        raise InputError(
            "expected the folder benchmarks next to src, found none: `chartray bench` runs from a clone of the "
            "repository, installed with `make install`"
        )
    sys.path.insert(0, str(checkout))
    return importlib.import_module(f"benchmarks.speed.{module}")
