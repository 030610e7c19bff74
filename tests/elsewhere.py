"""A second device without a GPU: tensors that are computed on the CPU, say that they lie elsewhere, and do not mix.

`with Elsewhere():` a tensor that is sent to torch's `meta` device keeps its numbers. What a GPU refuses is refused:
tensors of both sides in one operation, numpy made of one that lies elsewhere, a CPU generator for it. So are indices on
the CPU, which a GPU takes, and waits for. Numbers come out as on the CPU, gradients too: a path through the code that
works here works on a GPU as far as devices go.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only

ELSEWHERE = torch.device("meta")
# These take tensors of both sides.
_BETWEEN = {"copy_", "_to_copy"}
# These return to Python, or know a size, only once a GPU has worked off what is queued.
_WAITED_FOR = {"_local_scalar_dense", "bincount", "nonzero", "masked_select", "_unique2", "equal", "is_nonzero"}


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
        return self.cpu().tolist()

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
    """While open, there is a second device; not for several threads, and no tensor of it outlives it.

    It counts what a GPU's link would see: `sent`, the bytes of each copy there, and `waits`, by what is waited for.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[int] = []
        self.waits: Counter[str] = Counter()

    def __enter__(self) -> "Elsewhere":
        self._before = (torch.tensor, torch.as_tensor, torch.inference_mode)
        # These make tensors where no mode sees it, and inference tensors have no place for what is held.
        torch.tensor, torch.as_tensor = _sent(torch.tensor), _sent(torch.as_tensor)
        torch.inference_mode = torch.no_grad
        # `Module.to` then makes new parameters, since those of the CPU cannot hold what lies elsewhere.
        self._overwritten = torch.__future__.get_overwrite_module_params_on_conversion()
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        torch.tensor, torch.as_tensor, torch.inference_mode = self._before
        torch.__future__.set_overwrite_module_params_on_conversion(self._overwritten)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = _computed(func, args, kwargs or {})
        name = func.overloadpacket.__name__
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        there = any(isinstance(tensor, There) for tensor in tensors)
        if there and name in _WAITED_FOR:
            self.waits[name] += 1
        if name in _BETWEEN and there and not isinstance(made, There):
            self.waits["read"] += 1
        if name in _BETWEEN and isinstance(made, There) and not all(isinstance(tensor, There) for tensor in tensors):
            self.sent.append(made.numel() * made.element_size())
        return made


def _sent(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`torch.tensor` and the like: made on the CPU, then sent."""

    def made(*args: Any, device: Any = None, **options: Any) -> Tensor:
        tensor = make(*args, **options)
        return tensor if device is None else tensor.to(device)

    return made


def _computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    name = func.overloadpacket.__name__
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    there = any(isinstance(tensor, There) for tensor in tensors)
    if name == "_has_compatible_shallow_copy_type":  # may a parameter's tensor be exchanged for the other?
        return type(args[0]) is type(args[1])
    if any(tensor.is_meta and not isinstance(tensor, There) for tensor in tensors):
        raise AssertionError(f"a tensor of {func} was made on the meta device where nobody saw it")
    _refuse_mixing(name, tensors, there)
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


def _refuse_mixing(name: str, tensors: list[Tensor], there: bool) -> None:
    if not there or name in _BETWEEN:
        return
    # A number may lie on the CPU.
    strangers = [tensor for tensor in tensors if tensor.dim() and not isinstance(tensor, There)]
    if strangers:
        raise RuntimeError(
            f"expected all tensors on one device in {name}, found one of {strangers[0].shape} on the CPU"
        )
