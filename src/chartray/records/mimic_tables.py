"""MIMIC-IV's patients, admissions and ICU stays, from a folder of any release or from a database."""

import re
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from chartray.errors import InputError
from chartray.records.identifiers import whole_numbers
from chartray.records.race import RACE_COLUMNS
from chartray.records.reading import (
    folder_content,
    need_csv,
    read_cells,
    refuse_empty,
    refuse_repeated,
)
from chartray.wording import no_secret

_COLUMNS = {
    "patients": ["subject_id", "gender", "anchor_age", "anchor_year"],
    "admissions": ["subject_id", "hadm_id", "admittime", "dischtime", "hospital_expire_flag"],
    "icustays": ["subject_id", "stay_id", "intime", "outtime"],
}
# The first is the person, the last the row.
_IDS = {"patients": ["subject_id"], "admissions": ["subject_id", "hadm_id"], "icustays": ["subject_id", "stay_id"]}
# Columns in which every cell is a number; otherwise they are read as text. Times stay text, which shows whether a date
# has a time.
_TYPES = {name: dict.fromkeys(ids, pa.int64()) for name, ids in _IDS.items()}
_TYPES["patients"] |= dict.fromkeys(("anchor_age", "anchor_year"), pa.float64())
_OPTIONAL = {"patients": ["anchor_year_group"], "admissions": ["edregtime", *RACE_COLUMNS], "icustays": []}
_HOSPITAL = ("mimiciv_hosp", "mimic_hosp", "mimiciv_core", "mimic_core", None)
_ICU = ("mimiciv_icu", "mimic_icu", None)
_NAMED_RELEASE = re.compile(r"(?<![\d.])([23]\.[0-9])(?![\d.])")


class MimicTables(NamedTuple):
    """The `tables` patients, admissions and icustays, and the `place` each was read from; ids are whole numbers.

    `layout` is the folder of patients and admissions, `hosp/` or `core/`; empty for a database.
    """

    release: str
    layout: str
    tables: dict[str, pa.Table]
    place: dict[str, Path]


def read_mimic_tables(where: str, *, ordered: bool) -> MimicTables:
    """Reads the three tables of MIMIC-IV from a folder or a database URL.

    `ordered`: the rule needs the order of the rows, which a database does not keep.
    Raises InputError for a missing table or column, an empty table, and ids that are repeated or not whole numbers.
    """
    if "://" in where:
        if ordered:
            raise InputError(
                f"expected a folder of csv files for the published rules, found the database {no_secret(where)}; they "
                "choose the last admission in file order, which a database does not keep, so use --rules strict"
            )
        tables = _from_database(where)
        place, release = {name: Path(f"{name} of {no_secret(where)}") for name in tables}, "database"
        layout = ""
    else:
        root = Path(where)
        layout = _layout(root)
        folders = {"patients": layout, "admissions": layout, "icustays": "icu"}
        place = {name: need_csv(root / folder, name) for name, folder in folders.items()}
        tables = {
            name: read_cells(file, _COLUMNS[name], _OPTIONAL[name], types=_TYPES[name]) for name, file in place.items()
        }
        release = _release(root, layout, tables["patients"])
    for name, ids in _IDS.items():
        refuse_empty(tables[name], place[name])
        for key in ids:
            column = whole_numbers(tables[name][key], key, str(place[name]))
            tables[name] = tables[name].set_column(tables[name].column_names.index(key), key, column)
        refuse_repeated(tables[name], ids[-1], place[name])
    return MimicTables(release, f"{layout}/" if layout else "", tables, place)


def _layout(root: Path) -> str:
    for folder in ("hosp", "core"):
        if any((root / folder / f"patients{suffix}").is_file() for suffix in (".csv", ".csv.gz")):
            return folder
    held = "; ".join(
        f"{name}/ with {folder_content(root / name)}" for name in ("hosp", "core") if (root / name).is_dir()
    )
    raise InputError(
        f"expected hosp/patients.csv[.gz] (MIMIC-IV 2.x, 3.x) or core/patients.csv[.gz] (1.0) in {root}, "
        f"found {held or folder_content(root)}"
    )


def _release(root: Path, layout: str, patients: pa.Table) -> str:
    """The release: 1.0 has core/; else from the folder's name, else from the tables."""
    if layout == "core":
        return "1.0"
    named = [found[0] for part in root.resolve().parts[-2:] if (found := _NAMED_RELEASE.search(part))]
    if named:
        return str(named[-1])
    if "anchor_year_group" not in patients.column_names:
        return "2.x or 3.x"
    # Release 3.0 added patients of these years (MIT-LCP/mimic-code#1838).
    newest = pc.any(pc.equal(patients["anchor_year_group"], "2020 - 2022")).as_py()
    return "3.x" if newest else "2.x"


def _from_database(url: str) -> dict[str, pa.Table]:
    from chartray.records.database import Database  # imports Ibis

    server, tables = Database(url), {}
    for name, columns in _COLUMNS.items():
        table = server.table(name, schemas_of(name))
        optional = [column for column in _OPTIONAL[name] if column in table.columns]
        tables[name] = server.text(table, [*columns, *optional])
    return tables


def schemas_of(table: str) -> tuple[str | None, ...]:
    """Where PhysioNet's own scripts put a table in a database, newest layout first; None: without a schema."""
    return _ICU if table in ("icustays", "chartevents") else _HOSPITAL
