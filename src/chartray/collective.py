"""Sums over the processes of a run, and what they decide together. With one process nothing is sent.

What one process decides or cannot do, all of them learn: none continues alone, and none waits forever.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from chartray.errors import InputError, LostProcess, OutputError
from chartray.memory import ran_out

Made = TypeVar("Made")
# What gloo and NCCL say of a process that has ended, or is not heard of, where they raise no DistError.
_SIGNS_OF_LOSS = ("Connection closed by peer", "Connection reset by peer", "Timed out waiting", "Broken pipe")
_KINDS = {kind.__name__: kind for kind in (InputError, OutputError)}
# While a step is tried: before each sum the processes tell each other whether memory has run out in any of them.
_trying = False


class _RanOutElsewhere(Exception):
    """Memory has run out in another process."""


class _AllSum(torch.autograd.Function):
    """Sum over processes; the gradient of a sum is the sum of the gradients."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return _summed(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _summed(gradients[0])


def _summed(tensor: Tensor) -> Tensor:
    total = tensor.contiguous().clone()  # memory may run out here, before the others are waited for
    _tell_while_trying()
    dist.all_reduce(total)
    return total


def all_sum(tensor: Tensor) -> Tensor:
    """Adds a tensor over the processes of the run, differentiably; with one process it is the identity."""
    if process_count() == 1:
        return tensor
    total: Tensor = _AllSum.apply(tensor)
    return total


def gathered(tensor: Tensor) -> tuple[Tensor, int]:
    """The rows of all processes, differentiably, and where this process's begin: (B, ...) -> (processes * B, ...)."""
    if process_count() == 1:
        return tensor, 0
    first = dist.get_rank() * len(tensor)
    rows = tensor.new_zeros((process_count() * len(tensor), *tensor.shape[1:]))
    # With its own rows alone filled in, each process's share of a sum.
    return all_sum(torch.cat((rows[:first], tensor, rows[first + len(tensor) :]))), first


@torch.no_grad()
def average_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Averages the gradients over processes in one flat all-reduce; with one process nothing happens."""
    if process_count() == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    _tell_while_trying()
    dist.all_reduce(flat)
    flat /= process_count()
    means = torch.split(flat, [gradient.numel() for gradient in gradients])
    torch._foreach_copy_(gradients, [mean.view_as(gradient) for mean, gradient in zip(means, gradients, strict=True)])


@torch.no_grad()
def take_from_first(tensors: Iterable[Tensor]) -> None:
    """Gives these tensors, in place, the values that they have in the first process."""
    if process_count() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, src=0)


@contextmanager
def no_process_lost() -> Iterator[None]:
    """Raises LostProcess where another process of the run has ended, or does not answer until the timeout."""
    try:
        yield
    except RuntimeError as error:
        if process_count() == 1 or not (
            isinstance(error, dist.DistError) or any(sign in str(error) for sign in _SIGNS_OF_LOSS)
        ):
            raise
        raise LostProcess(
            f"another of the {process_count()} processes of this run has ended or does not answer; it says why where "
            "it was not killed; the last checkpoint is whole: continue with --resume"
        ) from error


class _Message(NamedTuple):
    """What the first process tells the others: what it decided, or the kind and sentence of its error."""

    decided: Any = None
    kind: str = ""
    sentence: str = ""


def first_decides(decide: Callable[[], Any], device: torch.device) -> Any:
    """What `decide` returns in the first process (JSON), in all of them; what it raises there is raised in all."""
    if process_count() == 1:
        return decide()
    message = _Message()
    failed: Exception | None = None
    if dist.get_rank() == 0:
        try:
            message = _Message(decide())
        except Exception as error:  # sent to the others, then raised as it is
            failed = error
            message = _Message(None, type(error).__name__, str(error))
    message = _from_first(message, device)
    if failed is not None:
        raise failed
    if message.kind:
        raise _KINDS.get(message.kind, OutputError)(message.sentence)
    return message.decided


def all_or_none(work: Callable[[], Made], device: torch.device) -> Made:
    """What `work` returns in each process; where it fails in one, all of them stop."""
    if process_count() == 1:
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
        raise InputError(f"{failures} of {process_count()} processes of this run failed; each prints its own error")
    assert made is not None
    return made


def tried(work: Callable[[], Made], *, last: bool) -> Made | None:
    """What `work` returns; None in all processes where memory has run out in any of them.

    Until then the others may have begun a sum that the one without memory never comes to: before each of them, all
    processes tell each other how they are. With `last` an error is raised instead: the own one, or InputError.
    """
    global _trying
    _trying, elsewhere = process_count() > 1, False
    try:
        made = work()
        _tell_while_trying()
        return made
    except _RanOutElsewhere:
        if last:
            raise InputError(f"memory ran out in another of the {process_count()} processes, which says more") from None
    except Exception as error:
        if _trying:
            elsewhere = _tell(ran_out(error))
        if last or not (ran_out(error) or elsewhere):
            raise
    finally:
        _trying = False
    return None


def _tell_while_trying() -> None:
    if _trying and _tell(False):
        raise _RanOutElsewhere


def _tell(out: bool) -> bool:
    """Whether memory has run out in any process."""
    told = torch.tensor(int(out))
    dist.all_reduce(told, group=_for_hosts(dist.group.WORLD))
    return bool(told.item())


@cache
def _for_hosts(world: dist.ProcessGroup) -> Any:  # torch types a group of others as well
    """A group that sends between hosts: to tell something through GPUs, each would wait for what it computes."""
    return world if dist.get_backend(world) == "gloo" else dist.new_group(backend="gloo")


def largest(number: int, device: torch.device) -> int:
    """The largest of the processes' numbers, in all of them."""
    if process_count() == 1:
        return number
    found = torch.tensor(number, device=device)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return int(found.item())


def any_of_all(flags: list[bool], device: torch.device) -> list[bool]:
    """For each flag, whether it is set in any process."""
    if process_count() == 1:
        return flags
    return (all_sum(torch.tensor([float(flag) for flag in flags], device=device)) > 0).tolist()


def leave() -> None:
    """Leaves the other processes of the run; before a process exits.

    Gloo's threads end with the last reference to its group. One that still frees a tensor while Python ends aborts the
    process, and torchrun then reports a run that was finished as failed.
    """
    _for_hosts.cache_clear()
    if dist.is_initialized():
        dist.destroy_process_group()


def process_count() -> int:
    """The processes of this run."""
    return dist.get_world_size() if dist.is_initialized() else 1


def process_rank() -> int:
    """The number of this process among them."""
    return dist.get_rank() if dist.is_initialized() else 0


def _from_first(message: _Message, device: torch.device) -> _Message:
    """JSON of the first process: its length, then its bytes."""
    own = torch.tensor(list(json.dumps(message).encode()), dtype=torch.uint8, device=device)
    length = torch.tensor(len(own), device=device)
    dist.broadcast(length, src=0)
    sent: Tensor = own if dist.get_rank() == 0 else torch.empty(int(length), dtype=torch.uint8, device=device)
    dist.broadcast(sent, src=0)
    return _Message(*json.loads(bytes(sent.tolist())))
