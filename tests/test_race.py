"""Race as admissions write it: what says nothing is missing, and is counted as what stood there."""

import pyarrow as pa
import pytest

from chartray.records.missing import count_missing
from chartray.records.race import race_group, race_of_images


@pytest.mark.parametrize(
    "cell",
    [
        "?",
        "nan",
        "NaN",
        "n/a",
        "NULL",
        "-",
        " ",
        None,
        "UNKNOWN",
        "UNKNOWN/NOT SPECIFIED",
        "Patient declined to answer",
    ],
)
def test_what_says_nothing_is_missing_and_no_group(cell: str | None) -> None:
    assert race_group(cell) is None


def test_words_are_groups() -> None:
    cells = ("WHITE - RUSSIAN", "black/african", "MULTIPLE RACE/ETHNICITY", "NATIVE HAWAIIAN OR OTHER PACIFIC ISLANDER")
    assert [race_group(cell) for cell in cells] == ["white", "black", "other", "other"]


def test_the_cell_that_is_counted_is_the_one_that_says_so() -> None:
    admissions = pa.table(
        {
            "subject_id": ["a", "a", "b", "b", "c", "d", "d"],
            "race": [None, "UNKNOWN", "UNKNOWN", "ASIAN - KOREAN", "?", " ", None],
        }
    )
    groups, cells = race_of_images(pa.chunked_array([["b", "a", "c", "d", "nobody", "a"]]), admissions)
    assert groups.to_pylist() == ["asian", None, None, None, None, None]
    assert cells.to_pylist()[:3] == ["ASIAN - KOREAN", "UNKNOWN", "?"]
    assert count_missing(cells, groups) == {"UNKNOWN": 2, "?": 1, "absent": 2}
