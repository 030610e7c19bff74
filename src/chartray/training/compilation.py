"""torch.compile for the blocks of the encoders: one block is compiled for each shape and serves all that are alike."""

import logging
import warnings
from contextlib import AbstractContextManager

import torch
import torch._inductor.config
from timm.models.vision_transformer import Block, VisionTransformer
from torch import nn

from chartray.config.pretrain import TrainConfig
from chartray.errors import InputError
from chartray.training.runtime import is_first_process

# Shapes of a block's input: target, random and focal views, with and without gradient, whole and in parts.
_SHAPES = 32
_STEPS_THAT_REPAY = 1_000


def wanted(config: TrainConfig, steps: int, device: torch.device) -> bool:
    """Whether a run of so many steps compiles; `auto`: where the minute it takes is repaid, if it can be done here.

    A function of the configuration and the machine's tools, so that a run that is resumed computes as before. Says why
    where a long run goes on without. Raises InputError where it is asked for and cannot be done.
    """
    if config.compile is False or (config.compile == "auto" and steps < _STEPS_THAT_REPAY):
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
        "Python's headers (g++, python3-dev), or leave train.compile out"
    )


def compile_blocks(networks: nn.Module) -> None:
    """Compiles all blocks of transformers, decoders' too, in place and for each shape by itself: what is compiled does
    not depend on what came before.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _SHAPES)
    for module in networks.modules():
        blocks = module.blocks if isinstance(module, VisionTransformer) else [module] if type(module) is Block else []
        for block in blocks:
            if block._compiled_call_impl is None:
                block.compile(dynamic=False)


def as_written() -> AbstractContextManager[None]:
    """While open, compiled blocks run as they are written: for the few films that are looked at beside training."""
    stance: AbstractContextManager[None] = torch.compiler.set_stance("force_eager")
    return stance


def _obstacle(device: torch.device) -> str | None:
    """Why nothing can be compiled for `device`, in a line; None where a small function can."""
    # That a CUDA build of torch runs on a machine without a GPU is known.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    try:
        # Fresh each time: what an earlier process compiled says nothing of the tools that are here now.
        with warnings.catch_warnings(), torch._inductor.config.patch(force_disable_caches=True):
            warnings.simplefilter("ignore")  # that caches are off
            torch.compile(_tried, dynamic=False)(torch.ones(8, device=device))
    except Exception as error:  # whatever compiler, linker, header or driver is missing
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return f"{type(error).__name__}: {lines[0][:200] if lines else 'no reason given'}"
    return None


def _tried(numbers: torch.Tensor) -> torch.Tensor:
    return (numbers + 1).exp()
