"""Chart rows, the networks' input: [values ; observed] of each variable, fitted on training patients only."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict

from chartray.config.roles import CONTRASTING, ROLES, SUPPRESSING, Role, refuse_contradiction
from chartray.errors import InputError
from chartray.features.sets import AGE_NORM, AGES, EDGES, FEATURE_SETS, LEVELS, OPEN_ENDS, PUBLISHED_NAMES, variable_of
from chartray.schema import EHR_PREFIX, CohortMetadata, Variable, from_metadata
from chartray.wording import listed, nearest

# Roles whose networks read the row: what is missing must be in it. The others only take a loss from what is observed.
_READ: tuple[Role, ...] = ("anchor", "mmcl")


class Encoding(BaseModel):
    """One variable in a chart row: one column per level (one-hot) or one number (x - mean) / std, then its flag.

    `edges` divide a numeric variable into right-closed bins, one more than edges: 30 is in (20, 30].
    Without `flagged` (published rules) a row with a missing value cannot be represented where a network is to read it.
    `bounds`: least and greatest entry of a number in training. A variable has an encoding in each of its roles.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    variable: str
    columns: tuple[str, ...]
    levels: tuple[str, ...] = ()
    edges: tuple[float, ...] = ()
    mean: float = 0.0
    std: float = 1.0
    flagged: bool = True
    bounds: tuple[float, float] = (0.0, 0.0)
    role: Role = "anchor"

    @property
    def width(self) -> int:
        """Number of entries in the row, including the flag."""
        return len(self.columns) + self.flagged

    @property
    def kind(self) -> Literal["numeric", "categorical"]:
        """Categorical if it is one-hot: levels, bins and booleans."""
        return "categorical" if self.levels or self.edges else "numeric"


class ChartRows(NamedTuple):
    """values (N, F); representable (N,), false for a published row with a missing value; observed (N, variables)."""

    values: npt.NDArray[np.float32]
    representable: npt.NDArray[np.bool_]
    observed: npt.NDArray[np.bool_]


class ChartBlock(NamedTuple):
    """A variable's place in a chart row: values in columns start:stop, its flag at `flag` (None: no flag).

    `bounds` are those of its encoding.
    """

    variable: str
    kind: Literal["numeric", "categorical"]
    start: int
    stop: int
    flag: int | None
    role: Role = "anchor"
    bounds: tuple[float, float] = (0.0, 0.0)

    @property
    def end(self) -> int:
        """Where the next variable begins."""
        return self.stop if self.flag is None else self.flag + 1


