"""Does a GPU compute what a CPU computes: losses, gradients, attention, views, streams, resumed and divided steps."""

import itertools
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from pydantic import JsonValue
from torch import Tensor
from torch.nn.functional import cosine_similarity, scaled_dot_product_attention

from benchmarks.gpu.setting import Finding, Setting, away, first_batch, gradient, store_rows
from chartray.errors import Stopped
from chartray.networks import encoder as vit
from chartray.pixels.views import cut_views
from chartray.training import step
from chartray.training.prefetch import Prefetcher
from chartray.training.pretrain import pretrain

_OBJECTIVES = ("msn", "dino", "mae")


def numbers(where: Setting) -> Iterator[Finding]:
    """Loss and gradient of 8 images: the device in float32 and bf16, as written and compiled, against the CPU."""
    for recipe in _OBJECTIVES:
        expected = _loss_and_gradient(where, recipe, "cpu", "fp32")
        for compiled, precision in itertools.product((False, True) if recipe == "msn" else (False,), ("fp32", "bf16")):
            loss, found = _loss_and_gradient(where, recipe, where.device.type, precision, compiled=compiled)
            name = f"{recipe} {precision} {'compiled' if compiled else 'as written'}"
            off = abs(loss / expected[0] - 1)
            most = 1e-5 if precision == "fp32" else 5e-3
            yield Finding(f"{name}: loss against the CPU", off, f"<= {most:g}", off <= most)
            if precision == "fp32":
                distance = away(found, expected[1])
                yield Finding(f"{name}: gradient against the CPU", distance, "<= 1e-4", distance <= 1e-4)
            else:
                cosine = float(cosine_similarity(found, expected[1], dim=0))
                yield Finding(f"{name}: cosine of the gradients", cosine, "> 0.99", cosine > 0.99)


def attention(where: Setting) -> Iterator[Finding]:
    """Fused attention against three matrix products, forward and backward, at the recipe's numbers of tokens."""
    for tokens in (197, 168, 37):
        for dtype, most in ((torch.float32, 1e-4), (torch.bfloat16, 2e-2)):
            draw = torch.Generator(device="cpu").manual_seed(tokens)
            wide = [torch.randn(8, 6, tokens, 64, generator=draw).to(where.device) for _ in range(3)]
            fused = _attended([part.to(dtype) for part in wide], fused=True)
            plain = _attended(wide, fused=False)
            off = max(
                away(ours.double().cpu(), theirs.double().cpu()) for ours, theirs in zip(fused, plain, strict=True)
            )
            kind = str(dtype).removeprefix("torch.")
            yield Finding(f"{tokens} tokens, {kind}: fused against plain", off, f"<= {most:g}", off <= most)


def views(where: Setting) -> Iterator[Finding]:
    """The views of a batch cut on the device against the CPU."""
    images = where.size(1_024, 16)
    loop = where.loop({"train.batch_size": min(images, store_rows(where.store))})
    with loop.batches(0, 1) as batches:
        loaded = batches._load(0)
    cut = [
        cut_views(loaded.images.to(device), loaded.plan, loop.config.views, loop.data.grey)
        for device in (torch.device("cpu"), where.device)
    ]
    for name in ("target", "random", "focal"):
        expected, found = (getattr(each, name).cpu() for each in cut)
        off = float((found - expected).abs().max()) * loop.data.grey.std
        yield Finding(f"{name} views of {len(loaded.rows)} images, grey levels in [0, 1]", off, "< 1e-4", off < 1e-4)


def streams(where: Setting) -> Iterator[Finding]:
    """Sums of 100 steps' views, cut in a stream of their own beside a busy device, and in the stream that computes."""
    steps = where.size(100, 4)
    beside, alone = (_sums_of_views(where, steps, own_stream=own) for own in (True, False))
    differing = sum(a != b for a, b in zip(beside, alone, strict=True))
    yield Finding(
        f"{steps} steps with and without a stream for views: steps that differ", differing, "0", not differing
    )


def resuming(where: Setting) -> Iterator[Finding]:
    """A run stopped by SIGTERM and resumed, against one that ran through; and that one against its repetition."""
    given: dict[str, JsonValue] = {"train.steps": 12, "train.checkpoint_every": 100, "train.batch_size": 8}
    loop = where.loop(given)
    config = loop.config
    through, again, stopped = (where.new_folder() for _ in range(3))
    for folder in (through, again):
        pretrain(where.store, folder, config)
    with suppress(Stopped), _terminated_soon(stopped):
        pretrain(where.store, stopped, config)
    done = len((stopped / "metrics.jsonl").read_text().splitlines())
    yield Finding("steps before SIGTERM stopped the run", done, "< 12", done < 12)
    if done < 12:
        pretrain(where.store, stopped, config, resume=True)
    weights = [_weights(folder) for folder in (through, again, stopped)]
    noise, off = away(weights[1], weights[0]), away(weights[2], weights[0])
    yield Finding("the same 12 steps twice: weights", noise, "told")
    most = max(10 * noise, 1e-5)
    yield Finding(f"stopped after step {done} of 12 and resumed: weights", off, f"<= {most:.2g}", off <= most)


