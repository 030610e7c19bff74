"""torch.compile for the blocks of the encoders: one block is compiled for each shape and serves all that are alike."""

import os
import shutil
from contextlib import AbstractContextManager

import torch
from timm.models.vision_transformer import VisionTransformer

from chartray.config import TrainConfig
from chartray.errors import InputError

# Shapes of a block's input: target, random and focal views, with and without gradient, whole and in parts.
_SHAPES = 32
_STEPS_THAT_REPAY = 1_000


def wanted(config: TrainConfig, steps: int) -> bool:
    """Whether a run of so many steps compiles; `auto`: where the minute it takes is repaid, if a compiler is there.

    A function of the configuration and the machine's tools, so that a run that is resumed computes as before.
    Raises InputError where it is asked for and no C++ compiler is found.
    """
    if config.compile == "auto":
        return steps >= _STEPS_THAT_REPAY and _compiler() is not None
    if config.compile and _compiler() is None:
        raise InputError(
            "expected a C++ compiler (g++, clang++ or the environment's CXX) for train.compile true, found none; "
            "install one, or leave train.compile out"
        )
    return config.compile


def compile_blocks(*encoders: VisionTransformer) -> None:
    """Compiles the blocks in place, for each shape by itself: what is compiled does not depend on what came before."""
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _SHAPES)
    for encoder in encoders:
        for block in encoder.blocks:
            block.compile(dynamic=False)


def as_written() -> AbstractContextManager[None]:
    """While open, compiled blocks run as they are written: for the few films that are looked at beside training."""
    stance: AbstractContextManager[None] = torch.compiler.set_stance("force_eager")
    return stance


def _compiler() -> str | None:
    named = os.environ.get("CXX")
    return next((found for name in (named, "g++", "clang++") if name and (found := shutil.which(name))), None)
