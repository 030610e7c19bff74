"""What starting a command costs: pandas, which pyarrow would import for its first scalar, stays out."""

import subprocess
import sys
from pathlib import Path

from chartray.simulate.hospital import simulate

_IMPORTED = "; import sys; print(*sorted({name.split('.')[0] for name in sys.modules}))"


def _modules(code: str) -> set[str]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_a_cohort_imports_no_more_than_it_needs(tmp_path: Path) -> None:
    """Ibis, DuckDB and Arrow all know pandas; csv files of the public sources need none of them but Arrow."""
    simulate(tmp_path, patients=8, size=64, workers=1)
    tables = ["--mimic-iv", str(tmp_path / "mimic-iv"), "--mimic-cxr", str(tmp_path / "mimic-cxr-jpg")]
    imported = {}
    folders = {name: [str(tmp_path / name)] for name in ("nih", "chexpert")}
    for source, where in ({"mimic": tables} | folders).items():
        command = [sys.executable, "-X", "importtime", "-m", "chartray", "cohort", source, *where]
        done = subprocess.run(
            [*command, "--out", str(tmp_path / "c.parquet")], capture_output=True, text=True, check=True
        )
        imported[source] = done.stderr
    for names in imported.values():
        assert "pyarrow.lib" in names
        assert not [name for name in ("ibis", "duckdb", "pandas.core") if name in names]


def test_pyarrow_imports_it_otherwise() -> None:
    """What is spared: should pyarrow one day not ask, the module goes."""
    assert "pandas" in _modules("import pyarrow; pyarrow.scalar(0)" + _IMPORTED)
    settled = "from chartray.without_pandas import settle_pyarrow; settle_pyarrow(); import pyarrow"
    assert {"pandas", "pyarrow"} & _modules(f"{settled}; pyarrow.array([0])" + _IMPORTED) == {"pyarrow"}


def test_pandas_is_there_for_who_asks() -> None:
    """The optional readers of a hospital's database may go by way of it."""
    code = (
        "from chartray.without_pandas import settle_pyarrow; settle_pyarrow(); import pyarrow as pa; "
        "table = pa.table({'a': [1, None]}); frame = table.to_pandas(); "
        "assert frame['a'].isna().tolist() == [False, True]; "
        "assert pa.Table.from_pandas(frame)['a'].null_count == 1; assert pa.array(frame['a']).null_count == 1"
    )
    assert "pandas" in _modules(code + _IMPORTED)


def test_help_imports_no_pyarrow_either() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "chartray", "--help"]
    imported = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    assert "cyclopts" in imported
    assert "pyarrow" not in imported
