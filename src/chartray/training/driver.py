"""Why torch finds no GPU on a machine that has one: found before a run takes the processor for days."""

import os
import re
from pathlib import Path

import torch

from chartray.errors import InputError

# Any release of a CUDA needs at least the driver of its first one (NVIDIA's table of CUDA minor version compatibility).
_NEEDS = {11: "450.80", 12: "525.60", 13: "580.65"}
_VERSION, _DEVICE = Path("/proc/driver/nvidia/version"), Path("/dev/nvidiactl")
_HIDDEN = ("", "-1", "NoDevFiles")  # as SLURM says where a job has asked for none


def driver_version() -> str | None:
    """The version of the NVIDIA driver of this machine or of its host; None without one."""
    if not _VERSION.exists():
        return None
    # NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023
    found = re.match(r"NVRM version:.*?\s(\d+(?:\.\d+)+)\s", _VERSION.read_text(errors="replace"))
    return found[1] if found else "of unknown version"


def refuse_unusable_gpu(instead: str) -> None:
    """Raises InputError where this process was given a GPU that torch cannot use; `instead`: the option for the CPU."""
    if not torch.cuda.is_available() and (found := _in_the_way()):
        raise InputError(f"expected a GPU that torch can use, found {found}; or choose {instead}")


def _in_the_way() -> str | None:
    """What stands between torch and the GPU that this process was given; None where it was given none.

    A container, or a job that asked for no GPU, sees the driver of its host but no device of it.
    """
    if os.environ.get("CUDA_VISIBLE_DEVICES") in _HIDDEN or not (_VERSION.exists() and _DEVICE.exists()):
        return None
    driver = driver_version() or "of unknown version"
    cuda = torch.version.cuda
    if cuda is None:
        return f"NVIDIA driver {driver} and a torch without CUDA; install a torch with CUDA"
    needs = _NEEDS.get(int(cuda.partition(".")[0]))
    if needs and driver[0].isdecimal() and _numbers(driver) < _numbers(needs):
        return (
            f"NVIDIA driver {driver}, and CUDA {cuda} of this torch needs {needs} or newer; update the driver, or "
            "install a torch for an older CUDA"
        )
    return f"NVIDIA driver {driver}, and torch with CUDA {cuda} sees no GPU; look at what nvidia-smi says"


def _numbers(version: str) -> list[int]:
    return [int(each) for each in version.split(".")]
