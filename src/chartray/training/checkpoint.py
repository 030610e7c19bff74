"""Checkpoints: safetensors and JSON, written under a temporary name and renamed, kept to a number."""

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from chartray.errors import InputError

FORMAT = 1
_WEIGHTS, _OPTIMIZER, _STATE = "networks.safetensors", "optimizer.safetensors", "state.json"
_NAME = re.compile(r"step-(\d{6,})")


def save(
    folder: Path, step: int, networks: nn.Module, optimizer: Optimizer, state: Mapping[str, Any], *, keep: int
) -> Path:
    """Writes `folder/step-000123` whole or not at all, then deletes all but the newest `keep`.

    `state` is what else the loop must remember, as JSON.
    """
    final = folder / f"step-{step:06d}"
    temporary = folder / f".{final.name}.{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    save_file({name: value.contiguous() for name, value in networks.state_dict().items()}, temporary / _WEIGHTS)
    save_file(_optimizer_tensors(networks, optimizer), temporary / _OPTIMIZER)
    (temporary / _STATE).write_text(json.dumps({"format": FORMAT, "step": step} | dict(state)))
    for file in temporary.iterdir():
        with file.open("rb") as written:
            os.fsync(written.fileno())
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)
    for old in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return final


def list_checkpoints(folder: Path) -> list[Path]:
    """The finished checkpoints, oldest first."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


def restore(checkpoint: Path, networks: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """Loads a checkpoint into `networks` and `optimizer` and returns its state, `step` among it.

    Raises InputError if it is of another format or of another architecture.
    """
    state: dict[str, Any] = json.loads((checkpoint / _STATE).read_text())
    if state.get("format") != FORMAT:
        raise InputError(f"expected checkpoint format {FORMAT} in {checkpoint}, found {state.get('format')}")
    try:
        networks.load_state_dict(load_file(checkpoint / _WEIGHTS))
    except RuntimeError as error:
        raise InputError(
            f"checkpoint {checkpoint} is of another network: {' '.join(str(error).split())[:200]}"
        ) from None
    _load_optimizer(checkpoint / _OPTIMIZER, networks, optimizer)
    return state


def _optimizer_tensors(networks: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    names = {id(parameter): name for name, parameter in networks.named_parameters()}
    return {
        f"{names[id(parameter)]}/{key}": torch.as_tensor(value).contiguous()
        for parameter, entries in optimizer.state.items()
        for key, value in entries.items()
    }


def _load_optimizer(file: Path, networks: nn.Module, optimizer: Optimizer) -> None:
    parameters = dict(networks.named_parameters())
    on_device = {
        id(parameter)
        for group in optimizer.param_groups
        if group.get("fused") or group.get("capturable")
        for parameter in group["params"]
    }
    with safe_open(file, framework="pt") as stored:
        for key in stored.keys():  # noqa: SIM118  # safe_open is no mapping
            name, _, entry = key.rpartition("/")
            parameter, value = parameters[name], stored.get_tensor(key)
            # A step count lies on the device where the optimizer is fused; else each step would wait for it there.
            there = entry != "step" or id(parameter) in on_device
            optimizer.state[parameter][entry] = value.to(parameter.device) if there else value