class Chart(BaseModel):
    """The mapping from an image's chart to a row of F numbers, made by `fit_chart`; it serialises to JSON.

    `after_film` are its variables that are known only after the image and were allowed by name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    ehr: str
    rules: Literal["strict", "published"]
    encodings: tuple[Encoding, ...]
    after_film: tuple[str, ...] = ()

    @property
    def ehr_in(self) -> int:
        """F, the width of a row."""
        return sum(encoding.width for encoding in self.encodings)

    @property
    def variables(self) -> tuple[str, ...]:
        """The cohort's variables, in the order of the row."""
        return tuple(dict.fromkeys(encoding.variable for encoding in self.encodings))

    @property
    def blocks(self) -> tuple[ChartBlock, ...]:
        """The place of each variable in the row."""
        blocks: list[ChartBlock] = []
        start = 0
        for encoding in self.encodings:
            stop = start + len(encoding.columns)
            flag = stop if encoding.flagged else None
            place = (encoding.variable, encoding.kind, start, stop, flag)
            blocks.append(ChartBlock(*place, encoding.role, encoding.bounds))
            start += encoding.width
        return tuple(blocks)

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the F columns."""
        return tuple(
            name
            for encoding in self.encodings
            for name in (*encoding.columns, *([f"{encoding.variable} observed"] if encoding.flagged else []))
        )

    @property
    def flag_columns(self) -> tuple[int, ...]:
        """The positions of the observed flags among the F columns; empty under the published rules."""
        return tuple(block.flag for block in self.blocks if block.flag is not None)

    def rows(self, cohort: pa.Table) -> ChartRows:
        """The chart rows of a cohort's images; a missing value and its flag are 0.

        Raises InputError if the cohort lacks a variable.
        """
        metadata = from_metadata(cohort.schema.metadata)
        missing = [name for name in self.variables if name not in metadata.variables]
        if missing:
            raise InputError(
                f"expected the variable {missing[0]!r} of the chart {self.ehr!r} in the {metadata.source} cohort, "
                f"found {listed(list(metadata.variables))}"
            )
        values = np.zeros((cohort.num_rows, self.ehr_in), dtype=np.float32)
        observed = np.zeros((cohort.num_rows, len(self.encodings)), dtype=bool)
        for index, (encoding, block) in enumerate(zip(self.encodings, self.blocks, strict=True)):
            entries, observed[:, index] = encode(encoding, cohort[EHR_PREFIX + encoding.variable])
            values[:, block.start : block.stop] = entries
            if block.flag is not None:
                values[:, block.flag] = observed[:, index]
        may_lack = np.array([encoding.flagged or encoding.role not in _READ for encoding in self.encodings])
        return ChartRows(values, (observed | may_lack).all(axis=1), observed)


def fit_chart(
    cohort: pa.Table,
    ehr: str,
    *,
    roles: Mapping[str, Sequence[Role]] | None = None,
    bins: int = 4,
    allow_after_film: Sequence[str] = (),
) -> Chart:
    """The chart `ehr` of a cohort, fitted on split `train`: a named set, or variables and sets separated by commas.

    Under the strict rules a row is [values ; observed flag] of each variable, under the published rules the columns of
    docs/method.md. `roles` of sets or variables; by default all of `ehr` joins the anchor. A number that is contrasted
    is divided into `bins` of as many images each. The row is sorted by role, and the anchor's columns come first.
    Raises InputError for an unknown name, a variable that the cohort lacks, one with fewer than two
    observed levels in training, an empty training split, roles of a variable that contradict each other, and a variable
    known only after the image unless `allow_after_film` names the variable itself (a set that contains it is not
    enough).
    """
    metadata = from_metadata(cohort.schema.metadata)
    given = _items_by_role({ehr: ("anchor",)} if roles is None else roles, metadata)
    items = list(dict.fromkeys(item for each in given.values() for item in each))
    for name in allow_after_film:
        if name not in metadata.variables:
            raise InputError(
                f"expected a variable after --chart.allow-after-film, found {name!r}"
                f"{nearest(name, list(metadata.variables))}; the cohort has {listed(list(metadata.variables))}"
            )
    after = [item for item in items if not metadata.variables[variable_of(item)].known_at_film]
    refused = [name for name in after if name not in allow_after_film]
    if refused:
        names = ",".join(refused)
        raise InputError(
            f"expected a chart known when the image was taken, found {', '.join(refused)} in {ehr!r}, known only "
            f"after the image under the {metadata.rules} rules; leave it out, or say --chart.allow-after-film {names}"
        )
    train = cohort.filter(pc.equal(cohort["split"], "train"))
    if train.num_rows == 0:
        raise InputError("expected images in the training split to fit the chart on, found none")
    encodings = tuple(_fit(item, role, metadata, train, bins) for role, each in given.items() for item in each)
    return Chart(ehr=ehr, rules=metadata.rules, encodings=encodings, after_film=tuple(after))


def refuse_shared_columns(cohort: pa.Table, chart_variables: Sequence[str], labels: Sequence[str]) -> None:
    """Raises InputError if a label and a chart variable of a run were made from the same source column."""
    metadata = from_metadata(cohort.schema.metadata)
    for variable in chart_variables:
        for label in labels:
            if variable not in metadata.variables or label not in metadata.labels:
                continue
            shared = set(metadata.variables[variable].columns) & set(metadata.labels[label].columns)
            if shared:
                raise InputError(
                    f"expected labels and chart from different columns, found the label {label!r} and the chart "
                    f"variable {variable!r} both made from {sorted(shared)[0]!r}; leave one of them out of the run"
                )


def _items_by_role(roles: Mapping[str, Sequence[Role]], metadata: CohortMetadata) -> dict[Role, list[str]]:
    """The items of each role but `none`; raises InputError for roles of one variable that contradict each other."""
    found: dict[Role, list[str]] = {role: [] for role in ROLES}
    of_variable: dict[str, list[Role]] = {}
    for name, each in roles.items():
        items = _items(name, metadata)
        for role in each:
            found[role] += [item for item in items if item not in found[role]]
        for item in items:
            of_variable.setdefault(variable_of(item), []).extend(each)
    for variable, each in of_variable.items():
        try:
            refuse_contradiction(variable, each)
        except ValueError as error:
            raise InputError(str(error)) from None
        if any(role in SUPPRESSING for role in each):
            _refuse_suppressed_label(variable, metadata)
    del found["none"]
    for items in found.values():
        ages = [item for item in items if item in AGES]
        if len(ages) > 1:
            raise InputError(f"expected age in one encoding, found {' and '.join(ages)} in {','.join(roles)!r}")
    return {role: items for role, items in found.items() if items}


def _refuse_suppressed_label(variable: str, metadata: CohortMetadata) -> None:
    """Raises InputError if a label was made from a source column of the variable: the finding would be suppressed."""
    for label, source in metadata.labels.items():
        shared = sorted(set(source.columns) & set(metadata.variables[variable].columns))
        if shared:
            raise InputError(
                f"expected suppressed variables and labels from different columns, found the variable {variable!r} and "
                f"the label {label!r} both made from {shared[0]!r}; leave the variable out of chart.roles"
            )


def _items(ehr: str, metadata: CohortMetadata) -> list[str]:
    """The items of a chart by its name: items of the 23 sets and the cohort's own variables."""
    items: list[str] = []
    have = list(metadata.variables)
    for word in (part.strip() for part in ehr.split(",")):
        name = PUBLISHED_NAMES.get(word.replace("_", "-"), word)
        if name in FEATURE_SETS:
            items += FEATURE_SETS[name].items
        elif name in have:
            items.append("age-norm" if name == "age" else name)
        elif word in metadata.labels:
            raise InputError(
                f"expected a feature set or variables for --ehr or chart.roles, found the label {word!r}; a label "
                f"takes no part in pretraining, and this cohort has the variables {listed(have)}"
            )
        else:
            raise InputError(
                f"expected a feature set or variables for --ehr or chart.roles, found {word!r}"
                f"{nearest(word, [*FEATURE_SETS, *have])}; "
                f"this cohort has the variables {listed(have)}, and the sets are {', '.join(FEATURE_SETS)}"
            )
    items = list(dict.fromkeys(items))
    absent = [variable_of(item) for item in items if variable_of(item) not in have]
    if absent:
        raise InputError(
            f"expected the variables of {ehr!r} in the {metadata.source} cohort, found no {', '.join(absent)}; "
            f"it has {listed(have)}"
        )
    return items


