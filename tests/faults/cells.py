"""Tables as they come: odd cells, odd structure, odd bytes in what `cohort table|mimic|chexpert|nih` reads.

Expected: one sentence that tells no patient, or a cohort. Where one cell is odd, nothing about any other patient may
change: their rows are, value for value, those of the table as it was.
"""

import csv
import gzip
import io
import random
import re
import shutil
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from tests.faults.materials import MARK, Hospital
from tests.faults.outcome import READ, REFUSED, Outcome, failure, unsaid
from tests.faults.processes import Fault, in_a_row, run_forked, said_so_far

_ODD = (
    *("", " ", "nan", "NaN", "NULL", "None", "unknown", "-", "?", "N/A", "#N/A", "inf", "-inf", "1e999", "1.23457E+11"),
    *(
        "0",
        "1",
        "-1",
        "1.0",
        "0.0",
        "2",
        "-0",
        "01",
        "+1",
        "1,5",
        "1.5",
        "True",
        "FALSE",
        "Y",
        "n",
        "ja",
        "JA",
        "unklar",
    ),
    *("2150-03-02", "02.03.2150", "21500302", "2150-13-45", "2150-03-02 25:61", "2150-03-02T10:00:00Z", "09:30:12"),
    *("2150-03-02 10:00:00+02:00", "0000-00-00", "9999-12-31 23:59:59", "=cmd|' /C calc'!A0", "@SUM(1)", "a\nb", 'q"q'),
    *(
        "../../etc/passwd",
        "/etc/passwd",
        "x" * 5000,
        "ü€😀",
        "\u202e",
        "M\x00",
        "train",
        "Test",
        "male",
        "999999999999999999999",
    ),
)
_MAKERS = {"int": pa.int64(), "float": pa.float64(), "bool": pa.bool_(), "binary": pa.binary(), "null": pa.null()}
SOURCES = ("table", "parquet", "mimic", "chexpert", "nih")
_IMAGE_ID = {"table": "file", "parquet": "file"}


class Base(NamedTuple):
    """A source as it was: its folder, the files that may be changed, the words, its rows by image, what is secret."""

    folder: Path
    files: list[str]
    tokens: tuple[str, ...]
    rows: dict[str, dict[str, Any]]
    secrets: re.Pattern[str] | None


def fuzz(hospital: Hospital, source: str, seeds: Sequence[int]) -> Iterator[tuple[int, Outcome]]:
    """One file of a source, changed once, and its cohort made."""
    base = _base(hospital, source)
    out = hospital.scratch / "cells.parquet"

    def does(seed: int) -> tuple[str, ...]:
        draw = random.Random(f"{source}:{seed}")
        file = base.folder / draw.choice(base.files)
        kept = file.with_name(f"{file.name}.kept")
        if kept.exists():  # the fork before this one was ended by its case
            kept.rename(file)
        kept = file.with_name(f"{file.name}.kept")
        file.rename(kept)
        try:
            touched, way = _change(kept, file, draw)
            out.unlink(missing_ok=True)
            code = hospital.does((*base.tokens, "--out", str(out)))
        finally:
            kept.replace(file)
        said, error = said_so_far(hospital.scratch)
        at = f"[{file.name}: {way}]"
        if base.secrets and (told := base.secrets.search(said + error)):
            return (
                "a patient's identifier told",
                f"{at} ...{(said + error)[max(0, told.start() - 200) : told.end() + 30]}",
            )
        if code:
            wrong = unsaid(error)
            return (wrong.what, f"{at} {wrong.note}") if wrong else (REFUSED,)
        return (READ,) if touched is None else _others_as_before(out, base, touched, at)

    for seed, said in in_a_row(does, seeds, hospital.scratch, seconds=90, gigabytes=6):
        yield (
            seed,
            Outcome(said[0]) if len(said) == 1 and said[0] in (READ, REFUSED) else failure(said[0], " ".join(said[1:])),
        )


def _others_as_before(out: Path, base: Base, touched: frozenset[str], at: str) -> tuple[str, ...]:
    """Whether the rows of patients whom the change does not name are those of the source as it was."""
    found = _rows(out)
    for image, before in base.rows.items():
        patient = str(before["patient_id"])
        # CheXpert's patients stand within a path; the radiologists' labels of MIMIC name the study alone.
        ids = {patient, image, str(before["study_id"])}
        if touched & ids or (len(patient) > 5 and any(patient in cell for cell in touched)):
            continue
        after = found.get(image)
        if after is None:
            return "another patient's image lost", at
        names = [name for name in before.keys() | after.keys() if _cell(before, name) != _cell(after, name)]
        if names:
            return (
                "another patient's value changed",
                f"{at} {', '.join(f'{n}: {before.get(n)} -> {after.get(n)}' for n in names[:3])}",
            )
    return (READ,)


