"""The ways in which attention may be computed (attention.py), for those who only name them."""

from typing import Literal, NamedTuple

Way = Literal["plain", "fused", "gathered"]


class Ways(NamedTuple):
    """How attention is computed, where a gradient is asked for and where none is."""

    with_gradient: Way
    without_gradient: Way
