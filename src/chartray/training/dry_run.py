"""What a run would need, before it begins: five real steps on its networks in memory, and nothing is written."""

import shutil
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path
from statistics import median
from typing import NamedTuple

from chartray.collective import all_or_none, all_sum, first_decides, no_process_lost
from chartray.config.pretrain import Config
from chartray.console import tell
from chartray.outputs.replacing import reserved
from chartray.pixels.store import Store
from chartray.training import checkpoint, run_folder, step
from chartray.training.build import Built, build
from chartray.training.division import Division, StepMemory, counted, divide, free_bytes
from chartray.training.manifest import MANIFEST_FILE, read_manifest
from chartray.training.online_probe import OnlineProbe
from chartray.training.prefetch import Batch, batches_of
from chartray.training.processes import is_first_process
from chartray.training.runtime import Runtime, launch, placed
from chartray.training.schedules import make_schedule, rates
from chartray.training.step import Losses
from chartray.training.training_data import load_training_data
from chartray.wording import listed, plural

_NOT_TIMED, _TIMED = 2, 5  # the first steps fill caches, and compile


class Timed(NamedTuple):
    """Seconds of a step and of the online probe; bytes of a step beside the weights, of a checkpoint and the encoder.

    `memory` as measured, else as planned.
    """

    step: float
    probe: float
    memory: int
    checkpoint: int
    encoder: int


class Needs(NamedTuple):
    """What a run needs: its training images and steps, hours, and bytes that it leaves on the disk."""

    images: int
    steps: int
    hours: float
    checkpoints: int
    kept: int

    @classmethod
    def of(cls, config: Config, images: int, steps: int, timed: Timed) -> "Needs":
        """Those of a run of this many images and steps."""
        probes, saved = _how_often(steps, config)
        hours = (steps * timed.step + (probes + 1) * timed.probe) / 3600
        checkpoints = min(saved, config.train.checkpoint_keep)
        return cls(images, steps, hours, checkpoints, checkpoints * timed.checkpoint + timed.encoder)


class DryRun(NamedTuple):
    """What one run needs, bytes on the `disk` at most, what was measured, and all that is printed, in ten `lines`."""

    needs: Needs
    disk: int
    timed: Timed
    lines: list[str]

    @property
    def hours(self) -> float:
        """Of all its steps and probes."""
        return self.needs.hours


def dry_run(store_folder: Path, config: Config, *, out: Path | None = None, resume: bool = False) -> DryRun:
    """What `pretrain` would need with the same settings; neither `out` nor anything else is written.

    Raises InputError and UnhealthyRun as `pretrain` does.
    """
    runtime = launch(config.train if out is None else run_folder.as_begun(out, config.train, resume=resume))
    store = all_or_none(lambda: Store.open(store_folder), runtime.device)
    before = None
    if out is not None:
        first_decides(lambda: _refuse(out, config, store, resume=resume), runtime.device)
        before = read_manifest(out) if (out / MANIFEST_FILE).is_file() else None
    built = build(store, config, runtime, before)
    place = placed(runtime)
    division = divide(built.networks, built.data, config, runtime, before=before, device=place["device"])
    free = free_bytes(runtime.device)
    counts = all_or_none(lambda: counted(built.networks, built.data, config, runtime), runtime.device)
    timed = _timed(built, division, config, runtime, planned=counts.needed(division.images, division.parts))
    steps, probes, saved = built.schedule.steps, *_how_often(built.schedule.steps, config)
    needs = Needs.of(config, len(built.data.rows), steps, timed)
    # A checkpoint is written before the oldest is deleted.
    at_once = min(saved, config.train.checkpoint_keep + 1)
    disk = at_once * timed.checkpoint + timed.encoder
    lines = [
        f"images        {_images(built)}",
        f"chart columns {_chart(built)}",
        f"steps         {steps:,} of {plural(config.train.batch_size, 'image')}, "
        f"{built.schedule.warmup_steps:,} of them warm-up",
        f"epochs        {steps / built.schedule.steps_per_epoch:.1f}",
        f"device        {place['device']}, {place['precision']}, processes {runtime.world_size}"
        f"{', compiled' if built.chosen.compiled else ''}",
        f"memory        {_memory(counts, division, free)}",
        f"a step        {timed.step:.3g} s, {config.train.batch_size / timed.step:,.0f} images/s (median of {_TIMED} "
        f"real steps after {_NOT_TIMED} others)",
        f"hours         {in_hours(needs.hours)}: {steps:,} steps, and {probes + 1:,} online probes of "
        f"{timed.probe:.3g} s; start-up and writing {plural(saved, 'checkpoint')} are not counted",
        f"disk          {in_bytes(disk)} at most: {plural(at_once, 'checkpoint')} of {in_bytes(timed.checkpoint)} "
        f"(kept and the one being written) and the encoder, {in_bytes(timed.encoder)}",
        f"free disk     {free_disk(out or Path(), disk)}",
    ]
    return DryRun(needs, disk, timed, lines)


