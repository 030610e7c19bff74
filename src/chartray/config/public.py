"""How an encoder is read: what of its tokens is the embedding, and weights that no run of Chartray made."""

from typing import Literal

from pydantic import Field

from chartray.config.section import Options

Pool = Literal["own", "class", "mean", "grid"]
# Cells on a side of `grid`.
GRID = 4


class PublicOptions(Options):
    """Options of commands that open an encoder; of a run it has the class token as its own."""

    timm: str | None = Field(
        None, description="timm's name of the architecture of a bare .safetensors file, with its tag if it has one"
    )
    pool: Pool = Field(
        "own",
        description="What the embedding is. own: as the encoder's head pools, of a run the class token; class: the "
        f"class token; mean: the mean of the patches; grid: their means in {GRID} x {GRID} cells side by side, "
        f"{GRID**2} times as many numbers",
    )
