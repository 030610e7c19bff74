"""No csv file that we write holds a cell that a spreadsheet takes for a formula, and numbers stay numbers."""

import ast
import csv
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import chartray
from chartray.csv_cells import harmless, harmless_columns
from chartray.features import write_feature_csvs
from chartray.schema import from_metadata
from chartray.simulate.tables import write_csv
from tests.test_features import mimic_like

STARTS = "=+-@\t\r\n＝＋－＠"
EVIL = ("=cmd|'/C calc'!A0", "+1+cmd", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "a\r=1", "a;=1", 'x","=1', "＝1")


def plainly_risky(cell: str) -> bool:
    """OWASP's rule in a loop of its own: a formula's first character, unless all of it is a number."""
    if cell[:1] not in tuple(STARTS):
        return False
    if cell[0] not in "+-" or any(letter not in "0123456789.eE+-" for letter in cell):
        return True
    try:
        float(cell)
    except ValueError:
        return True
    return False


@settings(deadline=None)
@given(
    st.one_of(
        st.text(),
        st.text("=+-@\t\r\n0123456789.eE '", max_size=8),
        st.floats(allow_nan=False, allow_infinity=False).map(str),
    )
)
def test_a_cell_is_marked_where_it_is_a_formula_and_nowhere_else(cell: str) -> None:
    found = harmless(cell)
    assert found == (f"'{cell}" if plainly_risky(cell) else cell)
    assert not plainly_risky(found)
    for kind in (pa.string(), pa.large_string()):
        table = pa.table({"text": pa.array([cell, None, "a"], kind), "number": [-1.0, 2.0, 3.0]})
        assert harmless_columns(table).to_pylist() == [
            {"text": found, "number": -1.0}, {"text": None, "number": 2.0}, {"text": "a", "number": 3.0}
        ]  # fmt: skip


def test_paths_of_the_published_files_are_no_formulas(tmp_path: Path) -> None:
    """Failed before: an image called =cmd was a formula in 23 files."""
    table = mimic_like("published").slice(0, len(EVIL) + 1)
    root = from_metadata(table.schema.metadata).image_root.rstrip("/")
    paths = [f"{root}/{name}" for name in (*EVIL, "p10/ordinary.jpg")]
    table = table.set_column(table.column_names.index("path"), "path", pa.array(paths))
    files = write_feature_csvs(table, tmp_path / "sets")
    assert len(files.written) == 23
    for file in (tmp_path / "sets").rglob("*.csv"):
        with file.open(newline="") as stream:
            rows = list(csv.reader(stream))
        # Semicolons, quotes and line breaks do not part a cell either.
        assert {len(row) for row in rows} == {len(rows[0])}
        assert not [cell for row in rows for cell in row if plainly_risky(cell)]
        assert {row[0].removeprefix("'") for row in rows[1:]} <= {*EVIL, "p10/ordinary.jpg"}
    assert "'=cmd|'/C calc'!A0" in (tmp_path / "sets" / "single-variable" / "meta-age-norm-only.csv").read_text()


def test_simulated_tables_hold_no_formula(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", ("a", "b"), [("=1", -1.0), ("x", "-1.0")])
    assert (tmp_path / "a.csv").read_text() == "a,b\n'=1,-1.0\nx,-1.0\n"


@pytest.mark.parametrize("file", sorted(Path(chartray.__file__).parent.rglob("*.py")), ids=lambda file: file.name)
def test_every_writer_of_csv_uses_the_one_rule(file: Path) -> None:
    """Whoever adds a writer of csv sends its text through `csv_cells`."""
    tree = ast.parse(file.read_text())
    writes = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and (
            node.func.attr in ("write_csv", "to_csv", "DictWriter", "CSVWriter")
            or ast.unparse(node.func) == "csv.writer"
        )
    ]
    assert not writes or "chartray.csv_cells import" in file.read_text()
