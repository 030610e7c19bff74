"""Keeps pyarrow from importing pandas, which takes 0.9 s of every command."""

import importlib
import importlib.abc
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType


class _NotHere(importlib.abc.MetaPathFinder):
    """Reports pandas as not installed."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == "pandas":
            raise ModuleNotFoundError("pandas is left out", name=fullname)
        return None


def settle_pyarrow() -> None:
    """Makes pyarrow search for pandas once and not find it, so that it works without pandas in this process.

    For a process of our own alone, not for one that merely imports Chartray: `pa.array` would then take a Series for
    any other sequence. pandas itself can be imported as ever, and `to_pandas` still works.
    """
    if "pandas" in sys.modules:
        return
    finder = _NotHere()
    sys.meta_path.insert(0, finder)
    try:
        importlib.import_module("pyarrow").scalar(0)
    finally:
        sys.meta_path.remove(finder)
