"""What the numbers were measured on, with the device's measured matrix-product peak."""

import os
import platform
import time
from pathlib import Path
from typing import NamedTuple

import torch

from chartray.cores import available_cores
from chartray.errors import InputError


class Machine(NamedTuple):
    """The device and what it can do: `tflops` are those of large bf16 matrix products, measured here."""

    device: str
    processor: str
    cores: int
    accelerator: str | None
    memory_gib: float
    torch: str
    python: str
    tflops_bf16: float
    tflops_fp32: float

    @property
    def sentence(self) -> str:
        """The machine in a line."""
        where = self.accelerator or f"{self.cores} cores of {self.processor}"
        return (
            f"{where}, {self.memory_gib:.0f} GiB, torch {self.torch}, Python {self.python}; matrix products "
            f"{self.tflops_bf16:.2f} TFLOP/s in bf16, {self.tflops_fp32:.2f} in fp32"
        )


def describe_machine(device: str) -> Machine:
    """Measures the device asked for (auto: the GPU where there is one).

    Raises InputError for cuda on a machine that shows torch no GPU.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("expected a GPU for --device cuda, found none that torch sees; use --device cpu")
    device = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
    return Machine(
        device=device,
        processor=_processor(),
        cores=available_cores(),
        accelerator=torch.cuda.get_device_name() if device == "cuda" else None,
        memory_gib=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30,
        torch=torch.__version__,
        python=platform.python_version(),
        tflops_bf16=matrix_product_peak(device, torch.bfloat16),
        tflops_fp32=matrix_product_peak(device, torch.float32),
    )


def matrix_product_peak(device: str, dtype: torch.dtype) -> float:
    """TFLOP/s of square matrix products of `dtype`, the best of a second or so: what a step's share is a share of."""
    size = 8192 if device == "cuda" else 1536
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best = 0.0
    until = time.perf_counter() + 1.5
    while time.perf_counter() < until:
        began = time.perf_counter()
        _ = a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        best = max(best, 2 * size**3 / (time.perf_counter() - began) / 1e12)
    return best


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((each.split(":", 1)[1].strip() for each in lines if each.startswith("model name")), platform.machine())
