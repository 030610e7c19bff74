"""The patch embedding as one matrix product."""

from timm.layers import PatchEmbed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn.functional import linear


class PatchConvolution(nn.Conv2d):
    """A convolution whose stride is its kernel size, as a matrix product of each patch.

    A GPU has no fast convolution of one channel, and by default rounds a float32 convolution to 10 bits.
    """

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W), multiples of the kernel -> (B, D, h, w)."""
        height, width = self.kernel_size
        count, channels, tall, wide = images.shape
        patches = images.reshape(count, channels, tall // height, height, wide // width, width)
        rows = patches.permute(0, 2, 4, 1, 3, 5).flatten(3)  # (B, h, w, C * height * width)
        return linear(rows, self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


def multiply_patches(model: VisionTransformer) -> None:
    """Makes timm's plain patch embedding a `PatchConvolution`; weights and their names stay."""
    embedding = model.patch_embed
    if type(embedding) is PatchEmbed and type(embedding.proj) is nn.Conv2d:
        embedding.proj.__class__ = PatchConvolution
