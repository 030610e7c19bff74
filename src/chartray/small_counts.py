"""Counts on pages that leave the house: 1 to 9 images or patients are not told, nor what would give them away."""

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from chartray.wording import plural

# A count of 1 to 9 images or patients could point at one of them.
SMALLEST_TOLD = 10
_MOST_HIDDEN = SMALLEST_TOLD - 1
_OF = re.compile(r"(?<![\w.,:/%'-])(\d+) of (\d+)(?![\w%']|[.,:/-]\d)")
# A number that counts: no part of a word, date, time, decimal or quoted cell, no age and no length of time.
_COUNT = re.compile(
    r"(?<![\w.,:/%'’“-])(?<!at most )(?<!over )(?<!age )(?<!< )(?<!> )(?<!of )([\d,]*\d)"
    r"(?![\w%']|[.,:/-]\d| (?:days?|hours?|years?|px)\b)"
)


def is_small(number: int) -> bool:
    """Whether a count is not told.

    >>> [is_small(number) for number in (0, 1, 9, 10)]
    [False, True, True, False]
    """
    return 0 < number < SMALLEST_TOLD


def counts(numbers: Sequence[int]) -> list[str]:
    """Counts of parts of a whole that is told elsewhere, without small ones, and without what would give them away.

    Where some are small, the largest of the others is rounded: its text is the same for every way in which it and the
    small ones share their sum.

    >>> counts([1200, 340, 0]), counts([1203, 343, 3, 0]), counts([11, 3])
    (['1,200', '340', '0'], ['about 1,200', '343', '< 10', '0'], ['< 20', '< 20'])
    """
    small = {place for place, number in enumerate(numbers) if is_small(number)}
    others = [place for place, number in enumerate(numbers) if number >= SMALLEST_TOLD]
    rounded = max(others, key=lambda place: numbers[place]) if small and others else None
    texts = {place: f"{number:,}" for place, number in enumerate(numbers)}
    texts |= dict.fromkeys(small, f"< {SMALLEST_TOLD}")
    if rounded is not None:
        together = numbers[rounded] + sum(numbers[place] for place in small)
        least = together - _MOST_HIDDEN * len(small)
        texts[rounded] = f"about {round((together - len(small) + least) / 2, -1):,.0f}"
        # So near to ten, "ten or more" says too much: neither is told apart.
        if least < SMALLEST_TOLD:
            texts |= dict.fromkeys([*small, rounded], f"< {together // 10 * 10 + 10:,}")
    return [texts[place] for place in range(len(numbers))]


def part(number: int, whole: int) -> str:
    """A count of a whole; one that is small, or that leaves few others, is not told.

    >>> part(340, 1200), part(3, 1200), part(1195, 1200)
    ('340 of 1,200', '< 10 of 1,200', '> 1,190 of 1,200')
    """
    return f"{nearly(number, whole)} of {whole:,}"


def nearly(number: int, whole: int) -> str:
    """The same where the whole stands elsewhere.

    >>> nearly(340, 1200), nearly(3, 1200), nearly(1195, 1200)
    ('340', '< 10', '> 1,190')
    """
    if is_small(number):
        return f"< {SMALLEST_TOLD}"
    if is_small(whole - number):
        return f"> {max(whole - SMALLEST_TOLD, 0):,}"
    return f"{number:,}"


def told(number: int, noun: str) -> str:
    """A count with its noun, where no whole is told.

    >>> told(1200, "image"), told(1, "patient"), told(0, "image")
    ('1,200 images', 'fewer than 10 patients', '0 images')
    """
    return f"fewer than {SMALLEST_TOLD} {noun}s" if is_small(number) else plural(number, noun)


def without_small_counts(text: str) -> str:
    """What a cohort notes of a step, without small counts; beside one, other counts of the same note are not told.

    >>> without_small_counts("CT 12, blank 3"), without_small_counts("CT 1203, blank 30")
    ('CT ≥ 10, blank < 10', 'CT 1203, blank 30')
    >>> without_small_counts("4 of 600 have a row in labs.csv by id, at most 2 days old; '7' 12")
    "< 10 of 600 have a row in labs.csv by id, at most 2 days old; '7' 12"
    """
    text = _OF.sub(lambda found: part(int(found[1]), int(found[2])), text)
    if any(is_small(int(found.replace(",", ""))) for found in _COUNT.findall(text)):
        text = _COUNT.sub(_hidden, text)
    return text


def _hidden(found: re.Match[str]) -> str:
    number = int(found[1].replace(",", ""))
    return f"< {SMALLEST_TOLD}" if is_small(number) else f"≥ {SMALLEST_TOLD}" if number else "0"


class Left(NamedTuple):
    """What is left after a step: its count in words, at most how many, and in words how many fewer than before."""

    text: str
    most: int
    fewer: str


def steps_told(numbers: Sequence[int]) -> list[Left]:
    """Counts that each step of a flow leaves, the last of which is told elsewhere: where steps differ by a small count,
    the earlier is only told to be at most the later and what small counts can be.

    >>> [(each.text, each.fewer) for each in steps_told([5000, 1203, 1200, 1200])]
    [('5,000', ''), ('≤ 1,209', 'about 3,790'), ('1,200', '< 10'), ('1,200', '0')]
    """
    told = [_Number(numbers[-1], exact=True)]
    for number, next_one in zip(numbers[-2::-1], numbers[:0:-1], strict=True):
        most = told[-1].most
        told.append(
            _Number(most + _MOST_HIDDEN, exact=False)
            if is_small(number - next_one)
            else told[-1]
            if number == next_one
            else _Number(number, exact=True)
        )
    told.reverse()
    found = [Left(str(told[0]), told[0].most, "")]
    for place, (before, after) in enumerate(pairwise(told)):
        fewer = numbers[place] - numbers[place + 1]
        exact = (before.exact and after.exact) or not fewer
        words = f"{fewer:,}" if exact else f"about {round(before.most - after.most, -1):,}"
        found.append(Left(str(after), after.most, f"< {SMALLEST_TOLD}" if is_small(fewer) else words))
    return found


class _Number(NamedTuple):
    most: int
    exact: bool

    def __str__(self) -> str:
        return f"{self.most:,}" if self.exact else f"≤ {self.most:,}"
