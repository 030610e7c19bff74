"""A run's loop over steps: each learns, measures its health and writes its numbers; the end writes the encoder."""

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch.optim import AdamW

from chartray.collective import all_sum, any_of_all, first_decides
from chartray.config.pretrain import Config
from chartray.errors import OutputError, Stopped, UnhealthyRun
from chartray.networks import encoder as vit
from chartray.networks.autoencoder import MaskedAutoencoder
from chartray.outputs.replacing import replaced_folder
from chartray.progress import progress
from chartray.stopping import SIGNALS, asked_to_stop, second_ends_at_once
from chartray.training import checkpoint, run_folder, step
from chartray.training.division import Division
from chartray.training.manifest import COMPLETE, RunManifest, write_manifest
from chartray.training.metrics import Metrics, MetricsWritten
from chartray.training.monitor import Monitor, assignment_statistics
from chartray.training.online_probe import OnlineProbe
from chartray.training.prefetch import Batch, Prefetcher, batches_of
from chartray.training.run_folder import CHECKPOINTS, ENCODER
from chartray.training.runtime import Runtime
from chartray.training.schedules import Rates, Schedule, chart_ramp, rates
from chartray.training.step import Losses, Networks
from chartray.training.trackers import NOT_TRACKED, Tracked, open_trackers
from chartray.training.training_data import TrainingData


