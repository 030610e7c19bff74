"""Chart rows: published widths and columns, strict masks, training-only statistics, no leak, the 23 files."""

import csv

import numpy as np
import pyarrow as pa
import pytest

from chartray.errors import InputError
from chartray.features import FEATURE_SETS, Chart, fit_chart, write_feature_csvs
from chartray.records.cohort import assemble
from chartray.records.mimic import _variables
from chartray.schema import CohortMetadata, Variable

# The 23 published sets, by heart and not from the code.
DIMENSIONS = {
    "sex": 2,
    "age-norm": 1,
    "age-10": 9,
    "age-5": 16,
    "view": 4,
    "position": 2,
    "mortality": 2,
    "icu": 2,
    "demographic-norm": 3,
    "demographic-10": 11,
    "demographic-5": 18,
    "scan": 6,
    "stay": 4,
    "demographic-norm+scan": 9,
    "demographic-10+scan": 17,
    "demographic-5+scan": 24,
    "demographic-norm+stay": 7,
    "demographic-10+stay": 15,
    "demographic-5+stay": 22,
    "scan+stay": 10,
    "all-norm": 13,
    "all-10": 21,
    "all-5": 28,
}
FILES = {
    "single-variable": "meta-gender-only meta-age-norm-only meta-age10-only meta-age5-only meta-view-only "
    "meta-orientation-only meta-mortality-only meta-icu-only",
    "single-group": "socio-norm socio-age10 socio-age5 image_meta clinical",
    "combinations": "socio-age-norm-image-meta socio-age-norm-clinical socio-age-10-image-meta socio-age-10-clinical "
    "socio-age-5-image-meta socio-age-5-clinical image-meta-clinical",
    "all": "all-age-norm all-age-10 all-age-5",
}
AFTER = ("mortality", "icu")
TENS = ["<20", "20-30", "30-40", "40-50", "50-60", "60-70", "70-80", "80-90", "90+"]
REST = ["PA", "LATERAL", "AP", "LL", "Erect", "Recumbent", "alive", "died", "icu", "not_icu"]


def mimic_like(rules="strict", rows=60, missing=0.2, seed=0):
    """A cohort with MIMIC's variables, random values, and cells missing at random."""
    rng = np.random.default_rng(seed)
    variables = _variables(rules)
    columns = {
        "image_id": [f"i{k}" for k in range(rows)],
        "patient_id": [f"p{k // 2}" for k in range(rows)],
        "study_id": [None] * rows,
        "taken_at": [None] * rows,
        "path": [f"/films/files/p10/i{k}.jpg" for k in range(rows)],
        "split": ["train" if k < rows * 0.7 else "test" for k in range(rows)],
    }
    for name, variable in variables.items():
        choices = variable.levels or [16.0, 20.0, 20.5, 21.0, 30.0, 31.0, 64.0, 90.0, 91.0, 100.0]
        values = [choices[k] for k in rng.integers(0, len(choices), rows)]
        columns[f"ehr.{name}"] = [None if rng.random() < missing else value for value in values]
    metadata = CohortMetadata(source="mimic", rules=rules, variables=variables, image_root="/films")
    return assemble(columns, metadata)


def test_the_23_sets_and_their_published_files(tmp_path):
    assert {feature.file for feature in FEATURE_SETS.values()} == {
        f"{folder}/{name}" for folder, names in FILES.items() for name in names.split()
    }
    assert list(FEATURE_SETS) == list(DIMENSIONS)
    table = mimic_like("published")
    for name, width in DIMENSIONS.items():
        chart = fit_chart(table, name, allow_after_film=AFTER)
        assert (chart.ehr_in, len(chart.columns), chart.flag_columns) == (width, width, ())


def test_every_published_name_is_an_alias():
    table = mimic_like("published")
    for name, feature in FEATURE_SETS.items():
        alias = feature.file.split("/")[1]
        ours = fit_chart(table, name, allow_after_film=AFTER)
        assert fit_chart(table, alias, allow_after_film=AFTER).encodings == ours.encodings
        assert fit_chart(table, alias.replace("_", "-"), allow_after_film=AFTER).encodings == ours.encodings