def _cell(row: dict[str, Any], name: str) -> Any:
    """A cell; of a label's blanks, which have a column only where they are not the label's nulls, what goes without."""
    return row.get(name, row.get(f"label.{name[6:]}") is None) if name.startswith("blank.") else row.get(name)


def _rows(cohort: Path) -> dict[str, dict[str, Any]]:
    return {row["image_id"]: row for row in pq.ParquetFile(cohort).read().to_pylist()}


def _change(source: Path, target: Path, draw: random.Random) -> tuple[frozenset[str] | None, str]:
    """Writes `target`, changed; returns the cells of the one row that was changed, or None where more was."""
    if source.name.removesuffix(".kept").endswith(".parquet"):
        return _change_parquet(source, target, draw)
    packed = source.name.removesuffix(".kept").endswith(".gz")
    whole = gzip.decompress(source.read_bytes()) if packed else source.read_bytes()
    touched, way, changed = _change_text(whole.decode(), draw)
    if packed:
        changed = gzip.compress(changed, 1)
        if draw.random() < 0.03:
            changed, touched, way = changed[: draw.randrange(len(changed))], None, "a torn gzip"
    target.write_bytes(changed)
    return touched, way


def _change_text(text: str, draw: random.Random) -> tuple[frozenset[str] | None, str, bytes]:
    rows = list(csv.reader(io.StringIO(text)))
    row, column = draw.randrange(1, len(rows)), draw.randrange(len(rows[0]))
    before = frozenset(rows[row])
    way = draw.choice(
        ("cell",) * 6
        + ("own cell",) * 2
        + ("another's cell", "name", "column", "twice", "ragged", "bytes", "cut", "shape")
    )
    if way in ("cell", "own cell", "another's cell"):
        old = rows[row][column]
        if way == "cell":
            new = draw.choice(_ODD)
        elif way == "own cell":
            new = draw.choice(
                (f"{old}.0", f" {old} ", old.lower(), old.upper(), f"0{old}", f"{old}e0", f"{old}\t", f'"{old}"')
            )
        else:
            new = draw.choice(rows[1:])[column]
        rows[row][column] = new
        # Whoever has the new value too may be meant by it.
        alike = {
            cell
            for each in rows[1:]
            if each[column].strip().lower().removesuffix(".0").lstrip("0")
            == new.strip().lower().removesuffix(".0").lstrip("0")
            for cell in each
        }
        return before | alike, f"{rows[0][column]} of data row {row}: {old!r} -> {new[:40]!r}", _csv(rows)
    if way == "name":
        rows[0][column] = draw.choice((*rows[0], "", rows[0][column].upper(), f" {rows[0][column]}", "x"))
        return None, f"column {column + 1} named {rows[0][column]!r}", _csv(rows)
    if way == "column":
        return None, f"no column {rows[0][column]}", _csv([each[:column] + each[column + 1 :] for each in rows])
    if way == "twice":
        rows.insert(draw.randrange(1, len(rows)), list(rows[row]))
        return None, f"data row {row} twice", _csv(rows)
    if way == "ragged":
        rows[row] = rows[row][: draw.randrange(len(rows[row]))] if draw.random() < 0.5 else [*rows[row], "x"]
        return None, f"data row {row} with {len(rows[row])} cells", _csv(rows)
    whole = bytearray(text.encode())
    if way == "bytes":
        for _ in range(draw.choice((1, 3, 20))):
            whole[draw.randrange(len(whole))] = draw.choice((0, 10, 13, 34, 44, 59, 255, draw.randrange(256)))
        return None, "odd bytes", bytes(whole)
    if way == "cut":
        return None, "cut", bytes(whole[: draw.randrange(len(whole))])
    shape = draw.choice(("semicolons", "utf-16", "bom", "empty", "header", "latin", "crlf", "tabs"))
    shapes = {
        "semicolons": text.replace(",", ";").encode(),
        "tabs": text.replace(",", "\t").encode(),
        "utf-16": text.encode("utf-16"),
        "bom": text.encode("utf-8-sig"),
        "empty": b"",
        "header": (text.splitlines()[0] + "\n").encode(),
        "latin": text.encode() + "é".encode("latin-1"),
        "crlf": text.replace("\n", "\r\n").encode(),
    }
    return None, shape, shapes[shape]


def _csv(rows: Sequence[Sequence[str]]) -> bytes:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows)
    return stream.getvalue().encode()


