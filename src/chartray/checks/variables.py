"""Checks of the chart: missing and impossible values, when a variable is known, and differences between splits."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from chartray.checks.finding import Finding, rows, share
from chartray.checks.table import observed
from chartray.flow import CohortFlow
from chartray.records.warnings import UNDECIDED
from chartray.schema import SPLITS, CohortMetadata, Variable
from chartray.truth import Policy, odd_cells, truth_of
from chartray.wording import listed, plural

_MOSTLY_MISSING = 0.5
_MISSING_ELSEWHERE = 0.2
# A difference between train and test is reported from this many standard deviations over patients on (small by Cohen's
# measure) if it exceeds four standard errors: with 100 equally distributed columns, one table in 160 would show one.
_SHIFT, _STANDARD_ERRORS = 0.2, 4.0
_UNUSABLE = ("absent",)
_LINKS = {
    "before_admission": "before the admission",
    "after_discharge": "after the last discharge",
    "no_admission": "of patients without admissions",
    "no_record": "of patients who are not in the hospital's tables",
    "no_time": "without a time",
    "ties": "within more than one admission (the rule chose one)",
}

Floats = npt.NDArray[np.float64]


def variables(table: pa.Table, metadata: CohortMetadata, where: str) -> Iterator[Finding]:
    """Impossible values, missing values, single levels, and variables known only after the image."""
    split = table["split"].to_numpy(zero_copy_only=False)
    for name, variable in metadata.variables.items():
        column = observed(table, name)
        yield from _impossible(name, variable, column, where)
        seen = pc.is_valid(column).to_numpy()
        shares = {place: 1 - seen[split == place].mean() for place in SPLITS if (split == place).any()}
        told = ", ".join(f"{place} {share(part, 1)}" for place, part in shares.items())
        train = split == "train"
        levels = pc.count_distinct(column.filter(pa.array(train & seen))).as_py()
        if not seen.any():
            remedy = "correct it at the source, or leave it out of the mapping"
            yield Finding("warning", f"{name} is missing for every image", where, len(seen), remedy)
        elif train.any() and levels < 2:
            what = f"{name} is constant in the training split" if levels else f"{name} is missing in the training split"
            yield Finding("warning", what, where, int(train.sum()), "pretraining refuses it as a chart variable")
        elif not seen.all():
            apart = max(shares.values()) - min(shares.values()) > _MISSING_ELSEWHERE
            much = shares.get("train", 0.0) > _MOSTLY_MISSING
            remedy = "values are not imputed; the model gets an observed flag"
            if apart:
                remedy = "the share differs between splits; find out why before using it"
            what = f"{name} is missing for {plural(int((~seen).sum()), 'image')} ({told})"
            yield Finding("warning" if apart or much else "note", what, where, int((~seen).sum()), remedy)
        if not variable.known_at_film:
            remedy = f"pretraining refuses it unless --chart.allow-after-film {name} is given"
            yield Finding("note", f"{name} is known only after the image", where, int(seen.sum()), remedy)
    yield from _two_sexes(table, metadata, where)
    yield from _shared_columns(metadata, where)


def shifts(table: pa.Table, metadata: CohortMetadata, where: str) -> Iterator[Finding]:
    """Variables, missingness and labels whose mean over patients differs between train and test."""
    split = table["split"].to_numpy(zero_copy_only=False)
    _, patients = np.unique(table["patient_id"].to_numpy(zero_copy_only=False).astype(str), return_inverse=True)
    found = []
    for name, values in _numbers(table, metadata):
        sides = [_of_patients(values[split == place], patients[split == place]) for place in ("train", "test")]
        gap = _standardised(*sides)
        if gap is not None:
            found.append((gap, f"{name} {sides[0].mean():.2f} in train, {sides[1].mean():.2f} in test ({gap:+.2f} SD)"))
    if found:
        found.sort(key=lambda entry: -abs(entry[0]))
        what = f"train and test patients differ in {listed([text for _, text in found])}"
        remedy = "expected if the split is by time or site; otherwise the test score is for a different population"
        yield Finding("warning", what, where, len(found), remedy)


def flow(content: CohortFlow | None, where: str) -> Iterator[Finding]:
    """Counts and warnings of the cohort's flow: excluded and unlinked images, unusable cells."""
    if content is None:
        what = "the cohort has no flow file, so excluded images and unusable cells are unknown"
        yield Finding("note", what, where, 0, "keep <cohort>.flow.json with the cohort")
        return
    for step in content.steps:
        lost = step.rows_in - step.rows_out
        if lost > 0:
            yield Finding("note", f"{plural(lost, 'image')} excluded: {step.why or step.step}", where, lost, "nothing")
        elif step.why.endswith(UNDECIDED):
            what = f"{step.step}: {step.why.removesuffix(UNDECIDED).rstrip('; ')}"
            yield Finding("warning", what, where, step.rows_out, UNDECIDED)
    for each in content.cautions:
        yield Finding("warning", f"{each.of}: {each.what}", where, each.images, each.remedy)
    links = content.links
    total = links.get("films", 0)
    for name, words in _LINKS.items():
        count = links.get(name, 0)
        if count:
            serious = name in ("no_record", "no_time") and count > 0.05 * total
            remedy = "mortality and ICU are missing for them" if name != "ties" else "nothing"
            what = f"{count:,} of {plural(total, 'image')} {words}"
            yield Finding("warning" if serious else "note", what, where, count, remedy)
    for stays in ("admissions", "ICU stays"):
        backwards = links.get(f"{stays.lower().replace(' ', '_')}_that_end_before_they_begin", 0)
        if backwards:
            what = f"{backwards:,} {stays} end before they begin"
            yield Finding("note", what, where, backwards, "no image is linked to them")
    for name, cells in content.missing.items():
        odd = {cell: count for cell, count in cells.items() if cell not in _UNUSABLE}
        if odd:
            named = listed([f"{cell!r} {count}" for cell, count in odd.items()], most=5)
            what = f"{name}: unusable cells: {named}"
            remedy = "they count as missing; if they have a meaning, define it in the mapping"
            yield Finding("note", what, where, sum(odd.values()), remedy)