def test_published_rows_by_hand():
    table = mimic_like("published", missing=0.3)
    chart = fit_chart(table, "all-10", allow_after_film=AFTER)
    assert list(chart.columns) == ["male", "female", "<20*", *TENS[1:-1], "90+*", *REST]
    rows = chart.rows(table)
    for row, values, fits in zip(table.to_pylist(), rows.values, rows.representable, strict=True):
        cells = [row[f"ehr.{name}"] for name in ("sex", "age", "view", "position", "mortality", "icu")]
        assert fits == (None not in cells)
        if fits:
            age = row["ehr.age"]
            one = "<20*" if age <= 20 else "90+*" if age > 90 else TENS[int(np.ceil(age / 10)) - 2]
            expected = {cells[0], one, *cells[2:]}
            assert {column for column, value in zip(chart.columns, values, strict=True) if value == 1.0} == expected
            assert values.sum() == 6
    norm = fit_chart(table, "age-norm").rows(table)
    ages = np.array(table["ehr.age"].to_pylist(), dtype=float)
    np.testing.assert_allclose(norm.values[norm.representable, 0], (ages[norm.representable] - 16) / 84, rtol=1e-6)


@pytest.mark.parametrize(("name", "age", "column"), [("age-10", 20, "<20"), ("age-10", 20.5, "20-30")])
def test_bins_are_closed_on_the_right(name, age, column):
    edges = {(20.0, "age-5"): "<20", (25.0, "age-5"): "20-25", (25.5, "age-5"): "25-30", (90.0, "age-5"): "85-90"}
    edges |= {(91.0, "age-5"): "90+", (30.0, "age-10"): "20-30", (90.0, "age-10"): "80-90", (age, name): column}
    table = mimic_like(missing=0)
    for (years, item), bin_name in edges.items():
        ages = pa.array([years, 50.0] * 30)
        aged = table.set_column(table.schema.get_field_index("ehr.age"), "ehr.age", ages)
        chart = fit_chart(aged, item)
        assert chart.columns[int(chart.rows(aged).values[0, :-1].argmax())] == f"age {bin_name}"


def test_strict_rows_by_hand():
    table = mimic_like(missing=0.3)
    chart = fit_chart(table, "all-norm", allow_after_film=("mortality",))
    assert chart.ehr_in == 2 + 1 + 4 + 2 + 2 + 2 + 6
    rows = chart.rows(table)
    assert rows.representable.all()
    ages = [row["ehr.age"] for row in table.to_pylist() if row["split"] == "train" and row["ehr.age"] is not None]
    for index, row in enumerate(table.to_pylist()):
        expected = []
        for block, name in zip(chart.blocks, chart.variables, strict=True):
            value = row[f"ehr.{name}"]
            levels = _variables("strict")[name].levels
            if levels:
                expected += [float(level == value) for level in levels]
            else:
                expected.append(0.0 if value is None else (value - np.mean(ages)) / np.std(ages))
            assert block.flag == len(expected)
            expected.append(float(value is not None))
        np.testing.assert_allclose(rows.values[index], expected, rtol=1e-5, atol=1e-6)
        assert rows.observed[index].tolist() == [row[f"ehr.{name}"] is not None for name in chart.variables]
    assert [chart.columns[flag] for flag in chart.flag_columns] == [f"{name} observed" for name in chart.variables]


def test_statistics_come_from_training_rows_alone():
    table = mimic_like(missing=0)
    ages = table["ehr.age"].to_pylist()
    split = table["split"].to_pylist()
    other = [age if part == "train" else age + 1000.0 for age, part in zip(ages, split, strict=True)]
    moved = table.set_column(table.schema.get_field_index("ehr.age"), "ehr.age", pa.array(other))
    assert fit_chart(table, "age-norm") == fit_chart(moved, "age-norm")
    chart = fit_chart(table, "age-norm")
    train = np.array(split) == "train"
    values = chart.rows(table).values[train, 0]
    assert abs(values.mean()) < 1e-6
    assert abs(values.std() - 1) < 1e-6


def test_a_chart_survives_json():
    table = mimic_like()
    chart = fit_chart(table, "demographic-10+scan")
    again = Chart.model_validate_json(chart.model_dump_json())
    assert again == chart
    assert (again.rows(table).values == chart.rows(table).values).all()


