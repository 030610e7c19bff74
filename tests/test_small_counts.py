"""No page tells a count of 1 to 9, and none can be had from the other numbers."""

import itertools
import re
from collections import defaultdict

import pytest

from chartray.report.audit_tables import subgroup_sizes
from chartray.report.cohorts import _links
from chartray.report.embedding_map import category_colouring, truth_colouring, with_large_classes
from chartray.results.arm import Arm
from chartray.results.audit_rows import SubgroupRow
from chartray.small_counts import counts, steps_told, without_small_counts


@pytest.mark.parametrize(("whole", "other"), [(1549, 0), (346, 60), (22, 0), (37, 14), (11, 0)])
def test_a_small_count_is_not_the_whole_minus_the_others(whole: int, other: int) -> None:
    """Every text that a small count can have fits several small counts."""
    fits = defaultdict(set)
    for small in range(1, 10):
        if whole - small - other > other:
            fits[tuple(counts([whole - small - other, other, small]))].add(small)
    assert all(len(each) > 1 for each in fits.values() if whole > 11), fits
    assert all(re.fullmatch(r"< \d+", texts[2]) for texts in fits)


def test_the_steps_of_a_flow_do_not_tell_by_subtraction_either() -> None:
    """1,200 images are told exactly elsewhere; whatever small counts led to them, the flow reads the same."""
    told = {
        tuple((each.text, each.fewer) for each in steps_told([5000, 1200 + first + second, 1200 + second, 1200]))
        for first, second in itertools.product(range(1, 10), repeat=2)
    }
    assert told == {(("5,000", ""), ("≤ 1,218", "about 3,780"), ("≤ 1,209", "< 10"), ("1,200", "< 10"))}
    assert [(each.text, each.fewer) for each in steps_told([5000, 1203, 1203])] == [
        ("5,000", ""),
        ("1,203", "3,797"),
        ("1,203", "0"),
    ]


@pytest.mark.parametrize(
    ("note", "told"),
    [
        ("CT 2, blank 1", "CT < 10, blank < 10"),
        ("CT 1203, blank 4", "CT ≥ 10, blank < 10"),
        ("CT 1203, blank 40", "CT 1203, blank 40"),
        ("4 of 6 have a row in labs.csv by id 2", "< 10 of 6 have a row in labs.csv by id < 10"),
        ("1196 of 1200 have a row", "> 1,190 of 1,200 have a row"),
        ("of each column the last value, at most 2 days old", "of each column the last value, at most 2 days old"),
        ("blank, or a placeholder ('0' 3)", "blank, or a placeholder ('0' < 10)"),
        ("2 images of patients over 89 have the age 91", "< 10 images of patients over 89 have the age 91"),
        ("MIMIC-IV 2.2, rows of v2.csv since 2023-01-07", "MIMIC-IV 2.2, rows of v2.csv since 2023-01-07"),
    ],
)
def test_what_a_cohort_notes_of_a_step_is_told_without_small_counts(note: str, told: str) -> None:
    assert without_small_counts(note) == told


def test_the_reason_of_few_unlinked_images_is_not_what_the_others_leave() -> None:
    links = {"images": 160, "linked": 131, "ties": 0, "before_admission": 26, "after_discharge": 3, "icu_linked": 62}
    assert dict(_links(links)) == {
        "images": "160",
        "linked": "about 130",
        "ties": "0",
        "before_admission": "26",
        "after_discharge": "< 10",
        "icu_linked": "62",
    }


def test_a_suppressed_subgroup_is_not_all_patients_minus_the_others() -> None:
    about = {"arm": Arm("none"), "run": "r-0", "dataset": "mimic", "label": "Edema", "metric": "auroc"}
    about |= {"specificity": 0.9, "split": "test", "resamples": 10, "seed": 0}

    def told(sizes: dict[str, dict[str, int]]) -> dict[str, str]:
        rows = [
            SubgroupRow.model_validate(about | {"attribute": name, "group": group, "n_patients": n})
            for name, groups in sizes.items()
            for group, n in groups.items()
        ]
        return {f"{key[0]} {key[1]}": text for key, text in subgroup_sizes(rows).items()}

    coin = {"coin (control)": {"heads": 101, "tails": 102}}
    assert told({"sex": {"F": 120, "M": 80, "other": 3}} | coin) == {
        "sex F": "about 120",
        "sex M": "80",
        "sex other": "< 10",
        "coin (control) heads": "101",
        "coin (control) tails": "102",
    }
    # Three patients without a known sex are not told either.
    assert told({"sex": {"F": 120, "M": 80}} | coin)["sex F"] == "about 120"
    assert told({"sex": {"F": 120, "M": 83}} | coin)["sex F"] == "120"


def test_no_class_of_few_images_can_be_counted_on_the_map() -> None:
    rare = truth_colouring("Hernia", [1.0] * 3 + [0.0] * 60)
    assert with_large_classes(rare) is None
    unsure = with_large_classes(truth_colouring("Edema", [1.0] * 30 + [0.0] * 40 + [-1.0] * 4 + [None] * 20))
    assert unsure is not None
    assert {word: unsure.words.count(word) for word in unsure.words} == {
        "present": 30,
        "absent": 40,
        "not observed or rare": 24,
    }
    view = with_large_classes(category_colouring("view", ["PA"] * 40 + ["AP"] * 30 + ["LL"] * 3))
    assert view is not None
    assert {word: view.words.count(word) for word in view.words} == {"PA": 40, "not observed or rare": 33}
    assert with_large_classes(category_colouring("sex", ["F"] * 40 + ["M"] * 3)) is None
    common = category_colouring("sex", ["F"] * 40 + ["M"] * 30)
    assert with_large_classes(common) == common
