"""The weights in a .safetensors file: names and shapes alone, or all of them; no other file is opened."""

from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from chartray.errors import InputError


def shapes_of(file: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights in a file, without reading the weights."""
    try:
        with safe_open(file, framework="pt") as stored:
            return {name: tuple(stored.get_slice(name).get_shape()) for name in stored.keys()}  # noqa: SIM118  # no mapping
    except (OSError, SafetensorError) as error:
        raise InputError(f"expected weights in {file}, found {' '.join(str(error).split())[:200]}") from None


def read_weights(file: Path) -> dict[str, Tensor]:
    """The weights in a .safetensors file, by name; raises InputError for any other file."""
    if file.suffix != ".safetensors":
        raise InputError(
            f"expected a .safetensors file, found {file}; pickled weights are not loaded, convert them first"
        )
    try:
        return load_file(file)
    # The last three: a dtype that this torch lacks.
    except (OSError, SafetensorError, LookupError, AttributeError, ValueError) as error:
        raise InputError(f"expected weights in {file}, found {' '.join(str(error).split())[:200]}") from None
