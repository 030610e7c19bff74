"""torch.compile for the blocks of the encoders: compiled once for each input shape, shared by equal blocks."""

import logging
import warnings
from contextlib import AbstractContextManager

import torch
import torch._inductor.config
from timm.models.eva import Eva
from timm.models.vision_transformer import Block, VisionTransformer
from torch import nn

from chartray.config.pretrain import TrainConfig
from chartray.errors import InputError
from chartray.networks.encoder import class_after_blocks
from chartray.networks.last_block import only_class_is_read
from chartray.training.processes import is_first_process

_SHAPES = 32  # of a block's input: target, random and focal views, with and without gradient, whole and in parts
_MIN_STEPS = 1_000


def wanted(config: TrainConfig, steps: int, device: torch.device) -> bool:
    """Whether a run of this many steps compiles; `auto`: if it is long enough to repay the minute, and it works here.

    A function of the configuration and the machine's tools, so that a resumed run computes as before. Prints why a
    long run is not compiled. Raises InputError where train.compile is true and compilation fails.
    """
    if config.compile is False or (config.compile == "auto" and steps < _MIN_STEPS):
        return False
    reason = _obstacle(device)
    if reason is None:
        return True
    if config.compile == "auto":
        if is_first_process():
            print(f"train.compile is off: torch.compile does not work here ({reason}); steps take longer", flush=True)
        return False
    raise InputError(
        f"expected a torch.compile that works for train.compile true, found {reason}; install a C++ compiler with "
        "Python's headers (g++, python3-dev), or omit train.compile"
    )


def compile_encoders(networks: nn.Module, *, whole: bool) -> None:
    """Compiles all transformer blocks, decoders' too, in place; `whole`: all blocks of an encoder as one.

    One graph for all blocks costs longer compilation, and a host that asks for each kernel only a twelfth of the time.
    Each shape is compiled separately, so that the result does not depend on earlier shapes.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _SHAPES)
    stack = torch.compile(class_after_blocks, dynamic=False)
    for module in networks.modules():
        if isinstance(module, VisionTransformer) and whole and only_class_is_read(module):
            module.compiled_stack = stack
            continue
        blocks = (
            module.blocks
            if isinstance(module, VisionTransformer | Eva)
            else [module]
            if isinstance(module, Block)
            else []
        )
        for block in blocks:
            if block._compiled_call_impl is None:
                block.compile(dynamic=False)


def as_written() -> AbstractContextManager[None]:
    """While open, compiled blocks run uncompiled: the online probe's few images are not worth other shapes."""
    stance: AbstractContextManager[None] = torch.compiler.set_stance("force_eager")
    return stance


def _obstacle(device: torch.device) -> str | None:
    """Why compilation fails for `device`, in one line; None if a small function compiles."""
    # It warns of a CUDA build of torch on a machine without a GPU.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    try:
        # Without caches: what an earlier process compiled proves nothing about the tools here and now.
        with warnings.catch_warnings(), torch._inductor.config.patch(force_disable_caches=True):
            warnings.simplefilter("ignore")  # of disabled caches
            torch.compile(_tried, dynamic=False)(torch.ones(8, device=device))
    except Exception as error:  # a compiler, linker, header or driver may be missing
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return f"{type(error).__name__}: {lines[0][:200] if lines else 'no reason given'}"
    return None


def _tried(numbers: torch.Tensor) -> torch.Tensor:
    return (numbers + 1).exp()