@dataclass
class Loop:
    """A run: everything that its steps need."""

    runtime: Runtime
    out: Path
    config: Config
    schedule: Schedule
    data: TrainingData
    networks: Networks
    optimizer: AdamW
    probe: OnlineProbe
    monitor: Monitor
    division: Division
    manifest: RunManifest
    first_step: int = 0
    written: MetricsWritten = field(default_factory=MetricsWritten)
    tracked: Tracked = NOT_TRACKED

    def run(self) -> None:
        """Every step learns, measures its health, writes its numbers, and may save a checkpoint."""
        config, first, steps = self.config, self.first_step, self.schedule.steps
        shown = self.runtime.is_first
        metrics = first_opens(self.opened_metrics, self.runtime)
        self.networks.train()
        with (
            metrics or nullcontext(),
            asked_to_stop() as asked,
            second_ends_at_once(),
            self.batches(first, steps) as batches,
            progress("pretrain", steps, "steps", done=first, shown=shown) as advance,
        ):
            ended = time.perf_counter()
            for batch in batches:
                losses, numbers = self.learn(batch, batches)
                done = batch.step + 1
                numbers |= self.measure_health(done, losses, numbers)
                # From the end of the step before: waiting for images counts, and so does a checkpoint.
                before, ended = ended, time.perf_counter()
                numbers["films_per_second"] = config.train.batch_size / (ended - before)
                asks = self.write_numbers(metrics, done, numbers, asked)
                stop = asks is not None and done < steps
                if done % config.train.checkpoint_every == 0 or done == steps or stop:
                    self.save(done, metrics)
                advance(1, f"loss {numbers['loss']:.3f}")
                self.check_health(done, numbers.get("health.effective_rank"), numbers.get("health.spread"))
                if asks is not None and stop:
                    raise Stopped(f"stopped after step {done} of {steps} as asked; continue with --resume", asks)

    def opened_metrics(self) -> Metrics:
        """Where the numbers of the steps to come go."""
        told = run_folder.resolved(self.config) | {"store_hash": self.data.store.hash}
        if isinstance(init := told.get("encoder.init"), str):
            told["encoder.init"] = Path(init).name
        trackers = open_trackers(self.out, self.tracked, told)
        return Metrics(self.out, first_step=self.first_step, written=self.written, trackers=trackers)

    def batches(self, first_step: int, last_step: int) -> Prefetcher:
        """This process's share of steps [first_step, last_step)."""
        return batches_of(self.data, self.config, self.networks, self.runtime, range(first_step, last_step))

    def learn(self, batch: Batch, prefetcher: Prefetcher | None = None) -> tuple[Losses, dict[str, float]]:
        """One optimizer step: returns its losses and the numbers to write."""
        now = rates(batch.step, self.schedule, self.config.train)
        step.begin(self.networks, now, self.config)
        ramp = chart_ramp(batch.step, self.schedule, self.config.chart.warmup)
        batch = batch._replace(chart=batch.chart._replace(ramp=ramp))
        losses, norm = self.division.tried(
            lambda parts: step.gradient(self.networks, batch, self.config, self.runtime.autocast, parts, prefetcher),
            self.networks,
        )
        step.update(self.networks, self.optimizer, losses, now, self.config)
        parts, measured = self.division.parts, self.division.measured or None
        if (parts, measured) != (self.manifest.accumulate, self.manifest.memory_measured):
            self.manifest = self.manifest.model_copy(update={"accumulate": parts, "memory_measured": measured})
            first_decides(lambda: write_manifest(self.out, self.manifest), self.runtime.device)
        return losses, self.numbers(losses, norm, now, ramp)

    def numbers(self, losses: Losses, norm: Tensor, now: Rates, ramp: float) -> dict[str, float]:
        """The numbers of a step, averaged over processes where each has its own share."""
        names, shares = ["loss", *losses.terms._fields], torch.stack((losses.total, *losses.terms)).detach()
        if losses.chart is not None:
            names += [f"chart.{name}" for name in losses.chart.heads]
            shares = torch.stack((*shares, *losses.chart.heads.values()))
        # Read at once: each reading waits for the device.
        means = all_sum(shares.float()) / self.runtime.world_size
        *values, gradient_norm = torch.cat((means, norm.detach()[None])).tolist()
        numbers: dict[str, float] = dict(zip(names, values, strict=True))
        if self.config.objective.prior == "uniform":
            numbers.pop("prior", None)  # which is 0
        numbers |= {"chart.ramp": ramp} if losses.chart is not None and losses.chart.heads else {}
        numbers |= {
            "learning_rate": now.learning_rate,
            "weight_decay": now.weight_decay,
            "gradient_norm": gradient_norm,
        }
        numbers |= {} if isinstance(self.networks, MaskedAutoencoder) else {"ema": now.ema}
        if self.config.train.in_two_stages:
            numbers["encoder_learning_rate"] = now.learning_rate * now.encoder
        return numbers

    def measure_health(self, done: int, losses: Losses, numbers: dict[str, float]) -> dict[str, float]:
        """Health besides the loss: the assignments at every step, the embeddings every `health.every` steps."""
        health: dict[str, float] = {}
        statistics = None
        if losses.assignments is not None:
            statistics = assignment_statistics(losses.assignments, numbers["mean_entropy"])
            health |= {f"health.{name}": value for name, value in statistics._asdict().items()}
        self.monitor.record(numbers["loss"], statistics)
        if done % self.config.health.every == 0 or done == self.schedule.steps:
            health |= self.probe.measure(self.networks)
        return health

    def check_health(self, done: int, rank: float | None, spread: float | None) -> None:
        """Stops a run that has collapsed; where `health.stop` is off, it only prints why."""
        problem = self.monitor.problem(done, rank, spread)
        if problem is None:
            return
        if self.config.health.stop:
            raise UnhealthyRun(f"step {done}: {problem}; the run was stopped (health.stop false would let it continue)")
        if done % self.config.health.every == 0:
            print(f"unhealthy, but health.stop is false: step {done}: {problem}", flush=True)

    def write_numbers(
        self, metrics: Metrics | None, done: int, numbers: dict[str, float], asked: list[int]
    ) -> int | None:
        """Writes the numbers of a step; returns the signal that asked any process to stop, since then all do."""
        failed = None
        try:
            if metrics:
                metrics.write(done, numbers)
        except OutputError as error:
            failed = error
        *came, cannot = any_of_all([*(each in asked for each in SIGNALS), failed is not None], self.runtime.device)
        if failed is not None:
            raise failed
        if cannot:
            raise OutputError("the first process of this run cannot write; it prints why")
        return next((each for each, any_came in zip(SIGNALS, came, strict=True) if any_came), None)

    def save(self, done: int, metrics: Metrics | None) -> None:
        """Writes a checkpoint, with the length and digest of metrics.jsonl so far."""

        def write() -> None:
            if metrics:
                self.written = metrics.written()
            run = run_folder.identity(self.config, self.data.store.hash)
            state = {"watch": self.monitor.state(), "metrics": self.written._asdict(), "run": run}
            keep = self.config.train.checkpoint_keep
            checkpoint.save(self.out / CHECKPOINTS, done, self.networks, self.optimizer, state, keep=keep)

        first_decides(write, self.runtime.device)

    def finish(self, status: str) -> None:
        """Writes the target encoder of a complete run, then how the run ended."""
        first_decides(lambda: self.write_end(status), self.runtime.device)

    def write_end(self, status: str) -> None:
        """The encoder first: the manifest calls a run complete only once it is there."""
        manifest = self.manifest.model_copy(update={"status": status, "metrics_sha256": self.written.sha256})
        if status == COMPLETE:
            encoder = vit.PretrainedEncoder(
                model=self.networks.target_encoder,
                size=self.config.views.size,
                grey_mean=self.data.grey.mean,
                grey_std=self.data.grey.std,
                architecture=vit.architecture(self.config.encoder, self.config.views.size),
                provenance=self.manifest.of_encoder(self.out.resolve().name),
            )
            with replaced_folder(self.out / ENCODER) as partial:
                vit.save(partial, encoder)
        write_manifest(self.out, manifest)


def first_opens(make: Callable[[], Metrics], runtime: Runtime) -> Metrics | None:
    """What the first process opens, and None in the others; if it fails, all of them stop."""
    opened: list[Metrics] = []
    first_decides(lambda: opened.append(make()), runtime.device)
    return opened[0] if opened else None