def print_dry_run(store_folder: Path, config: Config, *, out: Path | None = None, resume: bool = False) -> None:
    """Prints the ten lines of `dry_run` to standard output; what a run says at its start goes to standard error."""
    with redirect_stdout(sys.stderr), no_process_lost():
        found = dry_run(store_folder, config, out=out, resume=resume)
    if is_first_process():
        tell(*found.lines)


def needs_like(timed: Timed, store_folder: Path, config: Config) -> Needs:
    """What a run needs whose steps are those of another that was `timed`; only its images are looked up."""
    data = load_training_data(Store.open(store_folder), config)
    return Needs.of(config, len(data.rows), make_schedule(config.train, len(data.rows)).steps, timed)


def _refuse(out: Path, config: Config, store: Store, *, resume: bool) -> None:
    run_folder.check_out(out, config, store.hash, resume=resume)
    with reserved(out):
        pass  # another command that writes there is found; a real run holds the lock


def _timed(built: Built, division: Division, config: Config, runtime: Runtime, *, planned: int) -> Timed:
    """Real steps as `Loop.run` takes them, with the images of the run's first ones."""
    data, schedule, networks, optimizer, _ = built
    probe = OnlineProbe(data, config, runtime.device, runtime.autocast)
    networks.train()
    seconds: list[float] = []
    # One batch more is read: in a run too, each step prepares the next one's images.
    with batches_of(data, config, networks, runtime, range(_NOT_TIMED + _TIMED + 1)) as batches:

        def learn(batch: Batch) -> Losses:
            losses, _ = division.tried(
                lambda parts: step.gradient(networks, batch, config, runtime.autocast, parts, batches), networks
            )
            step.update(networks, optimizer, losses, rates(batch.step, schedule, config.train), config)
            return losses

        while len(seconds) < _NOT_TIMED + _TIMED:
            began = time.perf_counter()
            all_sum(learn(next(batches)).total.detach()).item()  # waits for the device, as a run's numbers do
            seconds.append(time.perf_counter() - began)
    began = time.perf_counter()
    probe.measure(networks)
    probing = time.perf_counter() - began
    encoder = sum(value.nbytes for value in networks.target_encoder.state_dict().values())
    memory, saved = division.measured or planned, checkpoint.size(networks, optimizer)
    return Timed(median(seconds[_NOT_TIMED:]), probing, memory, saved, encoder)


def _how_often(steps: int, config: Config) -> tuple[int, int]:
    """How often the online probe measures and a checkpoint is written: every so many steps, and after the last."""
    return -(-steps // config.health.every), -(-steps // config.train.checkpoint_every)


def _images(built: Built) -> str:
    data = built.data
    dropped = f"; {data.unrepresentable:,} dropped that the chart cannot represent" if data.unrepresentable else ""
    return f"{len(data.rows):,} of {plural(len(data.patient_keys()), 'patient')} in the train split{dropped}"


def _chart(built: Built) -> str:
    chart = built.data.chart
    return "0: no chart" if chart is None else f"{chart.ehr_in}: {listed(chart.columns)}"


def _memory(needs: StepMemory, division: Division, free: int | None) -> str:
    parts = f"{plural(division.images, 'image')} in {plural(division.parts, 'part')}"
    there = "the system does not say what is free" if free is None else f"{in_bytes(free)} free"
    measured = f", {in_bytes(division.measured)} measured" if division.measured else ""
    return (
        f"{in_bytes(needs.needed(division.images, division.parts))} a step ({parts}){measured}, beside the networks' "
        f"{in_bytes(needs.weights)}; {there}"
    )


def free_disk(out: Path, needed: int) -> str:
    """What is free where `out` is to be, and whether that is enough."""
    existing = next(folder for folder in (out.resolve(), *out.resolve().parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    return f"{in_bytes(free)} in {existing}{'' if free > needed else ': NOT ENOUGH'}"


def in_hours(hours: float) -> str:
    """Hours, and seconds where they are few."""
    return f"{hours:,.1f}" if hours >= 1 else f"{hours:.3f} ({hours * 3600:.3g} s)"


def in_bytes(count: int) -> str:
    """Bytes, as people read them."""
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.1f} MiB"
