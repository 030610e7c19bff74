"""Parts of sentences: a suggested spelling, a shortened list, words in a row, a plural, what an error says."""

import difflib
from collections.abc import Iterable, Sequence


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


# A count of 1 to 9 images or patients could point at one of them: pages that leave the house do not tell it.
SMALLEST_TOLD = 10


def counts(numbers: Sequence[int]) -> list[str]:
    """Counts of parts of a whole that is told elsewhere, without small ones, and without what would give them away.

    Where one is small, the smallest of the others is rounded to tens: else the whole minus the others would be known.

    >>> counts([1200, 340, 0]), counts([1203, 343, 3, 0])
    (['1,200', '340', '0'], ['1,203', 'about 340', '< 10', '0'])
    """
    small = {place for place, number in enumerate(numbers) if 0 < number < SMALLEST_TOLD}
    others = [place for place, number in enumerate(numbers) if number >= SMALLEST_TOLD]
    rounded = min(others, key=lambda place: numbers[place]) if small and others else None
    return [
        f"< {SMALLEST_TOLD}"
        if place in small
        else f"about {round(number, -1):,}"
        if place == rounded
        else f"{number:,}"
        for place, number in enumerate(numbers)
    ]


def part(number: int, whole: int) -> str:
    """A count of a whole; one that is small, or that leaves few others, is not told.

    >>> part(340, 1200), part(3, 1200), part(1195, 1200)
    ('340 of 1,200', '< 10 of 1,200', '> 1,190 of 1,200')
    """
    if 0 < number < SMALLEST_TOLD:
        return f"< {SMALLEST_TOLD} of {whole:,}"
    if 0 < whole - number < SMALLEST_TOLD:
        return f"> {max(whole - SMALLEST_TOLD, 0):,} of {whole:,}"
    return f"{number:,} of {whole:,}"


def joined(words: Iterable[str]) -> str:
    """Words in a row.

    >>> joined(["sex", "age", "view"]), joined(["sex"])
    ('sex, age and view', 'sex')
    """
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last
