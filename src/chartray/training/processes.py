"""The processes of a run, as torchrun or srun describes them to each: read before torch is imported."""

import os
import re

from chartray.errors import InputError


def processes() -> tuple[int, int]:
    """The number of processes of the run, and of those on this machine: torchrun's, srun's, or one.

    Raises InputError if srun's tasks are spread unevenly over the nodes.
    """
    if "WORLD_SIZE" in os.environ:
        world = _number("WORLD_SIZE")
        return world, _number("LOCAL_WORLD_SIZE", otherwise=world)
    # Only a step that srun started has an id; a batch script alone is one process, whatever its allocation.
    if "SLURM_STEP_ID" not in os.environ:
        return 1, 1
    world = _number("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", otherwise=1)
    nodes = _number("SLURM_STEP_NUM_NODES", "SLURM_NNODES", otherwise=1)
    if world % nodes:
        raise InputError(
            f"expected as many tasks on each of {nodes} nodes, found {world} in all; set --ntasks-per-node"
        )
    return world, world // nodes


def is_first_process() -> bool:
    """Whether this process is the one that prints and writes."""
    return os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0" or processes()[0] == 1


def refuse_uneven(batch_size: int) -> None:
    """Raises InputError unless the processes of the run can share its batches."""
    world, _ = processes()
    if batch_size % world:
        raise InputError(f"expected train.batch_size to be a multiple of the {world} processes, found {batch_size}")


def place_of_process() -> tuple[int, int]:
    """The number of this process in the run, and on this machine; where they meet is left in torchrun's variables.

    Raises InputError if a launcher other than torchrun and srun has set a part of them.
    """
    if "WORLD_SIZE" not in os.environ:
        _as_torchrun()
    missing = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing:
        raise InputError(
            f"expected {' and '.join(missing)} beside WORLD_SIZE={os.environ['WORLD_SIZE']}, as torchrun sets them, "
            "found none; start the run with torchrun or srun, or unset WORLD_SIZE"
        )
    return _number("RANK"), _number("LOCAL_RANK")


def _as_torchrun() -> None:
    """Sets torchrun's variables from those of the srun step."""
    srun, (world, here) = os.environ, processes()
    nodes = srun.get("SLURM_STEP_NODELIST", srun.get("SLURM_NODELIST", "127.0.0.1"))
    # A port for each step of each job, since several may run on one node.
    port = 15_000 + (17 * _number("SLURM_JOB_ID", otherwise=0) + _number("SLURM_STEP_ID")) % 10_000
    os.environ |= {
        "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(here),
        "RANK": srun.get("SLURM_PROCID", ""),
        "LOCAL_RANK": srun.get("SLURM_LOCALID", ""),
        "GROUP_RANK": srun.get("SLURM_NODEID", "0"),
        "MASTER_ADDR": srun.get("MASTER_ADDR", first_node(nodes)),
        "MASTER_PORT": srun.get("MASTER_PORT", str(port)),
    }


def _number(*names: str, otherwise: int | None = None) -> int:
    """The number in the first of these variables that is set."""
    name = next((name for name in names if name in os.environ), None)
    if name is None and otherwise is not None:
        return otherwise
    found = os.environ.get(name or names[0], "")
    if not found.isdecimal():
        raise InputError(f"expected a number in the variable {name or names[0]}, found {found[:40]!r}")
    return int(found)


def first_node(nodes: str) -> str:
    """The first host of a node list as SLURM writes it.

    >>> first_node("gpu[05-09,12],cpu1"), first_node("gpu[7]"), first_node("gpu1,gpu2"), first_node("a[1-2]-ib")
    ('gpu05', 'gpu7', 'gpu1', 'a1-ib')
    """
    return re.split(r"[, ]", re.sub(r"\[(\w+)[^\]]*\]", r"\1", nodes), maxsplit=1)[0]