def own_cohort(**columns):
    rows = len(next(iter(columns.values())))
    kinds = {
        "crp": Variable(kind="numeric", range=(0, 600)),
        "vent": Variable(kind="boolean"),
        "ward": Variable(kind="categorical", levels=("A", "B", "C")),
        "late": Variable(kind="numeric", range=(0, 9), known_at_film=False),
    }
    base = {"image_id": [f"i{k}" for k in range(rows)], "patient_id": [f"p{k}" for k in range(rows)]}
    base |= {"study_id": [None] * rows, "taken_at": [None] * rows, "path": ["/x"] * rows, "split": ["train"] * rows}
    variables = {name: kinds[name] for name in columns}
    values = {f"ehr.{name}": column for name, column in columns.items()}
    return assemble(base | values, CohortMetadata(source="own", variables=variables))


def test_variables_of_ones_own():
    table = own_cohort(
        crp=[1.0, 3.0, None, float("inf")],
        vent=[True, None, False, True],
        ward=["A", None, "C", "A"],
        late=[1, 2, 3, 4],
    )
    chart = fit_chart(table, "crp, vent,ward")
    assert chart.columns == (
        *("crp", "crp observed", "vent=false", "vent=true", "vent observed"),
        *("ward=A", "ward=B", "ward=C", "ward observed"),
    )
    assert chart.rows(table).values.tolist() == [
        [-1, 1, 0, 1, 1, 1, 0, 0, 1],
        [1, 1, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 1, 0, 1, 0, 0, 1, 1],
        [0, 0, 0, 1, 1, 1, 0, 0, 1],
    ]
    with pytest.raises(InputError, match=r"found 'crb' \(did you mean 'crp'\?\); this cohort has the variables crp"):
        fit_chart(table, "crb")
    with pytest.raises(InputError, match="found late in 'late,crp', known only after the image"):
        fit_chart(table, "late,crp")
    with pytest.raises(InputError, match=r"found 'lat' \(did you mean 'late'\?\)"):
        fit_chart(table, "late", allow_after_film=("lat",))
    assert fit_chart(table, "late,crp", allow_after_film=("late",)).after_film == ("late",)


@pytest.mark.parametrize(
    ("columns", "name"),
    [
        ({"ward": ["A", "A", None]}, "ward"),
        ({"crp": [2.0, 2.0, None]}, "crp"),
        ({"vent": [None, None, None]}, "vent"),
    ],
)
def test_a_variable_that_says_nothing_is_refused_by_name(columns, name):
    with pytest.raises(InputError, match=f"at least two observed .* of '{name}' in the training split"):
        fit_chart(own_cohort(**columns), name)


def test_the_leak_gate():
    for name in ("mortality", "stay", "all-norm", "demographic-norm+stay", "clinical"):
        with pytest.raises(InputError, match=r"found mortality in .*; leave it out, or say --chart.allow-after-film"):
            fit_chart(mimic_like(), name)
        chart = fit_chart(mimic_like(), name, allow_after_film=("mortality",))
        assert chart.after_film == ("mortality",)
    assert fit_chart(mimic_like(), "icu").after_film == ()
    with pytest.raises(InputError, match="found icu in 'icu', known only after the image under the published rules"):
        fit_chart(mimic_like("published"), "icu")
    with pytest.raises(InputError, match="found icu in 'stay'"):
        fit_chart(mimic_like("published"), "stay", allow_after_film=("mortality",))


def test_wrong_names_and_empty_training():
    table = mimic_like()
    with pytest.raises(InputError, match=r"found 'demografic-norm' \(did you mean 'demographic-norm'\?\)"):
        fit_chart(table, "demografic-norm")
    with pytest.raises(InputError, match="expected age in one encoding, found age-norm and age-10"):
        fit_chart(table, "age-norm,age-10")
    with pytest.raises(InputError, match="images in the training split"):
        fit_chart(table.filter(pa.array([split == "test" for split in table["split"].to_pylist()])), "sex")
    own = own_cohort(crp=[1.0, 2.0])
    with pytest.raises(InputError, match=r"variable 'sex' of the chart 'sex' in the own cohort, found crp"):
        fit_chart(table, "sex").rows(own)


