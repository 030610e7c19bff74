"""What a person should know of a cohort before using it; it is printed with the cohort, and `check` says it again."""

from collections.abc import Mapping
from typing import NamedTuple

from chartray.records.missing import ABSENT
from chartray.schema import LABEL_PREFIX

# How the flow ends what it says of a variable of which nobody has said when it is known; `check` looks for it.
UNDECIDED = "say known_at_film: true or false in the mapping"


class Caution(NamedTuple):
    """`what` is to be known of the variable, label or column `of`, how many `films` it concerns, and what to do."""

    of: str
    what: str
    films: int
    remedy: str


def unknown_labels(missing: Mapping[str, Mapping[str, int]]) -> list[Caution]:
    """For each label the films whose cell means nothing: of them nothing is known, so that they count for nothing."""
    cautions = []
    for name, cells in missing.items():
        films = unusable(cells)
        if name.startswith(LABEL_PREFIX) and films:
            label = name.removeprefix(LABEL_PREFIX)
            one = films == 1
            what = (
                f"{films} film{'' if one else 's'} whose cell of this label means nothing here "
                f"{'is' if one else 'are'} left out of its training and scoring"
            )
            remedy = "in a mapping say what such cells mean: true, false or uncertain"
            cautions.append(Caution(label, what, films, remedy))
    return cautions


def unusable(cells: Mapping[str, int]) -> int:
    """How many cells that are not blank gave no value."""
    return sum(count for cell, count in cells.items() if cell != ABSENT)
