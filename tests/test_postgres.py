"""A real PostgreSQL with the MIMIC-IV demo: the same cells as from files, and a sentence for all that goes wrong."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from chartray.errors import InputError
from chartray.records.catalogue import CATALOGUE
from chartray.records.mimic import mimic_cohort
from chartray.records.table import table_cohort
from tests.mimic_demo import needs_demo, rows_of, write_cxr
from tests.postgres_server import ADMIN_PASSWORD, READER_PASSWORD, server
from tests.test_events import NAMES, OMOP_MORE, entry_of, mapping_of, table_of, write_omop

pytestmark = [
    needs_demo,
    pytest.mark.skipif(importlib.util.find_spec("psycopg") is None, reason="the extra postgres is not installed"),
]
# Columns that are not text in the tables of MIMIC-IV's own scripts.
TYPES = {
    "subject_id": "integer", "hadm_id": "integer", "stay_id": "integer", "itemid": "integer", "anchor_age": "smallint",
    "anchor_year": "smallint", "hospital_expire_flag": "smallint", "valuenum": "double precision", "chartdate": "date",
    "admittime": "timestamp(0)", "dischtime": "timestamp(0)", "edregtime": "timestamp(0)", "intime": "timestamp(0)",
    "outtime": "timestamp(0)", "charttime": "timestamp(0)", "storetime": "timestamp(0)",
}  # fmt: skip
TABLES = {
    "mimiciv_hosp.patients": ["subject_id", "gender", "anchor_age", "anchor_year", "anchor_year_group"],
    "mimiciv_hosp.admissions": [
        "subject_id", "hadm_id", "admittime", "dischtime", "edregtime", "hospital_expire_flag", "race",
    ],
    "mimiciv_hosp.labevents": ["subject_id", "itemid", "charttime", "storetime", "valuenum", "valueuom"],
    "mimiciv_hosp.omr": ["subject_id", "chartdate", "result_name", "result_value"],
    "mimiciv_icu.icustays": ["subject_id", "stay_id", "intime", "outtime"],
    "mimiciv_icu.chartevents": ["subject_id", "itemid", "charttime", "storetime", "valuenum", "valueuom"],
}  # fmt: skip


@pytest.fixture(scope="module")
def port(hospital: Path) -> Iterator[int]:
    import psycopg

    with server() as port:
        address = {"host": "127.0.0.1", "port": port, "user": "admin", "password": ADMIN_PASSWORD}
        with psycopg.connect(**address, dbname="postgres", autocommit=True) as base:
            base.execute("create database mimic")
            for user in ("reader", "stranger", "hurried"):
                base.execute(f"create role {user} login password '{READER_PASSWORD}'")
            base.execute("grant reader to hurried")
            base.execute("alter role hurried set statement_timeout = '1ms'")
        with psycopg.connect(**address, dbname="mimic") as base:
            for name, columns in TABLES.items():
                schema, _, table = name.partition(".")
                base.execute(f"create schema if not exists {schema}")
                typed = ", ".join(f"{column} {TYPES.get(column, 'text')}" for column in columns)
                base.execute(f"create table {name} ({typed})")
                folder = "icu" if schema.endswith("icu") else "hosp"
                with base.cursor().copy(f"copy {name} from stdin") as copy:
                    for row in rows_of(hospital / folder / f"{table}.csv.gz"):
                        copy.write_row([row[column] or None for column in columns])
            for schema in ("mimiciv_hosp", "mimiciv_icu"):
                base.execute(f"grant usage on schema {schema} to reader")
                base.execute(f"grant select on all tables in schema {schema} to reader")
            base.execute("grant usage on schema mimiciv_hosp to stranger")
            base.execute("grant select on mimiciv_hosp.patients to stranger")
            base.execute("create schema bare")
            base.execute("create table bare.charts (mrn text, drawn timestamp, crp double precision)")
            base.execute("insert into bare.charts values ('007', '2020-03-01 10:00', 12.5), ('7b', null, null)")
            base.execute("grant usage on schema bare to reader")
            base.execute("grant select on bare.charts to reader")
        yield port


def url(port: int, user: str = "reader", password: str = READER_PASSWORD, base: str = "mimic") -> str:
    return f"postgres://{user}:{quote(password, safe='')}@127.0.0.1:{port}/{base}"


def test_every_cell_is_that_of_the_files(hospital: Path, images: Any, port: int, tmp_path: Path) -> None:
    cxr = write_cxr(tmp_path, images)
    from_files = mimic_cohort(str(hospital), cxr, measured=["all"])
    cohort = mimic_cohort(url(port), cxr, measured=["all"])
    assert cohort.table.equals(from_files.table)
    assert cohort.links == from_files.links
    assert cohort.missing == from_files.missing
    for name in CATALOGUE:
        assert cohort.table[f"ehr.{name}"].null_count < len(images)


@pytest.mark.parametrize(
    ("given", "measured", "sentence"),
    [
        ({"password": "wr0ng/pass@word"}, [], r"expected a database at .*, found a refused password; check user"),
        ({"base": "mimik"}, [], r"expected a database at postgres://127.0.0.1:\d+/mimik, found no base of this name"),
        ({"user": "nobody"}, [], r"expected a database at .*, found (a refused password|no user of this name)"),
        ({"user": "stranger"}, [], r"expected to read admissions of .*, found a user without the right to read it"),
        ({"user": "hurried"}, ["all"], r"expected .*, found a query that the server ended; ask who runs it for a long"),
        ({"base": "postgres"}, [], r"expected a table 'patients' in .*/postgres, in schema 'mimiciv_hosp', .*found"),
    ],
)  # fmt: skip
def test_a_base_that_cannot_be_read_is_one_sentence_without_the_password(
    port: int, tmp_path: Path, given: dict[str, str], measured: list[str], sentence: str, images: Any
) -> None:
    with pytest.raises(InputError, match=sentence) as caught:
        mimic_cohort(url(port, **given), write_cxr(tmp_path, images[:5]), measured=measured)
    said = str(caught.value)
    assert "\n" not in said
    assert not any(secret in said for secret in ("wr0ng", "@word", READER_PASSWORD, ADMIN_PASSWORD))


def test_no_server_at_the_port(tmp_path: Path, images: Any) -> None:
    with pytest.raises(InputError, match=r"expected a database at postgres://127.0.0.1:1/mimic, found no server; ch"):
        mimic_cohort(url(1), write_cxr(tmp_path, images[:5]))


def test_without_the_driver_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: Any) -> None:
    for name in [each for each in sys.modules if each.startswith(("psycopg", "ibis.backends.postgres"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(InputError, match=r'expected psycopg for .*, found none; .* "chartray\[postgres\]"\)'):
        mimic_cohort(url(1), write_cxr(tmp_path, images[:5]))


def test_a_chart_in_a_schema_is_joined_and_its_rights_and_names_are_checked(port: int, tmp_path: Path) -> None:
    (tmp_path / "images.csv").write_text("image,mrn,taken\ni1,007,2020-03-02 09:30\ni2,8,2020-03-02 09:30\n")
    (tmp_path / "mapping.yaml").write_text(
        "image_id: image\npatient_id: mrn\npath: '{image}.png'\ntaken_at: taken\n"
        "charts: {on: mrn, time: drawn}\nehr:\n  crp: {column: crp, kind: numeric, range: [0, 600]}\n"
    )

    def made(chart: str) -> Any:
        return table_cohort(tmp_path / "images.csv", tmp_path / "mapping.yaml", tmp_path, [chart])

    assert made(f"{url(port)}#bare.charts").table["ehr.crp"].to_pylist() == [12.5, None]
    with pytest.raises(InputError, match=r"expected a table 'chart' in .*, in schema 'bare', found none"):
        made(f"{url(port)}#bare.chart")
    with pytest.raises(InputError, match=r"expected to read .*#bare.charts, found a user without the right to read it"):
        made(f"{url(port, 'stranger')}#bare.charts")


def test_an_omop_base_gives_the_cells_of_its_files(port: int, hospital: Path, images: Any, tmp_path: Path) -> None:
    import psycopg

    types = {"measurement_date": "date", "death_date": "date", "value_as_number": "numeric", "stored": "timestamp"}
    write_omop(hospital, tmp_path / "omop")
    with psycopg.connect(host="127.0.0.1", port=port, user="admin", password=ADMIN_PASSWORD, dbname="mimic") as base:
        base.execute("create schema cdm")
        for file in (tmp_path / "omop").iterdir():
            table, rows = file.name.partition(".")[0], rows_of(file)
            typed = {name: types.get(name, "text") for name in rows[0]}
            typed |= {name: "integer" for name in rows[0] if name.endswith(("person_id", "_concept_id"))}
            typed |= {name: "timestamp" for name in rows[0] if name.endswith("_datetime")}
            base.execute(f"create table cdm.{table} ({', '.join(f'{name} {kind}' for name, kind in typed.items())})")
            with base.cursor().copy(f"copy cdm.{table} from stdin") as copy:
                for row in rows:
                    bare = row.get("value_as_number", "").replace(".", "", 1).isdigit()
                    copy.write_row(
                        [cell if cell and (name != "value_as_number" or bare) else None for name, cell in row.items()]
                    )
        base.execute("grant usage on schema cdm to reader")
        base.execute("grant select on all tables in schema cdm to reader")
    ehr = {name: entry_of(name, "omop") for name in NAMES if CATALOGUE[name].group != "body"} | OMOP_MORE
    mapping = mapping_of(tmp_path, "omop", ehr, {"on": {"subject_id": "person_id"}, "stored": "stored"})
    table = table_of(tmp_path, images)
    from_files = table_cohort(table, mapping, tmp_path, [str(tmp_path / "omop")])
    cohort = table_cohort(table, mapping, tmp_path, [f"{url(port)}#cdm"])
    assert cohort.table.equals(from_files.table)
    with pytest.raises(InputError, match=r"expected a table 'person' in .*, in schema 'cmd', found none"):
        table_cohort(table, mapping, tmp_path, [f"{url(port)}#cmd"])