def test_the_23_csv_files(tmp_path):
    table = mimic_like("published", missing=0.25)
    files = write_feature_csvs(table, tmp_path)
    assert files.lacking == {}
    assert len(files.written) == len(list(tmp_path.rglob("*.csv"))) == 23
    by_path = {row["path"].removeprefix("/films/"): row for row in table.to_pylist()}
    for name, feature in FEATURE_SETS.items():
        with (tmp_path / f"{feature.file}.csv").open() as stream:
            rows = list(csv.DictReader(stream))
        chart = fit_chart(table, name, allow_after_film=AFTER)
        values = chart.rows(table)
        kept = [row for row, fits in zip(by_path, values.representable, strict=True) if fits]
        assert [row["path"] for row in rows] == kept
        assert files.written[name] == (len(kept), table.num_rows - len(kept))
        assert list(rows[0]) == ["path", *chart.columns]
        written = [[float(row[column]) for column in chart.columns] for row in rows]
        np.testing.assert_allclose(written, values.values[values.representable], rtol=1e-6)
        if "norm" not in name:
            assert {row[column] for row in rows for column in chart.columns} == {"0.0", "1.0"}
    first = (tmp_path / "single-variable" / "meta-age10-only.csv").read_text().splitlines()[0]
    assert first == "path,<20*,20-30,30-40,40-50,50-60,60-70,70-80,80-90,90+*"


def test_csv_files_of_a_cohort_that_lacks_variables(tmp_path):
    table = mimic_like()
    metadata = CohortMetadata(source="nih", variables={"sex": _variables("strict")["sex"]}, image_root="/films")
    files = write_feature_csvs(assemble({name: table[name] for name in table.column_names}, metadata), tmp_path)
    assert list(files.written) == ["sex"]
    assert files.lacking["demographic-norm"] == "age"
    with pytest.raises(InputError, match=r"published variables sex, .* in the cohort, found crp; it lacks sex; age; "):
        write_feature_csvs(own_cohort(crp=[1.0, 2.0]), tmp_path)


def test_csv_files_of_a_hospital_with_other_levels_and_kinds(tmp_path):
    """Neither an empty file nor a false reason: renamed where it is meant so, else lacking with the true reason."""
    variables = {
        "sex": Variable(kind="categorical", levels=("M", "F")),
        "age": Variable(kind="numeric", range=(0, 110), unit="years"),
        "view": Variable(kind="categorical", levels=("PA", "AP")),
        "position": Variable(kind="boolean"),
        "mortality": Variable(kind="boolean"),
        "icu": Variable(kind="boolean"),
    }
    columns = {
        "image_id": list("abc"),
        "patient_id": list("abc"),
        "study_id": [None] * 3,
        "taken_at": [None] * 3,
        "path": ["/x/a", "/x/b", "/x/c"],
        "split": ["train"] * 3,
        "ehr.sex": ["M", "F", "M"],
        "ehr.age": [30.0, 100.0, 16.0],
        "ehr.view": ["AP", "PA", None],
        "ehr.position": [True, False, True],
        "ehr.mortality": [True, False, False],
        "ehr.icu": [True, False, None],
    }
    made = CohortMetadata(source="own", variables=variables, image_root="/x")
    files = write_feature_csvs(assemble(columns, made), tmp_path / "out")
    assert files.written["stay"] == (2, 1)
    assert (tmp_path / "out/single-group/clinical.csv").read_text().splitlines() == [
        "path,alive,died,icu,not_icu",
        "a,0.0,1.0,1.0,0.0",
        "b,1.0,0.0,0.0,1.0",
    ]
    assert files.written["view"] == (2, 1)
    assert files.lacking["sex"].startswith("sex with only the levels male, female (it has M, F; ")
    assert files.lacking["position"] == "position with only the levels Erect, Recumbent (it is boolean)"
    assert "sex with" in files.lacking["demographic-10"]
    assert set(files.written) == {"age-norm", "age-10", "age-5", "view", "mortality", "icu", "stay"}
    assert len(list((tmp_path / "out").rglob("*.csv"))) == len(files.written)
    months = variables | {"age": Variable(kind="numeric", range=(0, 1320), unit="months")}
    files = write_feature_csvs(assemble(columns, made.model_copy(update={"variables": months})), tmp_path / "months")
    assert files.lacking["age-5"] == "age in years (it is in months)"
    texts = {"age": Variable(kind="categorical", levels=("old", "young"))}
    aged = assemble(columns | {"ehr.age": ["old"] * 3}, made.model_copy(update={"variables": texts}))
    with pytest.raises(InputError, match=r"found age; it lacks sex; age as a number \(it is categorical\); view; "):
        write_feature_csvs(aged, tmp_path / "texts")
