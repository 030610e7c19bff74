"""The trained parts that a chart brings: f and g, which join it with the anchor, and the heads of its other roles.

What they have to learn is in objectives/roles.py; training/chart_roles.py brings both together.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from chartray.config.pretrain import ChartConfig
from chartray.config.roles import CONTRASTING, REVERSING, Role
from chartray.features import Chart, ChartBlock


class ChartBatch(NamedTuple):
    """The charts of B images: `rows` (B, F) float32 and `observed` (B, encodings) bool; F = 0 without a chart.

    `ramp`, from 0 to 1: how much of the heads' gradient the encoder is given at this step.
    """

    rows: Tensor
    observed: Tensor
    ramp: float = 1.0

    def of_images(self, chunk: slice) -> "ChartBatch":
        """The charts of some of the images."""
        return self._replace(rows=self.rows[chunk], observed=self.observed[chunk])


class ChartJoinsAnchor(nn.Module):
    """Published way (role anchor): v' = g([v ; f(x)]), both linear, no activation."""

    def __init__(self, width: int, features: int, chart_width: int) -> None:
        super().__init__()
        self.f = nn.Linear(features, chart_width)
        self.g = nn.Linear(width + chart_width, width)

    def forward(self, embeddings: Tensor, rows: Tensor) -> Tensor:
        """(V*B, D) view-major and the anchor's columns (B, F) -> (V*B, D)."""
        views = embeddings.shape[0] // rows.shape[0]
        encoded = self.f(rows).repeat(views, 1)  # (V*B, E)
        joined: Tensor = self.g(torch.cat((embeddings, encoded.to(embeddings.dtype)), dim=1))
        return joined


class Head(nn.Module):
    """What every head knows: its name, its role, and its place among the columns and the variables of a chart row."""

    def __init__(self, role: Role, columns: slice, variables: slice, name: str) -> None:
        super().__init__()
        self.role, self.columns, self.variables, self.name = role, columns, variables, name

    @property
    def reverses(self) -> bool:
        """Whether its gradient is reversed."""
        return self.role in REVERSING


class PredictsVariable(Head):
    """Roles predict and suppress: a linear layer guesses the levels (V*B, L), or the number (V*B, 1)."""

    def __init__(self, block: ChartBlock, place: int, width: int) -> None:
        super().__init__(*_of_variable(block, place))
        self.bounds = block.bounds if block.kind == "numeric" else None
        self.guess = nn.Linear(width, block.stop - block.start)

    def forward(self, tokens: Tensor) -> Tensor:
        """(V*B, D) -> (V*B, L)."""
        guess: Tensor = self.guess(tokens)
        return guess


class ContrastsLevels(Head):
    """Roles contrast and suppress-contrast: a linear projection (V*B, P), and the centroid of each level (L, P)."""

    def __init__(self, block: ChartBlock, place: int, width: int, out: int) -> None:
        super().__init__(*_of_variable(block, place))
        self.projection = nn.Linear(width, out)
        self.centroids: Tensor
        self.register_buffer("centroids", torch.zeros(block.stop - block.start, out))

    def forward(self, tokens: Tensor) -> Tensor:
        """(V*B, D) -> (V*B, P)."""
        projected: Tensor = self.projection(tokens)
        return projected


class MatchesTable(Head):
    """Role mmcl: images and tables, flags included, each through two layers into one space (P)."""

    def __init__(self, blocks: tuple[ChartBlock, ...], place: int, width: int, out: int) -> None:
        columns, variables = slice(blocks[0].start, blocks[-1].end), slice(place, place + len(blocks))
        super().__init__("mmcl", columns, variables, "mmcl")
        self.image = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, out))
        self.table = nn.Sequential(nn.Linear(columns.stop - columns.start, width), nn.GELU(), nn.Linear(width, out))

    def forward(self, tokens: Tensor, tables: Tensor) -> tuple[Tensor, Tensor]:
        """(V*B, D), (B, F) -> (V*B, P), (B, P)."""
        return self.image(tokens), self.table(tables)


class Decorrelates(Head):
    """Role decorrelate: nothing to train, but second moments of class tokens and variable: (D, D), (D, C), (C, C)."""

    def __init__(self, block: ChartBlock, place: int, width: int) -> None:
        super().__init__(*_of_variable(block, place))
        wide = block.stop - block.start
        self.tokens: Tensor
        self.joint: Tensor
        self.variable: Tensor
        self.register_buffer("tokens", torch.zeros(width, width))
        self.register_buffer("joint", torch.zeros(width, wide))
        self.register_buffer("variable", torch.zeros(wide, wide))


class ChartRoles(nn.Module):
    """All that a chart brings: `joins` for the role anchor, and a head for each variable in another role.

    Neither: a run without a chart. The variables of the role mmcl share a head.
    """

    def __init__(self, chart: Chart | None, config: ChartConfig, width: int) -> None:
        super().__init__()
        self.config = config
        blocks = chart.blocks if chart is not None else ()
        joined = [block for block in blocks if block.role == "anchor"]
        self.joined_columns = slice(0, joined[-1].end if joined else 0)
        self.joins = ChartJoinsAnchor(width, self.joined_columns.stop, config.width) if joined else None
        self.heads = nn.ModuleList(_heads(blocks, config, width))

    def each_head(self) -> list["PredictsVariable | ContrastsLevels | MatchesTable | Decorrelates"]:
        """The heads, in the order of the chart row."""
        kinds = PredictsVariable | ContrastsLevels | MatchesTable | Decorrelates
        return [head for head in self.heads if isinstance(head, kinds)]


def _of_variable(block: ChartBlock, place: int) -> tuple[Role, slice, slice, str]:
    """Role, columns, variables and name of a head that has one variable."""
    columns, variables = slice(block.start, block.stop), slice(place, place + 1)
    return block.role, columns, variables, f"{block.variable}.{block.role}"


def _heads(blocks: tuple[ChartBlock, ...], config: ChartConfig, width: int) -> list[Head]:
    heads: list[Head] = []
    table = tuple(block for block in blocks if block.role == "mmcl")
    for place, block in enumerate(blocks):
        if block.role in CONTRASTING:
            heads.append(ContrastsLevels(block, place, width, config.width))
        elif block.role in ("predict", "suppress"):
            heads.append(PredictsVariable(block, place, width))
        elif block.role == "decorrelate":
            heads.append(Decorrelates(block, place, width))
        elif table and block == table[0]:
            heads.append(MatchesTable(table, place, width, config.width))
    return heads
