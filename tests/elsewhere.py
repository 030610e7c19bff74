"""A second device without a GPU: tensors that are computed on the CPU, say that they lie elsewhere, and do not mix.

`with Elsewhere():` a tensor that is sent to torch's `meta` device keeps its numbers. What a GPU refuses is refused: a tensor
of either side in one operation with the other, numpy made of it, a CPU generator for it. Numbers come out as on the CPU,
gradients too, so that a path through the code that works here works on a GPU as far as devices go.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only

ELSEWHERE = torch.device("meta")
# These take tensors of both sides: copies, and indices that lie on the CPU (as CUDA's do).
_BETWEEN = {"copy_", "_to_copy"}
_INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}


class There(Tensor):
    """A tensor elsewhere; `held` is where its numbers are."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "There":
        made: There = Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=ELSEWHERE,
        )
        made.held = held
        return made

    def tolist(self) -> Any:
        return self.held.tolist()

    def __repr__(self) -> str:
        return f"There({self.held!r})"

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["held"], None

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, Tensor], context: None, size: Any, stride: Any) -> "There":
        return There(inner["held"])

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})


class Elsewhere(TorchDispatchMode):
    """While open, there is a second device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})


def _computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    name = func.overloadpacket.__name__
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    there = any(isinstance(tensor, There) for tensor in tensors)
    _refuse_mixing(name, args, tensors, there)
    named = kwargs.get("device")
    sent = there if named is None else torch.device(named).type == ELSEWHERE.type
    generator = kwargs.get("generator")
    if generator is not None and sent != (generator.device.type == ELSEWHERE.type):
        raise RuntimeError(f"expected a generator of the tensor's device in {func}, found one of {generator.device}")
    real_args, real_kwargs = tree_map_only(There, lambda tensor: tensor.held, (args, kwargs))
    if named is not None:
        real_kwargs["device"] = torch.device("cpu")
    made = func(*real_args, **real_kwargs)
    if not sent:
        return made.clone() if there and isinstance(made, Tensor) else made
    wrapped = tree_map_only(Tensor, There, made)
    return return_and_correct_aliasing(func, args, kwargs, wrapped) if there else wrapped


def _refuse_mixing(name: str, args: Any, tensors: list[Tensor], there: bool) -> None:
    if not there or name in _BETWEEN:
        return
    if name in _INDEXING:
        values = args[2:3] if name != "index" else ()
        tensors = [args[0], *(leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor))]
        if not isinstance(args[0], There):
            raise RuntimeError(f"expected indices on the CPU for a tensor on the CPU in {name}, found some elsewhere")
    # A number may lie on the CPU.
    strangers = [tensor for tensor in tensors if tensor.dim() and not isinstance(tensor, There)]
    if strangers:
        raise RuntimeError(f"expected all tensors on one device in {name}, found one of {strangers[0].shape} on the CPU")