def _change_parquet(source: Path, target: Path, draw: random.Random) -> tuple[frozenset[str] | None, str]:
    table = pq.read_table(source)
    name = draw.choice(table.column_names)
    place = table.column_names.index(name)
    way = draw.choice(("type", "type", "cell", "cell", "list", "names", "bytes", "cut", "none"))
    if way in ("bytes", "cut"):
        whole = bytearray(source.read_bytes())
        if way == "cut":
            del whole[draw.randrange(len(whole)) :]
        for _ in range(draw.choice((1, 4))):
            if whole:
                whole[draw.randrange(len(whole))] = draw.randrange(256)
        target.write_bytes(whole)
        return None, way
    cells = table.column(name).to_pylist()
    touched: frozenset[str] | None = None
    if way == "type":
        word = draw.choice(sorted(_MAKERS))
        made = [_as(word, cell) for cell in cells]
        column, way = pa.array(made, _MAKERS[word]), f"{name} as {word}"
    elif way == "cell":
        row = draw.randrange(len(cells))
        touched = frozenset(str(cell) for cell in table.slice(row, 1).to_pylist()[0].values())
        new = draw.choice((*_ODD, None))
        touched |= {str(cell) for each in table.to_pylist() if str(each[name]) == new for cell in each.values()}
        cells[row], way = new, f"{name} of data row {row + 1}: {str(new)[:40]!r}"
        column = pa.array([None if cell is None else str(cell) for cell in cells], pa.string())
    elif way == "list":
        column, way = pa.array([[cell] for cell in cells]), f"{name} as lists"
    elif way == "none":
        column, way = table.column(name).slice(0, 0), "no rows"
        table = table.slice(0, 0)
    else:
        other = draw.choice(table.column_names)
        pq.write_table(table.rename_columns([other if each == name else each for each in table.column_names]), target)
        return None, f"{name} named {other}"
    pq.write_table(table.set_column(place, name, column), target)
    return touched, way


def _as(word: str, cell: object) -> object:
    digits = re.sub(r"\D", "", str(cell))[-15:]
    made = {"int": int(digits or 0), "float": float(digits) if digits else None, "bool": bool(digits)}
    return made.get(word, str(cell).encode() if word == "binary" else None)


@cache
def _base(hospital: Hospital, source: str) -> Base:
    """The source, undisturbed, and its cohort: made once."""
    if source in ("table", "parquet"):
        folder = hospital.scratch / "cells" / source
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name in ("films.csv", "mapping.yaml"):
            shutil.copyfile(hospital.whole / name, folder / name)
        (folder / "films").symlink_to(hospital.whole / "films")
        if source == "parquet":
            pq.write_table(pyarrow.csv.read_csv(folder / "films.csv"), folder / "films.parquet")
    else:
        folder = _simulated(hospital)
    tokens = {
        "table": ("table", f"{folder}/films.csv", "--mapping", f"{folder}/mapping.yaml", "--images", f"{folder}/films"),
        "parquet": (
            "table",
            f"{folder}/films.parquet",
            "--mapping",
            f"{folder}/mapping.yaml",
            "--images",
            f"{folder}/films",
        ),
        "mimic": ("mimic", "--mimic-iv", f"{folder}/mimic-iv", "--mimic-cxr", f"{folder}/mimic-cxr-jpg"),
        "chexpert": ("chexpert", f"{folder}/chexpert"),
        "nih": ("nih", f"{folder}/nih"),
    }[source]
    within = {"mimic": ("mimic-iv", "mimic-cxr-jpg"), "chexpert": ("chexpert",), "nih": ("nih",)}.get(source, ("",))
    ends = (".parquet",) if source == "parquet" else (".csv", ".csv.gz", ".txt") if source != "table" else (".csv",)
    files = [
        file.relative_to(folder).as_posix()
        for part in within
        for file in sorted((folder / part).rglob("*"))
        if file.is_file() and file.name.endswith(ends) and file.stat().st_size and "SIMULATED" not in file.name
    ]
    out = hospital.scratch / f"cells-{source}.parquet"
    _must(hospital, ("cohort", *tokens, "--out", str(out)), folder)
    rows = _rows(out)
    return Base(folder, files, ("cohort", *tokens), rows, _secrets(source, rows))


@cache
def _simulated(hospital: Hospital) -> Path:
    folder = hospital.scratch / "cells" / "simulated"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _must(hospital, ("simulate", str(folder), "--patients", "12", "--workers", "1"), hospital.here)
    return folder


def _secrets(source: str, rows: dict[str, dict[str, Any]]) -> re.Pattern[str] | None:
    if source in ("table", "parquet"):
        return re.compile(MARK)
    known = {str(row[name]) for row in rows.values() for name in ("patient_id", "study_id", "image_id")}
    long = sorted({re.escape(word) for word in known if sum(letter.isdigit() for letter in word) >= 6})
    return re.compile("|".join(long)) if long else None


def _must(hospital: Hospital, tokens: tuple[str, ...], folder: Path) -> None:
    ended = run_forked(lambda: hospital.does(tokens), folder, hospital.control, Fault("count"), seconds=600)
    if ended.code != 0:
        raise SystemExit(f"{' '.join(tokens)}: ended with {ended.code} undisturbed: {ended.err[-2000:]}")
