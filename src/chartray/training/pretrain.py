"""Pretraining: the loop, which reads as the algorithm (METHOD.md section 1)."""

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.optim import AdamW

from chartray.config.pretrain import Config
from chartray.errors import InputError, OutputError, Stopped, UnhealthyRun
from chartray.networks import encoder as vit
from chartray.networks.autoencoder import MaskedAutoencoder
from chartray.outputs.replacing import replaced_folder, reserved
from chartray.pixels.store import Store
from chartray.pixels.views import cut_views
from chartray.progress import progress
from chartray.training import checkpoint, compilation, run_folder
from chartray.training.build import build_networks, build_optimizer, new_watch
from chartray.training.health import Watch, vitals
from chartray.training.loader import Batch, FilmLoader
from chartray.training.metrics import Metrics, MetricsWritten
from chartray.training.online_probe import OnlineProbe
from chartray.training.prefetch import Ahead, Prepared
from chartray.training.run_folder import CHECKPOINTS, COMPLETE, ENCODER, RUNNING, Begun
from chartray.training.runtime import all_sum, average_gradients, launch
from chartray.training.schedules import Plan, ema_momentum, learning_rate, plan, weight_decay
from chartray.training.step import Losses, Networks, forward
from chartray.training.together import all_or_none, any_of_all, first_decides
from chartray.training.training_data import Material, prepare


def pretrain(store_folder: Path, out: Path, config: Config, *, command: str = "", resume: bool = False) -> None:
    """Pretrains on the train split of a store and writes RUN `out`, ending with its `encoder/`.

    Raises InputError for what cannot be used, another command that writes to `out` among it; UnhealthyRun for a
    collapsed or non-finite run, Stopped on SIGTERM, OutputError where the machine cannot write.
    """
    fabric = launch(config.train)
    with ExitStack() as held:
        # Before anything is read or decided, and until all is written.
        first_decides(lambda: held.enter_context(reserved(out)), fabric.device)
        loop = assemble(store_folder, out, config, command=command, resume=resume, fabric=fabric)
        if loop is None:
            if fabric.is_global_zero:
                print(f"{out} is complete: nothing left to do")
            return
        try:
            loop.run(loop.first_step)
        except UnhealthyRun as unhealthy:
            loop.finish(f"stopped: {unhealthy}")
            raise
        loop.finish(COMPLETE)


def assemble(
    store_folder: Path,
    out: Path,
    config: Config,
    *,
    command: str = "",
    resume: bool = False,
    fabric: Fabric | None = None,
) -> "Loop | None":
    """Everything up to the first step of a run: what it trains on, networks, its folder; None if it is complete.

    Raises InputError for what cannot be used.
    """
    fabric = fabric or launch(config.train)
    store = all_or_none(lambda: Store.open(store_folder), fabric.device)
    claimed = first_decides(lambda: run_folder.claim(out, config, store.hash, resume=resume), fabric.device)
    begun = None if claimed is None else Begun(*claimed)
    if begun is not None and begun.complete:
        return None
    material = all_or_none(lambda: prepare(store, config), fabric.device)
    schedule = plan(config.train, len(material.rows))
    networks = vit.on_device(build_networks(material, config), fabric.device)
    networks.span_processes(all_sum)
    compiled = compilation.wanted(config.train, schedule.steps, fabric.device)
    if compiled:
        if fabric.is_global_zero:
            print("compiling the encoders' blocks: the first step takes up to a minute longer", flush=True)
        compilation.compile_blocks(networks)
    optimizer = build_optimizer(networks, config.train)
    probe = OnlineProbe(store, config, material, fabric.device, fabric.autocast)

    run, first_step, written = run_folder.identity(config, store.hash), 0, MetricsWritten()
    if begun is not None and begun.checkpoint is not None:
        watch = new_watch(config, schedule, (0.0, 0.0))
        place = out / CHECKPOINTS / begun.checkpoint
        resumed = all_or_none(lambda: resume_from(place, networks, optimizer, watch, run), fabric.device)
        first_step, written = resumed
        refuse_unhealthy(begun.status, first_step, schedule.steps, config)
    else:
        watch = new_watch(config, schedule, probe.shape(networks))
    made = {"command": command, "status": RUNNING} | run_folder.versions() | material.provenance(config, schedule)
    made |= {"out": str(out), "compiled": compiled}
    keys = material.patient_keys()
    manifest = first_decides(lambda: run_folder.begin(out, config, made, keys, again=begun is not None), fabric.device)
    if begun is not None and fabric.is_global_zero:
        where = f"goes on after step {first_step}" if first_step else "has no checkpoint yet: it goes on from step 0"
        print(f"{out} {where} of {schedule.steps}", flush=True)
    return Loop(
        fabric, store, out, config, schedule, material, networks, optimizer, probe, watch, first_step, written, manifest
    )


