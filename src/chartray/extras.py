"""Extras of the installation: what a command needs beyond the default install, and how it is got."""

from importlib.util import find_spec

from chartray.errors import InputError

# Those that pyproject.toml declares, by the names that Python imports.
PACKAGES = {
    "dask": ("distributed",),
    "huggingface": ("transformers",),
    "mlflow": ("mlflow",),
    "onnx": ("onnx", "onnxruntime", "onnxscript"),
    "postgres": ("psycopg",),
    "wandb": ("wandb",),
}


def missing(extra: str) -> list[str]:
    """The packages of an extra that are not installed; none is imported."""
    return [name for name in PACKAGES[extra] if find_spec(name) is None]


def how_to_install(extra: str) -> str:
    """The end of a sentence.

    >>> how_to_install("onnx")
    'install Chartray with its extra: onnx (pip install "chartray[onnx]")'
    """
    return f'install Chartray with its extra: {extra} (pip install "chartray[{extra}]")'


def need_extra(extra: str, option: str) -> None:
    """Raises InputError unless the packages of `extra`, which `option` needs, are installed."""
    if absent := missing(extra):
        raise InputError(f"expected {' and '.join(absent)} for {option}, found none; {how_to_install(extra)}")
