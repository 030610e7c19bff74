"""Checkpoints: safetensors and JSON, written atomically, sealed, verified before loading; the newest few are kept."""

import json
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from chartray.errors import InputError
from chartray.outputs.disk import writing
from chartray.outputs.json_file import read_object
from chartray.outputs.replacing import replaced_folder, settle
from chartray.outputs.seal import SUMS_FILE, verify

FORMAT = 2
_WEIGHTS, _OPTIMIZER, _STATE = "networks.safetensors", "optimizer.safetensors", "state.json"
_NAME = re.compile(r"step-(\d{6,})")
_LEFT = re.compile(r"\.(step-\d{6,})\.(?:partial|earlier)")
# The state of Adam and AdamW for each parameter.
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def save(
    folder: Path, step: int, networks: nn.Module, optimizer: Optimizer, state: Mapping[str, Any], *, keep: int
) -> Path:
    """Writes `folder/step-000123` atomically, then deletes all but the newest `keep`.

    `state` is the rest of the loop's state, as JSON. Raises OutputError where the machine cannot write; the earlier
    checkpoints are then unchanged.
    """
    final = folder / f"step-{step:06d}"
    without = [
        name for name, parameter in _optimised(networks, optimizer).items() if not optimizer.state.get(parameter)
    ]
    content = {"format": FORMAT, "step": step, "without_moments": without} | dict(state)
    with replaced_folder(final) as partial:
        save_file({name: value.contiguous() for name, value in networks.state_dict().items()}, partial / _WEIGHTS)
        save_file(_moments(networks, optimizer), partial / _OPTIMIZER)
        (partial / _STATE).write_text(json.dumps(content), encoding="utf-8")
    with writing(folder):
        for old in list_checkpoints(folder)[:-keep]:
            (old / SUMS_FILE).unlink(missing_ok=True)  # first, so that a half-deleted checkpoint is not taken for one
            shutil.rmtree(old)
    return final


def size(networks: nn.Module, optimizer: Optimizer) -> int:
    """Bytes of the weights and moments of a checkpoint, once a step has made the moments."""
    return sum(value.nbytes for value in (*networks.state_dict().values(), *_moments(networks, optimizer).values()))


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints, oldest first, not verified."""
    if not folder.is_dir():
        return []
    for path in list(folder.iterdir()):
        if left := _LEFT.fullmatch(path.name):
            settle(folder / left[1])
    found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


def newest_intact(folder: Path) -> Path | None:
    """The newest intact checkpoint; None if there are no checkpoints.

    Damaged newer ones are named on standard error. Raises InputError if all are damaged.
    """
    found = list_checkpoints(folder)
    damaged: list[str] = []
    for checkpoint in reversed(found):
        try:
            verify(checkpoint, (_WEIGHTS, _OPTIMIZER, _STATE))
        except InputError as error:
            damaged.append(str(error))
            continue
        for sentence in damaged:
            print(f"chartray: going back to {checkpoint.name}: {sentence}", file=sys.stderr, flush=True)
        return checkpoint
    if damaged:
        raise InputError(
            f"expected an intact checkpoint in {folder}, found {len(found)}, all damaged ({damaged[0]}); restore a "
            "copy of one, or start again in another folder"
        )
    return None


def restore(checkpoint: Path, networks: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """Loads a checkpoint into `networks` and `optimizer` and returns its state, which includes `step`.

    Raises InputError if it was changed, has another format, or is of another network: names and shapes must match
    exactly.
    """
    verify(checkpoint, (_WEIGHTS, _OPTIMIZER, _STATE))
    state = read_object(checkpoint / _STATE, "the state of a checkpoint")
    if state.get("format") != FORMAT:
        raise InputError(
            f"expected checkpoint format {FORMAT} in {checkpoint}, found {str(state.get('format'))[:20]}; resume "
            "with the Chartray that wrote it, or start again in another folder"
        )
    step, without = state.get("step"), state.get("without_moments")
    if type(step) is not int or checkpoint.name != f"step-{step:06d}" or not isinstance(without, list):
        raise InputError(
            f"expected the step of its folder's name and without_moments in {checkpoint / _STATE}, found others; "
            "restore a complete copy of it, or start again in another folder"
        )
    weights, moments = (_read(checkpoint / name) for name in (_WEIGHTS, _OPTIMIZER))
    _expect(_shapes(networks.state_dict()), weights, checkpoint)
    expected = _expected_moments(networks, optimizer, set(map(str, without)))
    _expect({name: shape for name, (_, _, shape) in expected.items()}, moments, checkpoint)
    networks.load_state_dict(weights)
    on_device = {
        id(parameter)
        for group in optimizer.param_groups
        if group.get("fused") or group.get("capturable")
        for parameter in group["params"]
    }
    for name, (parameter, entry, _) in expected.items():
        # A fused optimizer counts its steps on the device; another would wait there for the count at each step.
        there = entry != "step" or id(parameter) in on_device
        optimizer.state[parameter][entry] = moments[name].to(parameter.device) if there else moments[name]
    return state


def _optimised(networks: nn.Module, optimizer: Optimizer) -> dict[str, nn.Parameter]:
    """The parameters that the optimizer updates, by their names in the networks."""
    moved = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    return {name: parameter for name, parameter in networks.named_parameters() if id(parameter) in moved}


def _moments(networks: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    return {
        f"{name}/{entry}": torch.as_tensor(value).contiguous()
        for name, parameter in _optimised(networks, optimizer).items()
        for entry, value in optimizer.state.get(parameter, {}).items()
    }


def _expected_moments(
    networks: nn.Module, optimizer: Optimizer, without: set[str]
) -> dict[str, tuple[nn.Parameter, str, tuple[int, ...]]]:
    """By name: the parameter, the entry of its state, and the entry's shape."""
    return {
        f"{name}/{entry}": (parameter, entry, () if entry == "step" else tuple(parameter.shape))
        for name, parameter in _optimised(networks, optimizer).items()
        if name not in without
        for entry in _MOMENTS
    }


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in tensors.items()}


def _expect(wanted: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Tensor], checkpoint: Path) -> None:
    found = _shapes(tensors)
    for name in (*wanted, *found):
        if wanted.get(name) != found.get(name):
            shapes = [str(each.get(name, "none")) for each in (wanted, found)]
            raise InputError(
                f"expected {name} of shape {shapes[0]} in {checkpoint}, found {shapes[1]}: this checkpoint is of "
                "another network; start in another folder, or with the settings that it was made with"
            )


def _read(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise InputError(f"expected tensors in {file}, found {' '.join(str(error).split())[:200]}") from None
