"""First weights as the official MSN code draws them, where timm's and torch's own differ (docs/method.md)."""

from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import nn

_SPREAD = 0.02  # standard deviation of linear layers and of the class token


def draw_encoder(model: VisionTransformer | Eva) -> None:
    """Patch embedding: Kaiming normal for a ReLU, no bias at first; class token: normal, as positions already are.

    One grey channel drawn so has the spread of the official three colours that all show the same grey.
    """
    patch = model.patch_embed.proj
    nn.init.kaiming_normal_(patch.weight, mode="fan_in", nonlinearity="relu")
    if patch.bias is not None:
        nn.init.zeros_(patch.bias)
    if model.cls_token is not None:
        nn.init.trunc_normal_(model.cls_token, std=_SPREAD)


def draw_linear_layers(head: nn.Module) -> None:
    """The linear layers of a head: normal, biases 0."""
    for layer in head.modules():
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=_SPREAD)
            nn.init.zeros_(layer.bias)