def accumulating(where: Setting) -> Iterator[Finding]:
    """The gradient of a batch in 4 parts against the batch at once."""
    for precision, most in (("fp32", 1e-5), ("bf16", 2e-2)):
        found = [
            _loss_and_gradient(where, "msn", where.device.type, precision, parts=parts, images=where.size(64, 8))
            for parts in (1, 4)
        ]
        off = away(found[1][1], found[0][1])
        yield Finding(f"{precision}: gradient in 4 parts against 1", off, f"<= {most:g}", off <= most)


def learning(where: Setting) -> Iterator[Finding]:
    """300 steps of a ViT-Tiny on simulated radiographs: nearest neighbours find labels better than before."""
    steps = where.size(300, 3)
    given: dict[str, JsonValue] = {
        "train.steps": steps,
        "train.batch_size": where.size(256, 8),
        "train.learning_rate": 1e-3,
        "health.probe_films": 512,
        "health.stop": False,
        "health.every": 50,
    }
    loop = where.loop(given)
    before = loop.probe.measure(loop.networks)
    began = time.perf_counter()
    loop.run()
    seconds = time.perf_counter() - began
    after = loop.probe.measure(loop.networks)
    name = "health.knn_auroc"
    risen = after[name] - before[name]
    yield Finding(f"kNN macro AUROC before {steps} steps", before[name], "told")
    yield Finding("kNN macro AUROC after them", after[name], "higher", None if where.quick else risen > 0)
    yield Finding("effective rank after them", after["health.effective_rank"], "told")
    yield Finding("seconds of them, not compiled", seconds, "told")


def _loss_and_gradient(
    where: Setting,
    recipe: str,
    device: str,
    precision: str,
    *,
    compiled: bool = False,
    parts: int = 1,
    images: int = 8,
) -> tuple[float, Tensor]:
    # Warm-up of compilation and of allocation does not change numbers, so one pass is enough.
    given: dict[str, JsonValue] = {
        "train.precision": precision,
        "train.compile": compiled,
        "train.batch_size": images,
        "train.device": device,
    }
    loop = where.loop(given, recipe=recipe)
    cut_on_cpu = where.loop(given | {"train.device": "cpu", "train.compile": False}, recipe=recipe)
    batch = first_batch(cut_on_cpu, loop.runtime.device)
    losses = step.forward(loop.networks, batch.views, batch.chart, loop.config.objective, loop.runtime.autocast, parts)
    torch.autograd.backward(losses.total)
    return float(losses.total.detach()), gradient(loop)


def _attended(inputs: list[Tensor], *, fused: bool) -> list[Tensor]:
    """Output and the three gradients."""
    query, key, value = (part.detach().clone().requires_grad_() for part in inputs)
    if fused:
        drawn = scaled_dot_product_attention(query, key, value)
    else:
        drawn = (query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5).softmax(dim=-1) @ value
    torch.autograd.backward(drawn.float().square().sum())
    gradients = [part.grad for part in (query, key, value)]
    assert all(part is not None for part in gradients)
    return [drawn.detach(), *(part for part in gradients if part is not None)]


def _sums_of_views(where: Setting, steps: int, *, own_stream: bool) -> list[float]:
    loop = where.loop({"train.batch_size": where.size(64, 8)})
    batches: Prefetcher = loop.batches(0, steps)
    if not own_stream:
        batches._stream = None
    sums = []
    with batches:
        for batch in batches:
            if where.on_gpu:
                # Some 10 ms in which this step's views must not be overwritten; torch has not typed it.
                torch.cuda._sleep(20_000_000)  # type: ignore[no-untyped-call]  # torch has no types for it
            batches.prepare_next()
            total = sum(part.double().sum() for part in batch.views if part is not None)
            sums.append(float(total))
    return sums


def _weights(run: Path) -> Tensor:
    state = vit.load(run).model.state_dict()
    return torch.cat([value.double().flatten() for value in state.values()])


@contextmanager
def _terminated_soon(run: Path) -> Iterator[None]:
    """While open, this process is sent SIGTERM once `run` has written the numbers of two steps."""
    over, metrics = threading.Event(), run / "metrics.jsonl"

    def watch() -> None:
        while not over.wait(0.001):
            with suppress(OSError):
                if metrics.read_bytes().count(b"\n") >= 2:
                    os.kill(os.getpid(), signal.SIGTERM)
                    return

    # A signal that comes after the run's end does nothing. An ignored one would be ignored by the run too.
    before = signal.signal(signal.SIGTERM, lambda number, frame: None)
    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        signal.signal(signal.SIGTERM, before)
