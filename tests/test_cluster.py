"""Ingest on a real Dask cluster: a scheduler and workers on the loopback interface, each a process of its own."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from PIL import Image

from chartray.cli import run_command
from chartray.pixels.ingest import ingest
from tests.test_ingest import content, films, png, shards_of, wait_for, write_cohort  # noqa: F401  # a fixture

SIZE = 16


class Cluster:
    """A scheduler, and the workers that a test starts; all end with it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []
        self.file = folder / "scheduler.json"
        self._start("scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(self.file))
        wait_for(lambda: self.file.is_file() and self.file.stat().st_size > 0)
        self.address: str = json.loads(self.file.read_text())["address"]

    def worker(self, **environment: str) -> subprocess.Popen[bytes]:
        """One worker of one thread, which stands in a folder of its own."""
        name = f"w{len(self._processes)}"
        started = self._start(
            *("worker", self.address, "--no-nanny", "--no-dashboard", "--nthreads", "1", "--name", name),
            **environment,
        )
        log = self._folder / f"{len(self._processes) - 1}.log"
        wait_for(lambda: "Registered to" in log.read_text() or started.poll() is not None)
        assert started.poll() is None, log.read_text()
        return started

    def _start(self, *words: str, **environment: str) -> subprocess.Popen[bytes]:
        here = self._folder / f"{len(self._processes)}"
        here.mkdir()
        command = [sys.executable, "-c", f"from distributed.cli import dask_{words[0]} as d; d.main()", *words[1:]]
        if words[0] == "scheduler":
            command += ["--no-dashboard"]
        with here.with_suffix(".log").open("wb") as log:
            started = subprocess.Popen(command, cwd=here, stdout=log, stderr=log, env=os.environ | environment)
        self._processes.append(started)
        return started

    def end(self) -> None:
        for each in reversed(self._processes):
            each.kill()
            each.wait()


@contextmanager
def running(folder: Path) -> Iterator[Cluster]:
    folder.mkdir()
    cluster = Cluster(folder)
    try:
        yield cluster
    finally:
        cluster.end()


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running(tmp_path_factory.mktemp("cluster") / "two") as cluster:
        cluster.worker()
        cluster.worker()
        yield cluster


@pytest.fixture
def cohort(films: Path, tmp_path: Path) -> Path:  # noqa: F811
    return write_cohort(tmp_path / "cohort.parquet", [*sorted(films.iterdir()), films / "gone.png"], films)


def test_two_workers_give_the_bytes_of_the_local_pool(
    two: Cluster, cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ingest(cohort, tmp_path / "local", size=SIZE, workers=2)
    capsys.readouterr()
    for address in (two.address, str(two.file)):
        out = tmp_path / address.rpartition("/")[2]
        assert run_command(["ingest", str(cohort), "--out", str(out), "--size", "16", "--cluster", address]) == 0
        assert content(out) == content(tmp_path / "local")
        said = capsys.readouterr().err
        assert "with 2 workers" in said
        assert "39/39 images" in said
        assert len(said.splitlines()) == 3  # and that the cohort is not of our writing


def test_the_guards_of_an_image_hold_on_a_worker(two: Cluster, tmp_path: Path) -> None:
    """A slow image and one with too many pixels are lost; the worker and the others are not."""
    folder = tmp_path / "films"
    folder.mkdir()
    for row in range(6):
        Image.fromarray(np.random.default_rng(row).integers(0, 256, (40, 40), dtype=np.uint8)).save(
            folder / f"{row}.png"
        )
    (folder / "large.png").write_bytes(png(9_000, 9_000, 9_000))
    cohort = write_cohort(tmp_path / "cohort.parquet", sorted(folder.iterdir()), folder)
    for name, options, reason in (("slow", {"seconds": 0.2}, "took more than"), ("wide", {"pixels": 10**6}, "million")):
        from chartray.pixels.image_process import Limits

        made = ingest(cohort, tmp_path / name, size=SIZE, cluster=two.address, limits=Limits(**options))
        assert made.images == 6
        (found,) = made.quarantined
        assert reason in found, found


def test_a_killed_worker_changes_nothing(films: Path, tmp_path: Path) -> None:  # noqa: F811
    random = np.random.default_rng(3)
    pictures = []
    for number in range(5):
        pictures.append(tmp_path / f"{number}.png")
        Image.fromarray(random.integers(0, 256, (600, 500), dtype=np.uint8)).save(pictures[-1], compress_level=1)
    cohort = write_cohort(tmp_path / "cohort.parquet", [pictures[row % 5] for row in range(320)], tmp_path)
    ingest(cohort, tmp_path / "local", size=64, workers=2)
    out = tmp_path / "out"
    with running(tmp_path / "cluster") as cluster:
        victim = cluster.worker()
        cluster.worker()
        work = Thread(target=ingest, args=(cohort, out), kwargs={"size": 64, "cluster": cluster.address})
        work.start()
        wait_for(lambda: shards_of(out) > 3)
        os.kill(victim.pid, signal.SIGKILL)
        done = shards_of(out)
        work.join(60)
        assert not work.is_alive()
    assert done < 20
    assert content(out) == content(tmp_path / "local")
