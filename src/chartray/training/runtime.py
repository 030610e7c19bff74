"""Device, precision and processes of a run: one process, or those that torchrun or SLURM started."""

import atexit
import os
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import NamedTuple

import torch
import torch.distributed as dist

from chartray.collective import leave
from chartray.config.pretrain import TrainConfig
from chartray.console import status
from chartray.errors import InputError, LostProcess
from chartray.memory import keep_freed_memory, prefer_huge_pages
from chartray.training.driver import refuse_unusable_gpu
from chartray.training.processes import place_of_process, processes, refuse_uneven

# NCCL's own is 10 minutes, in which a slow disk may not have written a checkpoint.
_ANSWERS_WITHIN = timedelta(minutes=30)


class Runtime(NamedTuple):
    """Where this process computes: its device, its number among the processes of the run, and whether in bf16."""

    device: torch.device
    rank: int = 0
    world_size: int = 1
    bf16: bool = False

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that prints and writes."""
        return self.rank == 0

    def autocast(self) -> AbstractContextManager[None]:
        """The precision of what is computed inside."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16) if self.bf16 else nullcontext()


def launch(config: TrainConfig) -> Runtime:
    """The chosen device, in as many processes as torchrun or SLURM started (one otherwise), which meet here.

    Raises InputError if this machine lacks the device or has a GPU that torch cannot use, or if the batch cannot be
    divided by the processes; LostProcess if they do not meet.
    """
    refuse_missing_device(config)
    cuda = config.device != "cpu" and torch.cuda.is_available()
    if not cuda:
        keep_freed_memory()
        prefer_huge_pages()
    world, here = processes()
    refuse_uneven(config.batch_size)
    devices = _devices(here, torch.cuda.device_count()) if cuda else [torch.device("cpu")] * here
    if world == 1:
        runtime = Runtime(devices[0], bf16=uses_bf16(config))
    else:
        rank, on_machine = place_of_process()
        runtime = Runtime(devices[on_machine], rank, world, uses_bf16(config))
    if cuda:
        torch.cuda.set_device(runtime.device)
    if world > 1:
        _meet(runtime)
    if runtime.is_first:
        status(_where(runtime.device, world, runtime.bf16))
        if config.device == "auto" and torch.backends.mps.is_available():
            print("Apple's GPU is not supported (only NVIDIA's are): training on the CPU", flush=True)
    return runtime


def refuse_missing_device(config: TrainConfig) -> None:
    """Raises InputError if this machine lacks the device, or has a GPU that torch cannot use."""
    if config.device == "cuda" and not torch.cuda.is_available():
        raise InputError("train.device is cuda, but torch finds no GPU on this machine; use --train.device cpu")
    if config.device == "auto":
        refuse_unusable_gpu("--train.device cpu")


def _meet(runtime: Runtime) -> None:
    """Joins the other processes of the run, at the address that torchrun's variables name."""
    if dist.is_initialized():
        return  # by an earlier launch in this process: a study measures several runs
    cuda = runtime.device.type == "cuda"
    try:
        dist.init_process_group(
            "nccl" if cuda else "gloo",
            rank=runtime.rank,
            world_size=runtime.world_size,
            timeout=_ANSWERS_WITHIN,
            device_id=runtime.device if cuda else None,
        )
    except dist.DistError as error:
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        said = " ".join(str(error).split())[:200]
        raise LostProcess(
            f"expected the {runtime.world_size} processes of this run to meet at {where}, found: {said}"
        ) from None
    atexit.register(leave)


def _where(device: torch.device, world: int, bf16: bool) -> str:
    """Device, precision and processes of a run, in one line."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    processes = f", {world} processes" if world > 1 else ""
    return f"training on {name}{processes}, in {'bf16' if bf16 else 'fp32'}"


def _devices(processes: int, gpus: int) -> list[torch.device]:
    """The GPU of each process on this machine; with --gpus-per-task=1 each process sees its own GPU only."""
    if gpus not in (1, processes) and gpus < processes:
        raise InputError(f"expected a GPU for each of {processes} processes on this machine, found {gpus}")
    return [torch.device("cuda", process % gpus) for process in range(processes)]


def uses_bf16(config: TrainConfig) -> bool:
    """Whether a run computes in bf16: as configured, or where the device supports it in hardware."""
    if config.precision != "auto":
        return config.precision == "bf16"
    if config.device != "cpu" and torch.cuda.is_available():
        # A T4 or an RTX 20xx would emulate it, slower than fp32.
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # A CPU without matrix or bf16 vector units only emulates it.
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


def placed(runtime: Runtime) -> dict[str, object]:
    """Where a run computes, as its manifest says it: device, processes, precision."""
    device = torch.cuda.get_device_name(runtime.device) if runtime.device.type == "cuda" else runtime.device.type
    return {"device": device, "processes": runtime.world_size, "precision": "bf16" if runtime.bf16 else "fp32"}
