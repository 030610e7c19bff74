"""What an image may reveal other than disease: the chart variables of a cohort, and a coin flip as negative control."""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from chartray.errors import InputError
from chartray.evaluation.image_set import ImageSet, metadata_of
from chartray.pixels.store import Store
from chartray.schema import EHR_PREFIX, Variable, patient_key
from chartray.wording import nearest

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

# A random coin flip per patient, from a hash of the patient's id. No image shows it, so its AUROC must be 0.5.
COIN = "coin (control)"
_COIN_LEVELS = ("heads", "tails")
# Age bands in years: working age is split once, and so are the ages in which most images of a hospital are taken.
AGE_BANDS = (40.0, 60.0, 80.0)


class Attribute(NamedTuple):
    """A variable to predict: a category with the `levels` that training has, or a number (no levels).

    `edges` cut a number into subgroups; 40 falls into [40, 60).
    """

    name: str
    levels: tuple[str, ...]
    edges: tuple[float, ...]
    unit: str | None
    known_at_film: bool

    @property
    def targets(self) -> tuple[str | None, ...]:
        """What a probe predicts: each level against the rest, the first of two levels, or the number itself."""
        if len(self.levels) > 2:
            return self.levels
        return self.levels[:1] or (None,)

    @property
    def subgroups(self) -> tuple[str, ...]:
        """The levels, or the bands of a number."""
        if self.levels:
            return self.levels
        inner = [f"{low:g} to {high:g}" for low, high in zip(self.edges, self.edges[1:], strict=False)]
        return (f"under {self.edges[0]:g}", *inner, f"{self.edges[-1]:g} and over")


def chosen_attributes(home: Store, names: Sequence[str] | None) -> tuple[list[Attribute], dict[str, str]]:
    """The attributes of `names`, or all variables of the store with two levels in training; the coin comes last.

    Without `names`, also the variables that were left out, and why. Raises InputError if a named variable is absent or
    constant in the training split, or if none is left.
    """
    present = metadata_of(home).variables
    train = home.cohort.filter(pc.equal(home.cohort["split"], "train"))
    left_out: dict[str, str] = {}
    found: list[Attribute] = []
    named = [name.strip().removeprefix(EHR_PREFIX) for name in names or ()]
    wanted = list(dict.fromkeys(named)) if names else list(present)
    for name in wanted:
        if name not in present:
            hint = nearest(name, list(present))
            raise InputError(
                f"expected a variable of the cohort of {home.folder} after --attributes, found {name!r}{hint}; "
                f"it holds {', '.join(present) or 'none'}"
            )
        attribute, seen = _attribute(name, present[name], train)
        if attribute is not None:
            found.append(attribute)
            continue
        reason = (
            f"expected two levels or more of the attribute {name!r} in the training split of {home.folder}, "
            f"found {seen}; leave it out of --attributes"
        )
        if names:
            raise InputError(reason)
        left_out[name] = reason
    if not found:
        raise InputError(
            f"expected a chart variable with two levels or more in the training split of {home.folder}, found none "
            f"among {', '.join(present) or 'no variables'}"
        )
    return [*found, Attribute(COIN, _COIN_LEVELS, (), None, True)], left_out


def _attribute(name: str, variable: Variable, train: pa.Table) -> tuple[Attribute | None, str]:
    """The attribute; or None, and what the training split has of it."""
    column = train[EHR_PREFIX + name]
    observed = len(column) - column.null_count
    if variable.kind == "numeric":
        numbers = np.array(column.drop_null().to_pylist(), dtype=np.float64)
        if len(np.unique(numbers)) < 2:
            return None, f"{len(np.unique(numbers))} in {observed} images with a value"
        bands = (
            AGE_BANDS if (name, variable.unit) == ("age", "years") else np.quantile(numbers, (1 / 3, 2 / 3)).tolist()
        )
        edges = tuple(dict.fromkeys(float(edge) for edge in bands))
        return Attribute(name, (), edges, variable.unit, variable.known_at_film), ""
    counts = {entry["values"]: entry["counts"] for entry in pc.value_counts(column.cast(pa.string())).to_pylist()}
    order = variable.levels or ("true", "false")
    levels = tuple(level for level in order if counts.get(level))
    if len(levels) < 2:
        held = ", ".join(f"{level} in {counts[level]} images" for level in levels)
        return None, held or f"none in {train.num_rows} images"
    return Attribute(name, levels, (), None, variable.known_at_film), ""


def why_not_available(attribute: Attribute, store: Store) -> str | None:
    """Why an attribute cannot be evaluated on a store; None if the store has it in the same form and unit."""
    if attribute.name == COIN:
        return None
    variable = metadata_of(store).variables.get(attribute.name)
    if variable is None:
        return "the store does not have this variable"
    if (variable.kind == "numeric") != (not attribute.levels):
        return f"expected a {'category' if attribute.levels else 'number'} as in training, found {variable.kind}"
    if not attribute.levels and variable.unit != attribute.unit:
        return f"expected it in {attribute.unit or 'no unit'} as in training, found {variable.unit or 'no unit'}"
    return None


def subgroup_codes(attribute: Attribute, images: ImageSet) -> Integers:
    """(N,): the number of each image's subgroup (its level, or the band of its number), -1 where it is unknown."""
    if attribute.name == COIN:
        source = metadata_of(images.store).source
        people, place = np.unique(images.patients, return_inverse=True)
        return np.array([_coin_flip(source, patient) for patient in people.tolist()], dtype=np.int64)[place]
    column = _column(attribute, images)
    if attribute.levels:
        found = pc.index_in(column.cast(pa.string()), value_set=pa.array(attribute.levels, pa.string()))
        codes: Integers = pc.fill_null(found, -1).to_numpy(zero_copy_only=False).astype(np.int64)
        return codes
    numbers = _numbers(column)
    bands = np.searchsorted(attribute.edges, numbers, side="right").astype(np.int64)
    return np.where(np.isfinite(numbers), bands, -1)


def attribute_values(attribute: Attribute, images: ImageSet) -> Floats:
    """(N, K): 1 and 0 for each level of `targets`, or the number (N, 1); NaN where it is unknown."""
    if not attribute.levels:
        return _numbers(_column(attribute, images))[:, None]
    codes = subgroup_codes(attribute, images)
    truth: Floats = (codes[:, None] == np.arange(len(attribute.targets))).astype(np.float64)
    truth[codes < 0] = np.nan
    return truth


def _column(attribute: Attribute, images: ImageSet) -> pa.Array:
    column = images.store.cohort[EHR_PREFIX + attribute.name].take(pa.array(images.rows))
    return column.combine_chunks()


def _numbers(column: pa.Array) -> Floats:
    numbers: Floats = column.cast(pa.float64()).to_numpy(zero_copy_only=False).astype(np.float64)
    return np.where(np.isfinite(numbers), numbers, np.nan)


def _coin_flip(source: str, patient: str) -> int:
    return hashlib.sha256(f"coin/{patient_key(source, patient)}".encode()).digest()[0] % 2