def _fit(item: str, role: Role, metadata: CohortMetadata, train: pa.Table, bins: int) -> Encoding:
    name = variable_of(item)
    variable = metadata.variables[name]
    encoding = item_encoding(item, variable, published=metadata.rules == "published")
    entries, observed = encode(encoding, train[EHR_PREFIX + name])
    seen = np.unique(entries[observed], axis=0)
    if len(seen) < 2:
        what = "bins" if encoding.edges else "levels" if encoding.levels else "values"
        raise InputError(
            f"expected at least two observed {what} of {name!r} in the training split, found {len(seen)} in "
            f"{int(observed.sum())} images with a value; leave it out of the chart"
        )
    if role in CONTRASTING and encoding.kind == "numeric":
        numbers = train[EHR_PREFIX + name].cast(pa.float64()).to_numpy()[observed]
        encoding = _in_bins(name, numbers, bins)
    elif encoding.kind == "numeric":
        numbers = entries[observed, 0]
        if encoding.flagged:
            encoding = encoding.model_copy(update={"mean": float(numbers.mean()), "std": float(numbers.std())})
            numbers = (numbers - encoding.mean) / encoding.std
        encoding = encoding.model_copy(update={"bounds": (float(numbers.min()), float(numbers.max()))})
    return encoding.model_copy(update={"role": role, "flagged": encoding.flagged and role in _READ})


