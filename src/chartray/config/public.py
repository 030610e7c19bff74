"""How a public encoder is read: weights that no run of Chartray made."""

from typing import Literal

from pydantic import Field

from chartray.config.section import Options

Pool = Literal["own", "class", "mean"]


class PublicOptions(Options):
    """Options of commands that open a public encoder; an encoder of a run has no use for them."""

    timm: str | None = Field(
        None, description="timm's name of the architecture of a bare .safetensors file, with its tag if it has one"
    )
    pool: Pool = Field(
        "own",
        description="Embedding of a public encoder: as its own head pools, its class token, or the mean of its patches",
    )
