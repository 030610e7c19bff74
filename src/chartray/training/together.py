"""What one process of a run decides or cannot do, all of them learn: none goes on alone, none waits for ever."""

import json
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from chartray.errors import InputError, OutputError
from chartray.training.runtime import all_sum

Made = TypeVar("Made")
_KINDS = {kind.__name__: kind for kind in (InputError, OutputError)}


def first_decides(decide: Callable[[], Any], device: torch.device) -> Any:
    """What `decide` returns in the first process (JSON), in all of them; what it raises there is raised in all."""
    if _world() == 1:
        return decide()
    said: dict[str, Any] = {}
    failed: Exception | None = None
    if dist.get_rank() == 0:
        try:
            said["decided"] = decide()
        except Exception as error:  # told to the others, then raised as it is
            failed = error
            said |= {"kind": type(error).__name__, "sentence": str(error)}
    said = _from_first(said, device)
    if failed is not None:
        raise failed
    if "kind" in said:
        raise _KINDS.get(said["kind"], OutputError)(said["sentence"])
    return said["decided"]


def all_or_none(work: Callable[[], Made], device: torch.device) -> Made:
    """What `work` returns in each process; where it fails in one, none of them goes on."""
    if _world() == 1:
        return work()
    made, failed = None, None
    try:
        made = work()
    except Exception as error:  # counted by the others, then raised as it is
        failed = error
    failures = int(all_sum(torch.tensor(float(failed is not None), device=device)).item())
    if failed is not None:
        raise failed
    if failures:
        raise InputError(f"{failures} of {_world()} processes of this run cannot go on, as they say themselves")
    assert made is not None
    return made


def any_of_all(flags: list[bool], device: torch.device) -> list[bool]:
    """For each flag, whether it is set in any process."""
    if _world() == 1:
        return flags
    return (all_sum(torch.tensor([float(flag) for flag in flags], device=device)) > 0).tolist()


def _world() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def _from_first(said: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """JSON of the first process: its length, then its bytes."""
    own = torch.tensor(list(json.dumps(said).encode()), dtype=torch.uint8, device=device)
    length = torch.tensor(len(own), device=device)
    dist.broadcast(length, src=0)
    sent: Tensor = own if dist.get_rank() == 0 else torch.empty(int(length), dtype=torch.uint8, device=device)
    dist.broadcast(sent, src=0)
    told: dict[str, Any] = json.loads(bytes(sent.tolist()))
    return told
