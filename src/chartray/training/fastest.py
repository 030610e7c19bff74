"""How a long run computes on a CPU: the fastest of several exact ways, by processor time on this machine.

It takes about as long as one step, so that only runs of `LONG` steps measure; shorter ones take those of `UNMEASURED`.
What was chosen is written to the manifest, and a run that is continued on
the same device keeps it: its numbers stay the same to the last bit.
"""

import copy
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from timm.layers import Attention
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from chartray.collective import first_decides
from chartray.config.pretrain import Config
from chartray.networks import encoder as vit
from chartray.networks.attention import attended_projections, set_ways
from chartray.networks.ways import Way, Ways
from chartray.training import compilation
from chartray.training.loader import ImageLoader
from chartray.training.manifest import RunManifest
from chartray.training.prefetch import prepared
from chartray.training.runtime import Runtime
from chartray.training.step import Networks, forward
from chartray.training.training_data import TrainingData

LONG = 1_000  # steps
UNMEASURED = Ways("gathered", "fused")  # fastest on every kind of processor so far
_ROUNDS = 5
_IMAGES = 4
_GAIN = 0.05  # of its time that another way must save: less is noise


class ChosenWay(NamedTuple):
    """How a run computes; `seconds` of processor time went into choosing, none where nothing was measured."""

    attention: Ways
    compiled: bool
    seconds: float | None = None

    def described(self) -> dict[str, object]:
        """As the manifest says it."""
        said: dict[str, object] = {
            "compiled": self.compiled,
            "attention": self.attention.with_gradient,
            "attention_without_gradient": self.attention.without_gradient,
        }
        return said if self.seconds is None else said | {"seconds_of_choice": round(self.seconds, 1)}


def choose(
    networks: Networks, data: TrainingData, config: Config, steps: int, runtime: Runtime, before: RunManifest | None
) -> ChosenWay:
    """The way of a run of this many steps, of which attention is set; the first process measures for all.

    `before`: the manifest of a run that is continued. Raises InputError where train.compile is true and cannot be.
    """
    compiled = compilation.wanted(config.train, steps, runtime.device)
    if runtime.device.type == "cuda":
        chosen = ChosenWay(Ways("fused", "fused"), compiled)
    elif before is not None and before.attention is not None and before.device == runtime.device.type:
        ways = Ways(before.attention, before.attention_without_gradient or UNMEASURED.without_gradient)
        kept = compiled if before.compiled is None or config.train.compile != "auto" else before.compiled
        chosen = ChosenWay(ways, compiled and kept, before.seconds_of_choice)
    elif steps < LONG:
        chosen = ChosenWay(UNMEASURED, compiled)
    else:
        said = first_decides(lambda: _measured(networks, data, config, runtime, compiled), runtime.device)
        chosen = ChosenWay(Ways(*said[0]), *said[1:])
    set_ways(networks, chosen.attention)
    return chosen


def _measured(
    networks: Networks, data: TrainingData, config: Config, runtime: Runtime, compiled: bool
) -> tuple[Ways, bool, float]:
    began = time.process_time()
    learned, looked = _attentions(networks, data, config, runtime)
    ways = Ways(
        _fastest(learned, ("gathered", "plain", "fused"), learns=True),
        _fastest(looked or learned, ("fused", "plain"), learns=False),
    )
    set_ways(networks, ways)
    if compiled and learned and config.train.compile == "auto":
        compiled = _compiles_faster(networks, learned, runtime.autocast)
    seconds = time.process_time() - began
    print(
        f"fastest here: attention {ways.with_gradient} with a gradient and {ways.without_gradient} without, blocks "
        f"{'compiled' if compiled else 'as written'}; measured in {seconds:.0f} s of processor time",
        flush=True,
    )
    return ways, compiled, seconds


Projections = Counter[tuple[Attention, tuple[int, ...], torch.dtype]]


