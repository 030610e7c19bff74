"""The bench itself: rows and their ratios, what is written, ways in processes of their own, and the counted work."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.speed import bench, measuring
from benchmarks.speed.measuring import Measured, Once, Row
from chartray.cli import run_command
from chartray.commands import product
from chartray.errors import InputError


def measured(*values: float) -> Measured:
    return measuring.summary(values)


def row(**changed: object) -> Row:
    whole = Row("x", "s", "lower", measured(2.0, 1.0, 4.0), measured(8.0), target=3.0, details={"films": 4})
    return whole._replace(**changed)


def counting(way: str, file: Path) -> Once:
    """A way that notes in a file that its turn came, in which process, and says how often it did."""
    turns: list[int] = []

    def once() -> float:
        turns.append(os.getpid())
        with file.open("a") as log:
            log.write(f"{way} {os.getpid()}\n")
        return float(len(turns))

    once.notes = {"turns": float("nan")}
    return once


def holding(mib: int, starts_a_child: bool) -> measuring.Once:
    held = bytearray(os.urandom(1) * (mib * 2**20))

    def once() -> float:
        if starts_a_child:
            subprocess.run([sys.executable, "-c", "pass"], check=True)
        return float(len(held))

    return once


def failing() -> Once:
    raise ValueError("no such film")


def test_a_ratio_says_how_many_times_better_whichever_way_is_up() -> None:
    assert row().ratio == 4.0
    assert row(better="higher").ratio == 0.25
    assert row(reference=None).ratio is None


def test_a_target_is_of_the_ratio_or_of_the_value() -> None:
    assert row().met is True
    assert row(target=4.5).met is False
    assert row(target=None).met is None
    assert row(target=2.0, target_of="value").met is True
    assert row(target=1.9, target_of="value").met is False
    assert row(target=1.9, target_of="value", better="higher").met is True
    assert row(reference=None).met is False


def test_ways_run_in_turns_in_processes_of_their_own_and_the_first_round_is_not_counted(tmp_path: Path) -> None:
    log = tmp_path / "log"
    ways = [functools.partial(counting, way, log) for way in "ab"]
    ours, reference = measuring.side_by_side(ways, 3)
    assert (ours.median, ours.low, ours.high, ours.repeats) == (3.0, 2.0, 4.0, 3)
    assert reference.repeats == 3
    turns = [line.split() for line in log.read_text().splitlines()]
    assert [way for way, _ in turns] == list("abababab")
    assert len({process for _, process in turns} | {str(os.getpid())}) == 3
    assert ours.peak_gib is not None
    assert 0.005 < ours.peak_gib < 24
    assert set(ours.notes) == {"turns"}


def test_a_child_does_not_count_at_the_size_of_its_parent() -> None:
    (small,) = measuring.side_by_side([functools.partial(holding, 256, starts_a_child=False)], 1)
    (starts_a_child,) = measuring.side_by_side([functools.partial(holding, 256, starts_a_child=True)], 1)
    assert small.peak_gib is not None
    assert starts_a_child.peak_gib == pytest.approx(small.peak_gib, abs=0.05)


def test_a_way_that_fails_says_why() -> None:
    with pytest.raises(RuntimeError, match="no such film"):
        measuring.side_by_side([failing], 1)


def test_rows_are_written_as_a_list_of_objects(tmp_path: Path) -> None:
    bench.write_json(tmp_path / "deep" / "rows.json", [row(), row(reference=None, target=None)], {"cores": 2})
    first, second = json.loads((tmp_path / "deep" / "rows.json").read_text())
    assert {key: first[key] for key in ("name", "unit", "ours", "reference", "ratio", "target")} == {
        "name": "x",
        "unit": "s",
        "ours": 2.0,
        "reference": 8.0,
        "ratio": 4.0,
        "target": 3.0,
    }
    assert (second["reference"], second["ratio"], second["target"]) == (None, None, None)
    assert first["details"] == {"films": 4}
    assert first["ours_measured"]["low"] == 1.0


def test_a_line_says_medians_spreads_and_what_was_counted() -> None:
    assert bench.line(row()) == "x: 2.00 [1.00, 4.00] s, reference 8.00 [8.00, 8.00], ratio 4, films 4.00"


def test_every_name_that_outside_checks_ask_for_is_measured() -> None:
    names = "step.vit_tiny step.vit_small pretrain.vit_tiny pretrain.vit_small views.256 views.448 ingest.jpeg "
    names += "ingest.dicom cohort probe bootstrap help first_step scaling.vit_tiny "
    names += "memory.vit_tiny memory.vit_small"
    assert set(bench.NAMES) == set(names.split())


def test_an_unknown_name_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["bench", "steps.vit_tiny"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(InputError, match="nothing"):
        bench.run_bench(["nothing"])


def test_what_a_machine_has_not_got_is_left_out_of_all_and_refused_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "NAMES", ("scaling.vit_tiny",))  # all the others take an hour
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        _left_out_and_refused(capsys)
    finally:
        os.sched_setaffinity(0, cores)


def _left_out_and_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.run_bench(quick=True, device="cpu") == []
    assert (
        "scaling.vit_tiny: left out; expected several cores for scaling.vit_tiny, found one" in capsys.readouterr().out
    )
    with pytest.raises(InputError, match="found one"):
        bench.run_bench(["scaling.vit_tiny"], quick=True, device="cpu")


@pytest.mark.slow
@pytest.mark.parametrize("name", bench.NAMES)
def test_every_measurement_runs_in_small(name: str, tmp_path: Path) -> None:
    (found,) = bench.run_bench([name], repeats=1, quick=True, out=tmp_path / "rows.json")
    assert found.name == name
    assert found.ours.median > 0
    assert json.loads((tmp_path / "rows.json").read_text())[0]["name"] == name


@pytest.mark.slow
def test_ours_does_the_reference_networks_work_less_what_is_never_read(tmp_path: Path) -> None:
    """Counted operations: between 5 and 10 % fewer than lightly's at 12 blocks, the last block's share."""
    (found,) = bench.run_bench(["step.vit_tiny"], repeats=1, quick=True)
    share = float(found.details["gflop_per_film"]) / float(found.details["gflop_per_film_reference"])
    assert 0.90 < share < 0.97


def test_without_a_checkout_the_command_says_where_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr(product, "__file__", str(tmp_path / "site-packages" / "chartray" / "commands" / "product.py"))
    assert run_command(["bench", "--quick"]) == 2
    assert "runs from a clone" in capsys.readouterr().err
