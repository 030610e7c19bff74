"""Pretraining: from an opened store to a run folder with its encoder (docs/method.md)."""

from contextlib import ExitStack
from pathlib import Path

from torch.optim import AdamW

from chartray.collective import all_or_none, first_decides, no_process_lost
from chartray.config.pretrain import Config
from chartray.console import status
from chartray.errors import InputError, LostProcess, UnhealthyRun
from chartray.outputs.replacing import reserved
from chartray.pixels.store import Store
from chartray.training import checkpoint, run_folder
from chartray.training.build import build, build_monitor
from chartray.training.division import divide
from chartray.training.loop import Loop
from chartray.training.manifest import COMPLETE, moved, read_manifest, write_manifest
from chartray.training.metrics import MetricsWritten
from chartray.training.monitor import Monitor
from chartray.training.online_probe import OnlineProbe
from chartray.training.run_folder import CHECKPOINTS, Begun
from chartray.training.runtime import Runtime, launch, placed
from chartray.training.step import Networks
from chartray.training.trackers import NOT_TRACKED, Tracked

_STOPPED = "stopped: "  # the status of an unhealthy run, before its evidence


def pretrain(
    store_folder: Path,
    out: Path,
    config: Config,
    *,
    command: str = "",
    resume: bool = False,
    tracked: Tracked = NOT_TRACKED,
) -> None:
    """Pretrains on the train split of a store and writes RUN `out`, ending with its `encoder/`.

    Raises InputError for unusable input, and where another command writes to `out`; UnhealthyRun for a collapsed or
    non-finite run, Stopped on a signal that asks to, OutputError where the machine cannot write, LostProcess
    where another process of the run has ended.
    """
    runtime = launch(run_folder.as_begun(out, config.train, resume=resume))
    with no_process_lost(), ExitStack() as held:
        # Before anything is read or decided, and until all is written.
        first_decides(lambda: held.enter_context(reserved(out)), runtime.device)
        loop = assemble(store_folder, out, config, command=command, resume=resume, runtime=runtime)
        if loop is None:
            if runtime.is_first:
                status(f"{out} is complete: nothing left to do")
            return
        loop.tracked = tracked
        try:
            with no_process_lost():
                loop.run()
        except LostProcess as lost:
            if runtime.is_first:
                write_manifest(out, loop.manifest.model_copy(update={"status": f"interrupted: {lost}"}))
            raise
        except UnhealthyRun as unhealthy:
            loop.finish(f"{_STOPPED}{unhealthy}")
            raise
        loop.finish(COMPLETE)


def assemble(
    store_folder: Path,
    out: Path,
    config: Config,
    *,
    command: str = "",
    resume: bool = False,
    runtime: Runtime | None = None,
) -> Loop | None:
    """Everything up to the first step of a run: training data, networks, run folder; None if the run is complete.

    Raises InputError for unusable input.
    """
    runtime = runtime or launch(config.train)
    store = all_or_none(lambda: Store.open(store_folder), runtime.device)
    claimed = first_decides(lambda: run_folder.claim(out, config, store.hash, resume=resume), runtime.device)
    begun = None if claimed is None else Begun(*claimed)
    if begun is not None and begun.complete:
        return None
    before = None if begun is None else read_manifest(out)
    data, schedule, networks, optimizer, chosen = build(store, config, runtime, before)
    place = placed(runtime)
    division = divide(networks, data, config, runtime, before=before, device=place["device"])
    probe = OnlineProbe(data, config, runtime.device, runtime.autocast)

    first_step, written = 0, MetricsWritten()
    if begun is not None and begun.checkpoint is not None:
        monitor = build_monitor(config, schedule, rank=0.0, spread=0.0)
        folder, run = out / CHECKPOINTS / begun.checkpoint, run_folder.identity(config, store.hash)
        first_step, written = all_or_none(
            lambda: resume_from(folder, networks, optimizer, monitor, run), runtime.device
        )
        refuse_unhealthy(begun.status, first_step, schedule.steps, config)
    else:
        rank, spread = probe.rank_and_spread(networks)
        monitor = build_monitor(config, schedule, rank=rank, spread=spread)
    made = {"command": command, "out": str(out)} | chosen.described() | place
    made |= {"accumulate": division.parts, "memory_planned": division.planned}
    manifest = data.manifest(config, schedule).model_copy(update=made)
    keys = data.patient_keys()
    digest = first_decides(
        lambda: run_folder.begin(out, config, manifest, keys, again=begun is not None), runtime.device
    )
    manifest = manifest.model_copy(update={"config_sha256": digest})
    if begun is not None and runtime.is_first:
        where = f"continues after step {first_step}" if first_step else "has no checkpoint yet: it continues at step 0"
        status(f"{out} {where} of {schedule.steps}{moved(before, place)}")
    return Loop(
        runtime,
        out,
        config,
        schedule,
        data,
        networks,
        optimizer,
        probe,
        monitor,
        division,
        manifest,
        first_step,
        written,
    )


def resume_from(
    folder: Path, networks: Networks, optimizer: AdamW, monitor: Monitor, run: str
) -> tuple[int, MetricsWritten]:
    """Loads a checkpoint of the run with the identity `run`; returns its step, and how much was written until then."""
    state = checkpoint.restore(folder, networks, optimizer)
    if state.get("run") != run:
        raise InputError(
            f"expected a checkpoint of this run in {folder}, found one of other settings or of another store; remove "
            "it, or start again in another folder"
        )
    try:
        monitor.restore(state["watch"])
        return state["step"], MetricsWritten(int(state["metrics"]["bytes"]), str(state["metrics"]["sha256"]))
    except (LookupError, TypeError, ValueError):
        raise InputError(
            f"expected the monitor and the length of metrics.jsonl in the state of {folder}, found other content; "
            "remove this checkpoint to go back to the one before it"
        ) from None


def refuse_unhealthy(status: str, first_step: int, steps: int, config: Config) -> None:
    """Raises UnhealthyRun for a run that was stopped at its last step: resumed, it would be complete unchecked."""
    if status.startswith(_STOPPED) and first_step == steps and config.health.stop:
        raise UnhealthyRun(status.removeprefix(_STOPPED))
