"""The forms that an encoder and its embeddings are written in, and what each needs, without torch."""

from typing import Literal, get_args

from chartray.errors import InputError
from chartray.extras import need_extra

Form = Literal["timm", "huggingface", "onnx"]
EmbeddingForm = Literal["parquet", "npy", "projector"]


def check_form(to: str, *, preprocessing: bool) -> None:
    """Raises InputError for an unknown form, options that do not belong to it, or an extra that it lacks."""
    if to not in get_args(Form):
        raise InputError(f"expected --to timm, huggingface or onnx, found {to!r:.40}")
    if preprocessing and to != "onnx":
        raise InputError(f"expected --preprocessing only with --to onnx, found --to {to}; leave it out")
    if to == "onnx":
        need_extra("onnx", "--to onnx")
