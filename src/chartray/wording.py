"""Parts of sentences: a suggested spelling, a shortened list, words in a row, a plural, what an error says."""

import difflib
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path


def nearest(word: str, words: Sequence[str], likeness: float = 0.5) -> str:
    """` (did you mean 'x'?)`, or nothing if no name is that similar (0 to 1).

    >>> nearest("msm", ["msn", "dino"]), nearest("resnet", ["msn", "dino"])
    (" (did you mean 'msn'?)", '')
    """
    close = difflib.get_close_matches(word, words, n=1, cutoff=likeness)
    return f" (did you mean {close[0]!r}?)" if close else ""


def listed(names: Sequence[str], most: int = 12) -> str:
    """Names for an error message, shortened.

    >>> listed(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    shown = ", ".join(names[:most]) or "nothing"
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def plural(count: int, noun: str) -> str:
    """A count with its noun.

    >>> plural(1, "label"), plural(1200, "image")
    ('1 label', '1,200 images')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def first_line(error: BaseException) -> str:
    r"""What an error of any library says, in one line.

    >>> first_line(ValueError("no such codec\nat 0x7f")), first_line(MemoryError())
    ('no such codec', 'MemoryError')
    """
    return next(iter(str(error).splitlines()), type(error).__name__)


def without_folders(command: str) -> str:
    """A command line in which only the last part of each path is left: folders may be named after patients.

    >>> without_folders("chartray pretrain '/data/Doe John/a.store' --out /b/c")
    'chartray pretrain a.store --out c'
    """
    try:
        words = shlex.split(command)
    except ValueError:  # not as a shell takes it, so not written by Chartray
        words = command.split()
    return shlex.join(Path(word).name if "/" in word else word for word in words)


def no_secret(url: str) -> str:
    """A database URL without user, password and query, for messages and records of a command.

    >>> no_secret("postgres://me:p@ss/w@host/base?sslmode=require"), no_secret("postgres://me:a?b@host/base")
    ('postgres://host/base', 'postgres://...')
    """
    scheme, _, rest = url.partition("://")
    before, _, query = rest.partition("?")
    # Of a password with a question mark, what stands before it would be shown.
    return f"{scheme}://..." if "@" in query else f"{scheme}://{before.rpartition('@')[2]}"


def joined(words: Iterable[str]) -> str:
    """Words in a row.

    >>> joined(["sex", "age", "view"]), joined(["sex"])
    ('sex, age and view', 'sex')
    """
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def p_value(p: float | None) -> str:
    """A p-value for a cell; empty where there is none.

    >>> p_value(0.0312), p_value(0.0002), p_value(None)
    ('0.031', '< 0.001', '')
    """
    return "" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def p_said(p: float) -> str:
    """A p-value for a sentence.

    >>> p_said(0.0312), p_said(0.0002)
    ('p = 0.031', 'p < 0.001')
    """
    return f"p {p_value(p)}" if p < 0.001 else f"p = {p_value(p)}"
