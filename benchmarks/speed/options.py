"""What is asked of a measurement."""

from pathlib import Path
from typing import NamedTuple


class Options(NamedTuple):
    """`repeats` counted rounds of each way; files go to `scratch`, which is removed afterwards.

    quick: small sizes, to see that everything runs; its numbers say nothing, and no target is judged.
    device: cpu or cuda. batch_size: images of a training step; None leaves it to the measurement.
    """

    repeats: int
    scratch: Path
    quick: bool
    device: str
    batch_size: int | None = None