def _attentions(networks: Networks, data: TrainingData, config: Config, runtime: Runtime) -> tuple[Projections, ...]:
    """How often a step computes an attention of which projections, (B, N, 3 D): with a gradient, and without.

    One block's stands for all of equal shape.
    """
    side = vit.patch_side(networks.encoder)
    loader = ImageLoader(data.store, data.rows, config.views, patch_side=side, batch_size=_IMAGES, seed=config.seed)
    batch = prepared(loader.load(0), data, config, runtime.device)
    seen: dict[tuple[bool, tuple[int, ...]], tuple[Attention, torch.dtype]] = {}
    counts: Counter[tuple[bool, tuple[int, ...]]] = Counter()

    def noted(attention: Attention) -> Callable[[nn.Module, Any, Tensor], None]:
        learns = next(attention.parameters()).requires_grad

        def note(_: nn.Module, __: Any, projected: Tensor) -> None:
            key = (learns, tuple(projected.shape))
            counts[key] += 1
            seen.setdefault(key, (attention, projected.dtype))

        return note

    hooks = [each.qkv.register_forward_hook(noted(each)) for each in networks.modules() if isinstance(each, Attention)]
    training = networks.training
    networks.eval()  # so that no running mean moves
    with torch.no_grad():
        forward(networks, batch.views, batch.chart, config.objective, runtime.autocast)
    networks.train(training)
    for hook in hooks:
        hook.remove()
    return tuple(
        Counter({(seen[key][0], key[1], seen[key][1]): times for key, times in counts.items() if key[0] is learns})
        for learns in (True, False)
    )


def _fastest(attentions: Projections, ways: Sequence[Way], *, learns: bool) -> Way:
    """The way that is fastest for all of these together; the first, unless another is clearly faster."""
    totals = dict.fromkeys(ways, 0.0)
    for (attention, shape, kind), times in attentions.items():
        projected = torch.randn(shape, dtype=kind, requires_grad=learns)
        for way, seconds in zip(ways, _seconds([_once(attention, way, projected) for way in ways]), strict=True):
            totals[way] += times * seconds
    best = min(totals, key=totals.__getitem__)
    return best if totals[best] < (1 - _GAIN) * totals[ways[0]] else ways[0]


def _once(attention: Attention, way: Way, projected: Tensor) -> Callable[[], object]:
    def once() -> None:
        attention.ways = Ways(way, way)
        # What is projected is in bf16 where the run is, and so must be the product after it.
        bf16 = projected.dtype == torch.bfloat16
        with torch.set_grad_enabled(projected.requires_grad), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            made = attended_projections(attention, projected)
            if projected.requires_grad:
                torch.autograd.grad(made.sum(), projected)

    return once


def _compiles_faster(
    networks: nn.Module, learned: Projections, autocast: Callable[[], AbstractContextManager[object]]
) -> bool:
    """Whether a block of the trained encoder learns clearly faster compiled, on the largest of its inputs."""
    attention, shape, _ = max(learned, key=lambda each: each[1][0] * each[1][1] * learned[each])
    block = next(each for each in networks.modules() if isinstance(each, Block) and each.attn is attention)
    tokens = torch.randn((*shape[:2], attention.qkv.in_features), requires_grad=True)
    as_compiled = copy.deepcopy(block)
    as_compiled.compile(dynamic=False)

    def learn(block: nn.Module) -> Callable[[], object]:
        def once() -> object:
            with autocast():
                made = block(tokens)
            return torch.autograd.grad(made.float().sum(), [tokens, *block.parameters()])

        return once

    written, compiled = _seconds([learn(copy.deepcopy(block)), learn(as_compiled)])
    return compiled < (1 - _GAIN) * written


def _seconds(ways: Sequence[Callable[[], object]]) -> list[float]:
    """Processor seconds of each way: the least of some rounds in turns, after one that is not counted."""
    taken: list[list[float]] = [[] for _ in ways]
    for _ in range(_ROUNDS + 1):
        for way, seconds in zip(ways, taken, strict=True):
            began = time.process_time()
            way()
            seconds.append(time.process_time() - began)
    return [min(seconds[1:]) for seconds in taken]
