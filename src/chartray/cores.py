"""How many processor cores this process may use."""

import os


def available_cores() -> int:
    """Cores that this process may use: those that a scheduler or `taskset` left to it, else all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
