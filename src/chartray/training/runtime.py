"""Device, precision and processes, through Lightning Fabric: one process, torchrun or SLURM."""

import atexit
import logging
import os

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy

from chartray.config.pretrain import TrainConfig
from chartray.errors import InputError
from chartray.memory import keep_freed_memory
from chartray.training.driver import refuse_unusable_gpu


def launch(config: TrainConfig) -> Fabric:
    """A Fabric on the chosen device, in as many processes as torchrun or SLURM started (one otherwise).

    Raises InputError if this machine lacks the device or has a GPU that torch cannot use, or if the batch cannot be
    divided by the processes.
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
    _export_torchrun_variables(world, here)
    # Fabric's own messages would precede the error of a command that is refused.
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    fabric = Fabric(
        accelerator="cuda" if cuda else "cpu",
        devices=len(set(devices)) if cuda else here,
        num_nodes=max(world // here, 1),
        strategy=DDPStrategy(parallel_devices=devices) if world > 1 else "auto",
        precision="bf16-mixed" if uses_bf16(config) else "32-true",
        # Explicit, since Fabric would take one process inside a SLURM allocation for one of several.
        plugins=[TorchElasticEnvironment() if world > 1 else LightningEnvironment()],
    )
    fabric.launch()
    if world > 1:
        # Fabric does so for NCCL alone; a process that exits while gloo's threads run may be aborted.
        atexit.register(_leave)
    if fabric.is_global_zero:
        print(_where(fabric.device, world, uses_bf16(config)), flush=True)
        if config.device == "auto" and torch.backends.mps.is_available():
            print("Apple's GPU is not supported (only NVIDIA's are): training on the CPU", flush=True)
    return fabric


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
    """Sets torchrun's variables from those of the srun step: Fabric would read those of the whole job."""
    if world == 1 or "WORLD_SIZE" in os.environ:
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
        "MASTER_ADDR": srun.get("MASTER_ADDR", SLURMEnvironment.resolve_root_node_address(nodes)),
        "MASTER_PORT": srun.get("MASTER_PORT", str(port)),
    }


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


def placed(train: TrainConfig, fabric: Fabric) -> dict[str, object]:
    """Where a run computes, as its manifest says it: device, processes, precision."""
    device = torch.cuda.get_device_name(fabric.device) if fabric.device.type == "cuda" else fabric.device.type
    precision = "bf16" if uses_bf16(train) else "fp32"
    return {"device": device, "processes": fabric.world_size, "precision": precision}