class Loop:
    """What a run is made of while it runs."""

    def __init__(
        self,
        fabric: Fabric,
        store: Store,
        out: Path,
        config: Config,
        schedule: Plan,
        material: Material,
        networks: Networks,
        optimizer: AdamW,
        probe: OnlineProbe,
        watch: Watch,
        first_step: int,
        written: MetricsWritten | None = None,
        manifest: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self.fabric, self.store, self.out, self.config = fabric, store, out, config
        self.schedule, self.material, self.networks, self.optimizer = schedule, material, networks, optimizer
        self.probe, self.watch, self.first_step = probe, watch, first_step
        self.written, self.manifest = written or MetricsWritten(), manifest

    def run(self, first_step: int) -> None:
        """Steps [first_step, steps): each draws, learns, moves the target, looks at its health, and may save."""
        config, steps = self.config, self.schedule.steps
        shown = self.fabric.is_global_zero
        metrics = first_opens(lambda: Metrics(self.out, first_step=first_step, written=self.written), self.fabric)
        self.networks.train()
        with (
            metrics or nullcontext(),
            terminated() as asked_to_stop,
            progress("pretrain", steps, "steps", done=first_step, shown=shown) as advance,
        ):
            ended = time.perf_counter()
            ahead = self.ahead(first_step, steps)
            for prepared in ahead:
                losses, measured = self.learn(prepared, meanwhile=ahead.fetch)
                done = prepared.batch.step + 1
                measured |= self.look(done, losses, measured)
                # From the end of the step before: waiting for films counts, and so does a checkpoint.
                before, ended = ended, time.perf_counter()
                measured["films_per_second"] = config.train.batch_size / (ended - before)
                stop = self.note(metrics, done, measured, asked_to_stop()) and done < steps
                if done % config.train.checkpoint_every == 0 or done == steps or stop:
                    self.save(done, metrics)
                advance(1, f"loss {measured['loss']:.3f}")
                self.judge(done, measured.get("health.effective_rank"), measured.get("health.spread"))
                if stop:
                    raise Stopped(f"stopped after step {done} of {steps} as asked; continue with --resume")

    def note(self, metrics: Metrics | None, done: int, measured: dict[str, float], asked: bool) -> bool:
        """Writes the numbers of a step; returns whether any process was asked to stop, since then all do."""
        failed = None
        try:
            if metrics:
                metrics.write(done, measured)
        except OutputError as error:
            failed = error
        stop, cannot = any_of_all([asked, failed is not None], self.fabric.device)
        if failed is not None:
            raise failed
        if cannot:
            raise OutputError("the first process of this run cannot write, as it says itself")
        return stop

    def ahead(self, first_step: int, last_step: int) -> Ahead:
        """This process's share of the films of steps [first_step, last_step), with views and charts."""
        loader = FilmLoader(
            self.store,
            self.material.rows,
            self.config.views,
            patch_side=vit.patch_side(self.networks.encoder),
            batch_size=self.config.train.batch_size,
            seed=self.config.seed,
            rank=self.fabric.global_rank,
            world=self.fabric.world_size,
            pin=self.fabric.device.type == "cuda",
        )
        return Ahead(loader.steps(first_step, last_step), self.prepared, self.fabric.device)

    def prepared(self, batch: Batch) -> Prepared:
        """The views and charts of a batch, on the device."""
        images = batch.images.to(self.fabric.device, non_blocking=True)
        views = cut_views(images, batch.plan, self.config.views, self.material.grey)
        return Prepared(batch, views, self.material.chart_batch(batch.places, batch.epochs, self.fabric.device))

    def learn(
        self, prepared: Prepared, meanwhile: Callable[[], None] = lambda: None
    ) -> tuple[Losses, dict[str, float]]:
        """One optimizer step, its rates, loss, gradient and EMA: returns its losses and the numbers to note.

        `meanwhile` is called once the gradient is queued, before anything waits for it.
        """
        config, networks, (batch, views, chart) = self.config, self.networks, prepared
        rate = learning_rate(batch.step, self.schedule, config.train)
        decay = weight_decay(batch.step, self.schedule, config.train)
        momentum = ema_momentum(batch.step, self.schedule, config.train)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
            group["weight_decay"] = decay if group["decays"] else 0.0

        self.optimizer.zero_grad(set_to_none=True)
        losses, backward = forward(
            networks,
            views,
            chart,
            config.objective,
            autocast=self.fabric.autocast,
            all_sum=all_sum,
            accumulate=config.train.accumulate,
        )
        # A sum over processes is finite only where each is: all of them stop, or none.
        refuse_non_finite(all_sum(losses.total.detach()), batch, "loss")
        backward()
        parameters = list(networks.trained_parameters().values())
        average_gradients(parameters)
        norm = torch.nn.utils.clip_grad_norm_(parameters, config.train.clip or float("inf"))
        meanwhile()
        refuse_non_finite(norm, batch, "gradient")
        if config.train.ema_before_step:
            networks.move_target(momentum)
        self.optimizer.step()
        if not config.train.ema_before_step:
            networks.move_target(momentum)
        return losses, self.measured(losses, norm, rate, decay, momentum)

    def measured(self, losses: Losses, norm: Tensor, rate: float, decay: float, momentum: float) -> dict[str, float]:
        """The numbers of a step, averaged over processes where each has its own share."""
        world = self.fabric.world_size
        shares = torch.stack((losses.total, *losses.terms, losses.chart)).detach().float()
        # Read once: each reading waits for the device.
        total, *terms, chart, gradient_norm = torch.cat((all_sum(shares) / world, norm.detach()[None])).tolist()
        numbers: dict[str, float] = {"loss": total} | dict(zip(losses.terms._fields, terms, strict=True))
        numbers |= {
            "learning_rate": rate,
            "weight_decay": decay,
            "gradient_norm": gradient_norm,
        }
        numbers |= {} if isinstance(self.networks, MaskedAutoencoder) else {"ema": momentum}
        return numbers | ({"chart_loss": chart} if self.config.chart.use == "predict" else {})

    def look(self, done: int, losses: Losses, measured: dict[str, float]) -> dict[str, float]:
        """Health beside the loss: the assignments at every step, the embeddings every `health.every` steps."""
        numbers: dict[str, float] = {}
        seen = None
        if losses.assignments is not None:
            seen = vitals(losses.assignments, measured["mean_entropy"], all_sum)
            numbers |= {f"health.{name}": value for name, value in seen._asdict().items()}
        self.watch.observe(measured["loss"], seen)
        if done % self.config.health.every == 0 or done == self.schedule.steps:
            numbers |= self.agreed(self.probe.measure(self.networks))
        return numbers

    def agreed(self, numbers: dict[str, float]) -> dict[str, float]:
        """The mean over processes of what each has worked out alike: on other processors the last digit may differ,
        and a verdict that one process reaches alone leaves the others waiting.
        """
        if self.fabric.world_size == 1:
            return numbers
        own = torch.tensor(list(numbers.values()), dtype=torch.float64, device=self.fabric.device)
        return dict(zip(numbers, (all_sum(own) / self.fabric.world_size).tolist(), strict=True))

    def judge(self, done: int, rank: float | None, spread: float | None) -> None:
        """Stops a run that has collapsed, or only says so where `health.stop` is off."""
        verdict = self.watch.verdict(done, rank, spread)
        if verdict is None:
            return
        sentence = f"step {done}: {verdict}"
        if self.config.health.stop:
            raise UnhealthyRun(f"{sentence}; the run was stopped (health.stop false lets it go on)")
        if done % self.config.health.every == 0:
            print(f"unhealthy, going on as asked: {sentence}", flush=True)

    def save(self, done: int, metrics: Metrics | None) -> None:
        """Writes a checkpoint, and what was measured until then."""

        def write() -> None:
            if metrics:
                self.written = metrics.written()
            state: dict[str, Any] = {"watch": self.watch.state(), "metrics": self.written._asdict()}
            state["run"] = run_folder.identity(self.config, self.store.hash)
            keep = self.config.train.checkpoint_keep
            checkpoint.save(self.out / CHECKPOINTS, done, self.networks, self.optimizer, state, keep=keep)

        first_decides(write, self.fabric.device)

    def finish(self, status: str) -> None:
        """Writes the target encoder of a complete run, then how the run ended."""
        first_decides(lambda: self.write_end(status), self.fabric.device)

    def write_end(self, status: str) -> None:
        """Only an encoder that is there makes a run complete; what it says of itself is what this process knows."""
        manifest = dict(self.manifest) | {"status": status, "metrics_sha256": self.written.sha256}
        if status == COMPLETE:
            provenance = {key: value for key, value in self.manifest.items() if key not in ("flow", "status")}
            taken_home = vit.PretrainedEncoder(
                model=self.networks.target_encoder,
                size=self.config.views.size,
                grey_mean=self.material.grey.mean,
                grey_std=self.material.grey.std,
                architecture=vit.architecture(self.config.encoder, self.config.views.size),
                provenance=provenance | {"run": self.out.resolve().name},
            )
            with replaced_folder(self.out / ENCODER) as partial:
                vit.save(partial, taken_home)
        run_folder.write_manifest(self.out, manifest)


def first_opens(make: Callable[[], Metrics], fabric: Fabric) -> Metrics | None:
    """What the first process opens, and None in the others; where it cannot, none of them goes on."""
    opened: list[Metrics] = []
    first_decides(lambda: opened.append(make()), fabric.device)
    return opened[0] if opened else None


def resume_from(
    place: Path, networks: Networks, optimizer: AdamW, watch: Watch, run: str
) -> tuple[int, MetricsWritten]:
    """Loads a checkpoint of the run that is known by `run`; returns its step, and what was measured until then."""
    state = checkpoint.restore(place, networks, optimizer)
    if state.get("run") != run:
        raise InputError(
            f"expected a checkpoint of this run in {place}, found one of other settings or of another store; take it "
            "away, or begin again in another folder"
        )
    try:
        watch.restore(state["watch"])
        return state["step"], MetricsWritten(int(state["metrics"]["bytes"]), str(state["metrics"]["sha256"]))
    except (LookupError, TypeError, ValueError):
        raise InputError(
            f"expected what the run has measured in the state of {place}, found other content; take the checkpoint "
            "away to go back to the one before it"
        ) from None


def refuse_unhealthy(status: str, first_step: int, steps: int, config: Config) -> None:
    """Raises UnhealthyRun for a run that was stopped at its last step: continued, it would be complete unjudged."""
    if status not in (RUNNING, COMPLETE) and first_step == steps and config.health.stop:
        raise UnhealthyRun(f"{status.removeprefix('stopped: ')}")


def refuse_non_finite(value: Tensor, batch: Batch, what: str) -> None:
    """Stops before the optimizer and the EMA see a number that is not finite; names the rows of the batch."""
    if not torch.isfinite(value.detach()).all():
        rows = ", ".join(str(row) for row in batch.rows[:8])
        raise UnhealthyRun(
            f"step {batch.step + 1}: the {what} is not finite ({value.detach().item()}) for a batch with store rows "
            f"{rows}...; nothing was updated; lower train.learning_rate, or look at these films"
        )


@contextmanager
def terminated() -> Iterator[Any]:
    """While open, SIGTERM only sets a mark; yields a function that says whether it came."""
    came: list[int] = []

    def mark(number: int, frame: FrameType | None) -> None:
        came.append(number)

    before = signal.signal(signal.SIGTERM, mark)
    try:
        yield lambda: bool(came)
    finally:
        signal.signal(signal.SIGTERM, before)
