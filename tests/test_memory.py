"""What the kernel says of memory that a training process takes: its pages, and what it gives back."""

import multiprocessing
from pathlib import Path

import pytest

from chartray import memory

ADVISED = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def numbers() -> list[float]:
    """MB of huge pages and of all memory: before, advised, with 128 MB more, these given back, and taken again."""
    import torch

    found: list[float] = []

    def look() -> None:
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
        found.extend(int(line.split()[1]) / 1024 for line in lines if line.startswith(("AnonHugePages:", "Rss:")))

    memory.keep_freed_memory()
    look()
    memory.prefer_huge_pages()
    look()
    for _ in range(2):
        taken = torch.ones(2**25)
        look()
        del taken
        memory.give_back_freed_memory()
        look()
    return found


@pytest.mark.skipif(not ADVISED.exists() or "[never]" in ADVISED.read_text(), reason="no huge pages on this system")
def test_what_a_step_takes_lies_in_huge_pages_and_preferring_them_takes_nothing() -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply(numbers)
    rss, huge = found[0::2], found[1::2]
    assert rss[1] - rss[0] < 8
    for taken, freed in ((2, 3), (4, 5)):  # the second time too: what was given back is advised again
        assert huge[taken] - huge[0] > 100
        assert rss[taken] - rss[0] < 128 + 16
        assert rss[freed] - rss[0] < 16