def _in_bins(name: str, numbers: npt.NDArray[np.float64], bins: int) -> Encoding:
    """A number in right-closed bins of about as many images each; fewer bins where many values are alike.

    `numbers` has two values or more.
    """
    values, counts = np.unique(numbers, return_counts=True)
    # The last value ends no bin: the one above it would be empty.
    places = np.searchsorted(np.cumsum(counts), len(numbers) * np.arange(1, bins) / bins)
    edges = np.unique(values[np.minimum(places, len(values) - 2)]).tolist()
    names = [f"<={edges[0]:g}", *(f"{a:g}-{b:g}" for a, b in pairwise(edges)), f">{edges[-1]:g}"]
    return Encoding(variable=name, columns=tuple(f"{name} {each}" for each in names), edges=tuple(edges))


def item_encoding(item: str, variable: Variable, *, published: bool) -> Encoding:
    """The encoding of `item`; a number is not yet standardised."""
    name = variable_of(item)
    if item in EDGES:
        if variable.kind != "numeric":
            raise InputError(f"expected 'age' to be numeric for {item}, found {variable.kind}")
        edges = EDGES[item]
        low, high = OPEN_ENDS[item]
        bins = (low, *(f"{a}-{b}" for a, b in pairwise(edges)), high)
        columns = bins if published else tuple(f"{name} {each.strip('*')}" for each in bins)
        return Encoding(variable=name, columns=columns, edges=edges, flagged=not published)
    if variable.kind == "numeric":
        if published and item == "age-norm":
            return Encoding(variable=name, columns=("age_norm",), mean=AGE_NORM[0], std=AGE_NORM[1], flagged=False)
        return Encoding(variable=name, columns=(name,), flagged=True)
    levels = ("false", "true") if variable.kind == "boolean" else variable.levels
    if published and item in LEVELS:
        levels = LEVELS[item]
        return Encoding(variable=name, columns=levels, levels=levels, flagged=False)
    return Encoding(variable=name, columns=tuple(f"{name}={level}" for level in levels), levels=levels)


def encode(encoding: Encoding, column: Any) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """The value entries (N, columns) of a variable, 0 where missing, and where it was observed (N,)."""
    if encoding.kind == "numeric" or encoding.edges:
        numbers = column.cast(pa.float64()).to_numpy().astype(np.float64)
        observed = np.isfinite(numbers)
        if not encoding.edges:
            scaled = (np.where(observed, numbers, encoding.mean) - encoding.mean) / encoding.std
            return scaled[:, None], observed
        place = np.searchsorted(encoding.edges, np.where(observed, numbers, 0.0), side="left")
    else:
        found = pc.index_in(column.cast(pa.string()), value_set=pa.array(encoding.levels, pa.string()))
        observed = pc.is_valid(found).to_numpy()
        place = pc.fill_null(found, 0).to_numpy()
    one_hot = np.zeros((len(observed), len(encoding.columns)))
    rows = np.flatnonzero(observed)
    one_hot[rows, place[rows]] = 1.0
    return one_hot, observed
