"""Ingest on a real Dask cluster: a scheduler and workers on the loopback interface, each a process of its own."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import dask
import numpy as np
import pytest
from distributed import Client
from PIL import Image

from chartray.cli import run_command
from chartray.errors import InputError, LostProcess
from chartray.pixels import cluster as room
from chartray.pixels.image_process import Limits
from chartray.pixels.ingest import ingest
from chartray.pixels.plan import make_plan
from tests.ingest_folders import content, many_images, png, shards_of, wait_for, write_cohort

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
        other = [line for line in said.splitlines() if not line.startswith("ingest: ")]
        assert len(other) == 2, said  # many in quarantine; the cohort is not of our writing


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
        made = ingest(cohort, tmp_path / name, size=SIZE, cluster=two.address, limits=Limits(**options))
        assert made.images == 6
        (found,) = made.quarantined
        assert reason in found, found


def test_a_killed_worker_changes_nothing(tmp_path: Path) -> None:
    cohort, out = many_images(tmp_path), tmp_path / "out"
    ingest(cohort, tmp_path / "local", size=64, workers=2)
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


# ---- refused


def refused(cluster: str, cohort: Path, out: Path, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence) as caught:
        ingest(cohort, out, size=SIZE, cluster=cluster)
    assert "\n" not in str(caught.value)
    assert not out.exists()


def test_a_cluster_that_is_not_there_is_a_sentence(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(room, "_ANSWERS_WITHIN", 1.0)
    out = tmp_path / "out"
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        nobody = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        refused(nobody, cohort, out, f"expected a Dask scheduler at {nobody}, found none that answers within 1 s")
        silent.listen()  # accepts, and says nothing
        refused(nobody, cohort, out, f"expected a Dask scheduler at {nobody}, found none that answers within 1 s")
    for files in ({}, {"distributed.comm.tls.ca-file": "gone.pem", "distributed.comm.tls.client.cert": "gone.pem"}):
        with dask.config.set(files):
            refused("tls://127.0.0.1:1", cohort, out, "expected certificates for tls://127.0.0.1:1 in Dask's config")
    for other in ("nonsense://a:1", "ucx://a:1"):
        refused(other, cohort, out, f"expected a Dask scheduler at tcp://HOST:PORT or tls://HOST:PORT, found {other}")
    refused("gone.json", cohort, out, "expected --cluster tcp://HOST:PORT or a scheduler file, found gone.json")
    (tmp_path / "s.json").write_text('{"address": 3}')
    refused(str(tmp_path / "s.json"), cohort, out, "expected a Dask scheduler file with an address in")
    with running(tmp_path / "cluster") as cluster:
        refused(cluster.address, cohort, out, "expected workers at the Dask scheduler .* found none within 1 s")
    with pytest.raises(InputError, match="expected --workers for this machine or --cluster, found both"):
        ingest(cohort, out, cluster=nobody, workers=2)
    monkeypatch.setitem(sys.modules, "distributed", None)
    refused(nobody, cohort, out, r'extra: dask \(pip install "chartray\[dask\]"\)')
    assert all("was not written by Chartray" in line for line in capfd.readouterr().err.splitlines())


def test_a_worker_that_is_not_as_this_machine_is_refused(
    cohort: Path,
    films: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    earlier, edited, out = tmp_path / "earlier", tmp_path / "edited", tmp_path / "out"
    (earlier / "chartray-0.0.9.dist-info").mkdir(parents=True)
    (earlier / "chartray-0.0.9.dist-info" / "METADATA").write_text("Name: chartray\nVersion: 0.0.9\n")
    shutil.copytree(Path(room.__file__).parents[1], edited / "chartray")
    with (edited / "chartray" / "pixels" / "grey.py").open("a") as file:
        file.write("# edited\n")
    with running(tmp_path / "cluster") as cluster:
        for folder, sentence in (
            (earlier, r"expected Chartray \S+ on every worker, as here, found 0.0.9; .* \(worker tcp://\S+\)$"),
            (edited, r"expected the same code of Chartray on every worker, .* \(worker tcp://\S+\)$"),
        ):
            worker = cluster.worker(PYTHONPATH=str(folder))
            refused(cluster.address, cohort, out, sentence)
            worker.kill()
            worker.wait()
        cluster.worker()
        # A link of the system's that leads each process elsewhere stands for a disk that is not shared.
        monkeypatch.chdir(tmp_path)
        mine = Path("/proc/self/cwd")
        refused(cluster.address, cohort, mine / "out", "expected the folder /proc/self/cwd/out on every worker")
        shutil.copytree(films, tmp_path / "films")
        paths = [mine / "films" / file.name for file in sorted(films.iterdir())]
        elsewhere = write_cohort(tmp_path / "elsewhere.parquet", paths, mine / "films")
        refused(cluster.address, elsewhere, out, "expected the image in row 1 of the cohort on every worker, as here")
        # One that joins later is asked with its first shard.
        task = make_plan(cohort, SIZE, None).task(0, out)
        here = room.Here(room._versions(), "other code", ())
        with Client(cluster.address, set_as_default=False) as client, pytest.raises(InputError, match="same code"):
            client.submit(room._build, here, task).result()


def test_a_scheduler_that_ends_is_a_sentence_and_a_later_run_continues(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cohort, out = many_images(tmp_path), tmp_path / "out"
    with running(tmp_path / "cluster") as cluster:
        cluster.worker()
        said: list[str] = []

        def work() -> None:
            try:
                ingest(cohort, out, size=64, cluster=cluster.address)
            except LostProcess as lost:
                said.append(str(lost))

        thread = Thread(target=work)
        thread.start()
        wait_for(lambda: shards_of(out) > 0)
        cluster.end()
        thread.join(60)
    assert said == [
        f"the Dask scheduler at {cluster.address} has ended; start it again, then run the same command again: it "
        "continues after the finished shards"
    ]
    said_beside = capfd.readouterr().err
    assert "distributed" not in said_beside
    assert "Traceback" not in said_beside
    assert shards_of(out) < 20
    ingest(cohort, out, size=64, workers=2)
    ingest(cohort, tmp_path / "local", size=64, workers=2)
    assert content(out) == content(tmp_path / "local")
