"""The encoder as an ONNX graph: any number of images at once; if wanted, uint8 images of any size."""

import logging
import warnings
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from chartray.model_card.earlier import ONNX_FILE
from chartray.networks.encoder import PretrainedEncoder, tokens_of

INPUT, EMBEDDING, PATCH_TOKENS = "images", "embedding", "patch_tokens"


class _Graph(nn.Module):
    """Images -> embedding (B, D) and patch tokens (B, N, D).

    Images are standardised, (B, 1, size, size); with `preprocessing`, uint8 (B, H, W), dark = air.
    """

    def __init__(self, encoder: PretrainedEncoder, *, preprocessing: bool) -> None:
        super().__init__()
        self.model: VisionTransformer = encoder.model
        self._encoder, self._preprocessing = encoder, preprocessing

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if self._preprocessing:
            images = self._encoder.standardised(self._encoder.resized(images))
        tokens = tokens_of(self.model, images)
        return self.model.forward_head(tokens), tokens[:, self.model.num_prefix_tokens :]


def write_onnx(folder: Path, encoder: PretrainedEncoder, *, preprocessing: bool) -> None:
    """Writes model.onnx; its metadata say how images are prepared and what the encoder is."""
    size, dynamic = encoder.size, torch.export.Dim
    shape: dict[int, object] = {0: dynamic("batch")}
    example = torch.zeros(3, 1, size, size)
    if preprocessing:  # two unequal sides, neither of them the encoder's
        shape |= {1: dynamic("height"), 2: dynamic("width")}
        example = torch.zeros(3, size + 9, size + 2, dtype=torch.uint8)
    graph = _Graph(encoder, preprocessing=preprocessing).eval()
    with torch.inference_mode(False), warnings.catch_warnings(), redirect_stdout(StringIO()):
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            graph,
            (example,),
            dynamo=True,
            dynamic_shapes=(shape,),
            input_names=[INPUT],
            output_names=[EMBEDDING, PATCH_TOKENS],
            verbose=False,
        )
    assert program is not None
    given = "uint8, (batch, height, width), dark = air" if preprocessing else "float32, standardised"
    said = {
        "chartray.images": given,
        "chartray.size": str(size),
        "chartray.grey_mean": repr(encoder.grey_mean),
        "chartray.grey_std": repr(encoder.grey_std),
        "chartray.interpolation": encoder.interpolation,
    }
    program.model.metadata_props.update(said)
    program.save(folder / ONNX_FILE, external_data=False)
