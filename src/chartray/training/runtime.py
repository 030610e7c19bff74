"""Device, precision and processes of a run: one process, or those that torchrun or SLURM started."""

import atexit
import os
import re
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import NamedTuple

import torch
import torch.distributed as dist

from chartray.config.pretrain import TrainConfig
from chartray.errors import InputError, LostProcess
from chartray.memory import keep_freed_memory
from chartray.training.driver import refuse_unusable_gpu

# NCCL's own is 10 minutes, in which a slow disk may not have written a checkpoint.
_ANSWERS_WITHIN = timedelta(minutes=30)
_MEET = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


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
    if config.device == "cuda" and not torch.cuda.is_available():
        raise InputError("train.device is cuda, but torch finds no GPU on this machine; use --train.device cpu")
    cuda = config.device != "cpu" and torch.cuda.is_available()
    if not cuda and config.device == "auto":
        refuse_unusable_gpu("--train.device cpu")
    if not cuda:
        keep_freed_memory()
    world, here = processes()
    if config.batch_size % world:
        raise InputError(
            f"expected train.batch_size to be a multiple of the {world} processes, found {config.batch_size}"
        )
    devices = _devices(here, torch.cuda.device_count()) if cuda else [torch.device("cpu")] * here
    if world == 1:
        runtime = Runtime(devices[0], bf16=uses_bf16(config))
    else:
        _export_torchrun_variables(world, here)
        _need_torchrun_variables(world)
        runtime = Runtime(devices[int(os.environ["LOCAL_RANK"])], int(os.environ["RANK"]), world, uses_bf16(config))
    if cuda:
        torch.cuda.set_device(runtime.device)
    if world > 1:
        _meet(runtime)
    if runtime.is_first:
        print(_where(runtime.device, world, runtime.bf16), flush=True)
        if config.device == "auto" and torch.backends.mps.is_available():
            print("Apple's GPU is not supported (only NVIDIA's are): training on the CPU", flush=True)
    return runtime


def _meet(runtime: Runtime) -> None:
    """Joins the other processes of the run, at the address that torchrun's variables name."""
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
    # A process that exits while gloo's threads run may be aborted.
    atexit.register(_leave)


def _where(device: torch.device, world: int, bf16: bool) -> str:
    """Device, precision and processes of a run, in one line."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    processes = f", {world} processes" if world > 1 else ""
    return f"training on {name}{processes}, in {'bf16' if bf16 else 'fp32'}"


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _devices(processes: int, gpus: int) -> list[torch.device]:
    """The GPU of each process on this machine; with --gpus-per-task=1 each process sees its own GPU only."""
    if gpus not in (1, processes) and gpus < processes:
        raise InputError(f"expected a GPU for each of {processes} processes on this machine, found {gpus}")
    return [torch.device("cuda", process % gpus) for process in range(processes)]


def _export_torchrun_variables(world: int, here: int) -> None:
    """Sets torchrun's variables from those of the srun step, unless torchrun did."""
    if "WORLD_SIZE" in os.environ:
        return
    srun = os.environ
    nodes = srun.get("SLURM_STEP_NODELIST", srun.get("SLURM_NODELIST", "127.0.0.1"))
    # A port for each step of each job, since several may run on one node.
    port = 15_000 + (17 * int(srun.get("SLURM_JOB_ID", "0")) + int(srun["SLURM_STEP_ID"])) % 10_000
    os.environ |= {
        "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(here),
        "RANK": srun["SLURM_PROCID"],
        "LOCAL_RANK": srun["SLURM_LOCALID"],
        "GROUP_RANK": srun.get("SLURM_NODEID", "0"),
        "MASTER_ADDR": srun.get("MASTER_ADDR", first_node(nodes)),
        "MASTER_PORT": srun.get("MASTER_PORT", str(port)),
    }


def _need_torchrun_variables(world: int) -> None:
    missing = [name for name in _MEET if not os.environ.get(name)]
    if missing:
        raise InputError(
            f"expected {' and '.join(missing)} beside WORLD_SIZE={world}, as torchrun sets them, found none; start "
            "the run with torchrun or srun, or unset WORLD_SIZE"
        )


def first_node(nodes: str) -> str:
    """The first host of a node list as SLURM writes it.

    >>> first_node("gpu[05-09,12],cpu1"), first_node("gpu[7]"), first_node("gpu1,gpu2"), first_node("a[1-2]-ib")
    ('gpu05', 'gpu7', 'gpu1', 'a1-ib')
    """
    return re.split(r"[, ]", re.sub(r"\[(\w+)[^\]]*\]", r"\1", nodes), maxsplit=1)[0]


def processes() -> tuple[int, int]:
    """The number of processes of the run, and of those on this machine: torchrun's, srun's, or one.

    Raises InputError if srun's tasks are spread unevenly over the nodes.
    """
    if "WORLD_SIZE" in os.environ:
        world = int(os.environ["WORLD_SIZE"])
        return world, int(os.environ.get("LOCAL_WORLD_SIZE", world))
    # Only a step that srun started has an id; a batch script alone is one process, whatever its allocation.
    if "SLURM_STEP_ID" not in os.environ:
        return 1, 1
    world = int(os.environ.get("SLURM_STEP_NUM_TASKS", os.environ.get("SLURM_NTASKS", "1")))
    nodes = int(os.environ.get("SLURM_STEP_NUM_NODES", os.environ.get("SLURM_NNODES", "1")))
    if world % nodes:
        raise InputError(
            f"expected as many tasks on each of {nodes} nodes, found {world} in all; set --ntasks-per-node"
        )
    return world, world // nodes


def is_first_process() -> bool:
    """Whether this process is the one that prints and writes."""
    return os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0" or processes()[0] == 1


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


def placed(train: TrainConfig, runtime: Runtime) -> dict[str, object]:
    """Where a run computes, as its manifest says it: device, processes, precision."""
    device = torch.cuda.get_device_name(runtime.device) if runtime.device.type == "cuda" else runtime.device.type
    precision = "bf16" if uses_bf16(train) else "fp32"
    return {"device": device, "processes": runtime.world_size, "precision": precision}
