"""`chartray bench`: a table of ours against the reference on this machine, as text and as JSON."""

import importlib
import importlib.util
import json
import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.speed.measuring import Measured, NotHere, Row
from benchmarks.speed.options import Options
from chartray.errors import InputError

# Which module of this room measures a name, in the order they run; imported when it is its turn.
_MODULES = {
    "help": "starting",
    "first_step": "starting",
    "cohort": "cohorts",
    "ingest.jpeg": "ingesting",
    "ingest.dicom": "ingesting",
    "views.256": "view_making",
    "views.448": "view_making",
    "step.vit_tiny": "training_step",
    "step.vit_small": "training_step",
    "memory.vit_tiny": "kept_memory",
    "memory.vit_small": "kept_memory",
    "pretrain.vit_tiny": "pretraining",
    "pretrain.vit_small": "pretraining",
    "scaling.vit_tiny": "scaling",
    "probe": "probing",
    "bootstrap": "resampling",
}
NAMES = tuple(_MODULES)


def run_bench(
    only: Sequence[str] = (),
    *,
    repeats: int = 5,
    quick: bool = False,
    device: str = "auto",
    batch_size: int | None = None,
    out: Path | None = None,
) -> list[Row]:
    """Measures every name (or `only` some), prints a table, and writes `out` as JSON after each, so that none is lost.

    Raises InputError for a name that is not measured, a device that is not there, or a reference that is not installed.
    """
    unknown = [name for name in only if name not in _MODULES]
    if unknown:
        raise InputError(f"expected names of measurements ({', '.join(NAMES)}), found {', '.join(unknown)}")
    _require_the_reference()
    from benchmarks.speed.machine import describe_machine  # which imports torch

    machine = describe_machine(device)
    console = Console()
    console.print(machine.sentence, highlight=False, soft_wrap=True)
    if quick:
        console.print("quick: small sizes, to see that everything runs; no number here says anything")
    rows: list[Row] = []
    for name in only or NAMES:
        with tempfile.TemporaryDirectory(prefix="chartray-bench-") as scratch:
            options = Options(repeats, Path(scratch), quick, machine.device, batch_size)
            measure: Callable[[str, Options], Row] = importlib.import_module(
                f"benchmarks.speed.{_MODULES[name]}"
            ).measure
            try:
                row = measure(name, options)
            except NotHere as reason:
                if only:
                    raise
                console.print(f"{name}: left out; {reason}", highlight=False, soft_wrap=True)
                continue
        rows.append(row._replace(target=None) if quick else row)
        console.print(line(rows[-1]), highlight=False, soft_wrap=True)
        if out is not None:
            write_json(out, rows, machine._asdict())
    console.print(table_of(rows))
    return rows


def write_json(file: Path, rows: Sequence[Row], machine: dict[str, Any]) -> None:
    """A list with one object a row: name, unit, ours, reference, ratio, target, and what else was counted."""
    said = []
    for row in rows:
        said.append(
            {
                "name": row.name,
                "unit": row.unit,
                "ours": row.ours.median,
                "reference": row.reference.median if row.reference else None,
                "ratio": row.ratio,
                "target": row.target,
                "target_of": row.target_of,
                "met": row.met,
                "better": row.better,
                "ours_measured": _plain(row.ours),
                "reference_measured": _plain(row.reference) if row.reference else None,
                "details": dict(row.details),
                "machine": machine,
            }
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(said, indent=1, allow_nan=False) + "\n")


def _plain(measured: Measured) -> dict[str, Any]:
    return measured._asdict() | {"notes": dict(measured.notes)}


def line(row: Row) -> str:
    """One row in a line, as it is printed when it has been measured."""
    reference = f", reference {_spread(row.reference)}" if row.reference else ""
    ratio = f", ratio {row.ratio:.3g}" if row.ratio is not None else ""
    peaks = [each.peak_gib for each in (row.ours, row.reference) if each and each.peak_gib is not None]
    memory = f", peak GiB {' and '.join(_number(peak) for peak in peaks)}" if peaks else ""
    details = "".join(f", {name} {_number(value)}" for name, value in row.details.items())
    return f"{row.name}: {_spread(row.ours)} {row.unit}{reference}{ratio}{memory}{details}"


def table_of(rows: Sequence[Row]) -> Table:
    """The table for people: medians, ratio, target; spreads and what else was counted stand in each row's line."""
    table = Table(title="ours against the reference, medians")
    table.add_column("measurement", no_wrap=True)
    for column in ("ours", "reference", "ratio", "target"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("")
    for row in rows:
        target = "" if row.target is None else f"{_number(row.target)}{'x' if row.target_of == 'ratio' else ''}"
        table.add_row(
            f"{row.name} ({row.unit})",
            _number(row.ours.median),
            _number(row.reference.median) if row.reference else "",
            f"{row.ratio:.3g}" if row.ratio is not None else "",
            target,
            {True: "met", False: "missed", None: ""}[row.met],
        )
    return table


def _spread(measured: Measured) -> str:
    return f"{_number(measured.median)} [{_number(measured.low)}, {_number(measured.high)}]"


def _number(value: float | str) -> str:
    """Three digits that count, no exponent for what a person says.

    >>> [_number(each) for each in (0.01234, 1.234, 12345.6, "on")]
    ['0.0123', '1.23', '12346', 'on']
    """
    if isinstance(value, str):
        return value
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.{max(2 - math.floor(math.log10(abs(value) or 1)), 0)}f}"


def _require_the_reference() -> None:
    for package in ("lightly", "pandas", "sklearn", "torchvision"):
        if importlib.util.find_spec(package) is None:
            raise InputError(f"the reference needs {package}, which is not installed; pip install 'chartray[bench]'")
