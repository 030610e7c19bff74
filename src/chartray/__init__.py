"""Chartray pretrains chest X-ray encoders with the patient's chart, and measures what the chart was worth.

Dimensions: B images of a batch, M training images, V anchor views, T target views, N patches, D encoder
width, P projection width, K prototypes, F chart features, E chart embedding, C labels, S store size in pixels, H and W
height and width of an image.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chartray.export.timm_form import load_encoder

    __version__: str

__all__ = ["__version__", "load_encoder"]


def __getattr__(name: str) -> Any:
    """Imports `load_encoder`, and torch with it, when it is first asked for; looks up the installed version."""
    if name == "load_encoder":
        from chartray.export.timm_form import load_encoder

        return load_encoder
    if name == "__version__":
        from importlib.metadata import version

        return version("chartray")
    raise AttributeError(f"module 'chartray' has no attribute {name!r}")


def __dir__() -> list[str]:
    """What the package offers, whether it was imported yet or not."""
    return sorted(__all__)