def _impossible(name: str, variable: Variable, column: pa.ChunkedArray, where: str) -> Iterator[Finding]:
    remedy = "make the cohort again: `chartray cohort` writes no such value"
    if variable.kind == "numeric":
        numbers = column.to_numpy(zero_copy_only=False).astype(np.float64)
        given = pc.is_valid(column).to_numpy()
        low, high = variable.range or (-np.inf, np.inf)
        odd = np.flatnonzero(given & ~(np.isfinite(numbers) & (numbers >= low) & (numbers <= high)))
        what = f"outside {low:g} to {high:g}" if variable.range else "not a finite number"
    elif variable.kind == "categorical":
        known = pc.is_in(column, value_set=pa.array(variable.levels, pa.string())).to_numpy()
        odd = np.flatnonzero(~known & pc.is_valid(column).to_numpy())
        what = f"other than its levels {', '.join(variable.levels)}"
    else:
        return
    if len(odd):
        yield Finding(
            "error", f"{plural(len(odd), 'image')} with {name} {what}", f"{where}, {rows(odd)}", len(odd), remedy
        )


def _two_sexes(table: pa.Table, metadata: CohortMetadata, where: str) -> Iterator[Finding]:
    if "sex" not in metadata.variables:
        return
    pairs = pa.table({"patient": table["patient_id"], "sex": observed(table, "sex")}).combine_chunks()
    pairs = pairs.filter(pc.is_valid(pairs["sex"])).group_by("patient").aggregate([("sex", "count_distinct")])
    several = int(pc.sum(pc.greater(pairs["sex_count_distinct"], 1)).as_py() or 0)
    if several:
        what = f"{plural(several, 'patient')} with more than one sex"
        remedy = "inspect them: charts may be mixed up, or two patients may share an id"
        yield Finding("warning", what, where, several, remedy)


def _shared_columns(metadata: CohortMetadata, where: str) -> Iterator[Finding]:
    for label, source in metadata.labels.items():
        for name, variable in metadata.variables.items():
            shared = sorted(set(source.columns) & set(variable.columns))
            if shared:
                what = f"the label {label!r} and the variable {name!r} are both made from the column {shared[0]!r}"
                remedy = "a run cannot use both: the chart would contain the label"
                yield Finding("warning", what, where, 1, remedy)


def _numbers(table: pa.Table, metadata: CohortMetadata) -> Iterator[tuple[str, Floats]]:
    """Every column as numbers (N,), NaN where not observed; levels, labels and missingness as 0 or 1."""
    for name, variable in metadata.variables.items():
        column = observed(table, name)
        missing = pc.is_null(column).to_numpy().astype(np.float64)
        if variable.kind == "numeric":
            yield name, column.to_numpy(zero_copy_only=False).astype(np.float64)
        else:
            texts = column.cast(pa.string())
            levels = sorted(level for level in pc.unique(texts).to_pylist() if level is not None)
            for level in levels[1:] if len(levels) == 2 else levels:
                held = pc.equal(texts, level).to_numpy().astype(np.float64)
                yield f"share of {name} {level}", np.where(missing > 0, np.nan, held)
        if missing.any():
            yield f"share of {name} missing", missing
    for name in (name for name in metadata.labels if not odd_cells(table, name).any()):
        yield f"share of {name} positive", truth_of(table, [name], Policy())[:, 0]


def _of_patients(values: Floats, patients: npt.NDArray[np.int64]) -> Floats:
    """The mean of each patient who has a value."""
    finite = np.isfinite(values)
    _, place = np.unique(patients[finite], return_inverse=True)
    means: Floats = np.bincount(place, values[finite]) / np.bincount(place) if finite.any() else np.empty(0)
    return means


def _standardised(train: Floats, test: Floats) -> float | None:
    """The difference of the means in standard deviations; None if too small or too uncertain to report."""
    if min(len(train), len(test)) < 10:
        return None
    spread = np.sqrt((train.var(ddof=1) + test.var(ddof=1)) / 2)
    if spread == 0:
        return None
    gap = float((test.mean() - train.mean()) / spread)
    error = np.sqrt(1 / len(train) + 1 / len(test))
    return gap if abs(gap) > max(_SHIFT, _STANDARD_ERRORS * error) else None
