"""The entries of a mapping: how a chart variable or a label is made from columns, and what their cells mean."""

import re
from itertools import combinations
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from chartray.records.mapping_keys import refuse_other_keys
from chartray.records.parsing import number
from chartray.records.units import TO_CELSIUS, Conversion, conversion_of, is_celsius
from chartray.schema import Variable

Number = int | float


def _named(column: str) -> str:
    if not column.strip():
        raise ValueError("needs the name of a column, found none")
    return column


Column = Annotated[str, AfterValidator(_named)]


class Cells(BaseModel):
    """The keys of every mapped column; keys that do not apply to its kind are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    column: Column | None = None
    starts: Column | None = None
    ends: Column | None = None
    true_cells: tuple[str, ...] = Field((), alias="true")
    false_cells: tuple[str, ...] = Field((), alias="false")
    separator: Annotated[str, Field(min_length=1)] | None = None
    others_mean: bool | None = None
    present_means: bool | None = None
    absent_means: bool | None = None

    @field_validator("true_cells", "false_cells", "uncertain_cells", "unknown_cells", mode="before", check_fields=False)
    @classmethod
    def _texts(cls, cells: Any) -> Any:
        return list_of_cells(cells)

    @field_validator("others_mean", "present_means", "absent_means", mode="before")
    @classmethod
    def _truth(cls, meaning: Any, info: ValidationInfo) -> Any:
        """A boolean, not a cell: the meaning of cells is given by lists."""
        if meaning is None or str(meaning).lower() in ("true", "false", "1", "0"):
            return meaning
        cells = {
            "present_means": "any cell that is not blank",
            "others_mean": "any cell that is in none of the lists",
        }.get(str(info.field_name), "a blank cell")
        raise ValueError(
            f"needs true or false, the meaning of {cells}, found {meaning!r}; list the cells that mean true: "
            f"true: [{meaning}]"
        )

    @property
    def blank_means(self) -> bool | None:
        """The meaning of a blank cell: `absent_means`, or that of the list with ''; None: missing."""
        if "" in self.true_cells:
            return True
        return False if "" in self.false_cells else self.absent_means

    @property
    def read_by_spelling(self) -> bool:
        """Whether its cells have no stated meaning, so that common spellings of booleans are read."""
        stated = (self.present_means, self.absent_means, self.others_mean, self.separator)
        return not (self.true_cells or self.false_cells) and all(meaning is None for meaning in stated)

    @property
    def interval(self) -> bool:
        """Whether it is true if the image (day 0) is between two offsets."""
        return getattr(self, "kind", None) == "interval"

    def check_interval(self) -> None:
        """Raises ValueError unless both offsets of the interval are given."""
        if not (self.starts and self.ends):
            raise ValueError("an interval needs 'starts' and 'ends', columns of days from the image")


class VariableMapping(Cells):
    """One entry of `ehr`: a chart variable."""

    kind: Literal["numeric", "categorical", "boolean", "interval"]
    levels: dict[str, str] = Field(default_factory=dict)
    range: tuple[Number, Number] | None = None
    unit: str | None = None
    group: str | None = None
    # Of a chart of events (`charts: model`): the codes, or patterns such as LAB//50912//*, and how their values are
    # brought to the unit of the variable; the same for the `units` of their rows.
    codes: dict[str, Conversion] = Field(default_factory=dict)
    units: dict[str, Conversion] = Field(default_factory=dict)
    during: bool = False
    years_since: bool = False
    days_from_film: Column | None = None
    window_days: tuple[Number | None, Number | None] = (None, 0)
    known_at_film: bool | None = None

    @field_validator("levels", mode="before")
    @classmethod
    def _named(cls, levels: Any) -> Any:
        """A list of levels, or cell -> level."""
        if isinstance(levels, list):
            return {_text(level): _text(level) for level in levels}
        if isinstance(levels, dict):
            return {_text(cell): _text(level, "level") for cell, level in levels.items()}
        words = ", ".join(re.findall(r"[^\s,;/|]+", str(levels)))
        raise ValueError(f"needs a list of levels, [{words}], or a level for each cell, {{cell: level}}")

    @field_validator("codes", "units", mode="before")
    @classmethod
    def _factors(cls, listed: Any, info: ValidationInfo) -> Any:
        """A list, whose values stay as they are, or factors by code or unit."""
        if isinstance(listed, list) and listed:
            return dict.fromkeys((str(each) for each in listed), Conversion(1.0))
        if isinstance(listed, dict) and listed:
            return {str(each): conversion_of(given) for each, given in listed.items()}
        raise ValueError(
            f"needs a list of {info.field_name}, or the factor of each, {{{str(info.field_name)[:-1]}: factor}}"
        )

    @field_validator("range", "window_days", mode="before")
    @classmethod
    def _two_numbers(cls, limits: Any, info: ValidationInfo) -> Any:
        """A list of two numbers; in a window either may be null."""
        open_ended = info.field_name == "window_days"
        if (
            isinstance(limits, (list, tuple))
            and len(limits) == 2
            and all(_is_limit(limit, open_ended) for limit in limits)
        ):
            return limits
        written = re.fullmatch(r"\s*(-?[\d.]+)\s*(?:-|to|bis|\.\.|,)\s*(-?[\d.]+)\s*", str(limits))
        example = ", ".join(written.groups()) if written else "-2, 0" if open_ended else "0, 600"
        raise ValueError(f"needs a list of two numbers, [{example}], found {limits!r}")

    @model_validator(mode="before")
    @classmethod
    def _of_its_kind(cls, entry: Any) -> Any:
        """Checked first, so that errors are not about the value of a key that does not apply."""
        entry = refuse_other_keys(entry, "ehr")
        if isinstance(entry, dict) and entry.get("codes") and not entry.get("column"):
            # A column of this name is made, one for each window.
            window = f" {entry['window_days']}" if "window_days" in entry else ""
            made: dict[str, object] = {"column": " | ".join(map(str, entry["codes"])) + window}
            if entry.get("kind") == "boolean":  # its cells are made, too
                made |= {"true": ["1"], "false": ["0"]} if entry.get("during") else {"present_means": True}
            return made | entry
        return entry

    @model_validator(mode="after")
    def _fitting(self) -> "VariableMapping":
        if self.kind == "interval":
            self.check_interval()
            return self
        if self.column is None:
            raise ValueError("needs 'column', the table's column to read")
        if self.kind == "categorical":
            if len(set(self.levels.values())) < 2:
                raise ValueError("a categorical variable needs 'levels', at least two")
        elif self.kind == "numeric":
            if self.range is None or not self.range[0] < self.range[1]:
                raise ValueError("a numeric variable needs 'range', the lowest and the highest possible value")
        elif not self.read_by_spelling:
            _check_meanings(self)
            _check_blank(self)
        wanting = [key for key in ("units", "during", "years_since") if getattr(self, key)]
        if wanting and not self.codes:
            raise ValueError(f"{wanting[0]!r} needs 'codes', those of the events it is about")
        if self.codes and self.days_from_film is not None:
            raise ValueError("expected 'codes' or 'days_from_film', found both")
        if "window_days" in self.model_fields_set and self.days_from_film is None and not self.codes:
            raise ValueError("'window_days' needs 'days_from_film', the column that it limits")
        scales = any(each in TO_CELSIUS.values() for each in (*self.codes.values(), *self.units.values()))
        if scales and self.unit is not None and not is_celsius(self.unit):
            raise ValueError(f"{' and '.join(TO_CELSIUS)} lead to 'unit' C, found {self.unit!r}")
        first, last = self.window_days
        if first is not None and last is not None and first > last:
            raise ValueError(f"'window_days' needs its earlier day first, found {first} and {last}")
        if self.reaches_past_image and self.known_at_film:
            raise ValueError("'known_at_film' cannot be true for a window that ends after the image (day 0)")
        return self

    @property
    def of_blank(self) -> bool | str | None:
        """The value of a blank cell; None: missing."""
        return self.levels.get("") if self.kind == "categorical" else self.blank_means

    @property
    def reaches_past_image(self) -> bool:
        """Whether it includes values from after the image."""
        return bool(self.days_from_film or self.codes) and (self.window_days[1] is None or self.window_days[1] > 0)

    @property
    def known(self) -> bool:
        """Whether the value is known when the image is taken: `known_at_film`, else by the window."""
        return not self.reaches_past_image if self.known_at_film is None else self.known_at_film

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column it is made from."""
        return tuple(name for name in (self.column, self.starts, self.ends, self.days_from_film) if name)

    def described(self) -> Variable:
        """Its entry in the cohort's metadata, where an interval is a boolean."""
        return Variable(
            kind="boolean" if self.kind == "interval" else self.kind,
            levels=tuple(dict.fromkeys(self.levels.values())),
            range=self.range,
            unit=self.unit,
            group=self.group,
            known_at_film=self.known,
            columns=self.columns,
        )


class LabelMapping(Cells):
    """One entry of `labels`: a column of 1, 0, -1 or blank, cells with a stated meaning, or an interval."""

    kind: Literal["label", "boolean", "interval"] = "label"
    uncertain_cells: tuple[str, ...] = Field((), alias="uncertain")
    unknown_cells: tuple[str, ...] = Field((), alias="unknown")
    blank_cells: Literal["negative", "unknown"] | None = Field(None, alias="blank")

    @model_validator(mode="before")
    @classmethod
    def _of_its_kind(cls, entry: Any) -> Any:
        """As for a variable."""
        return refuse_other_keys(entry, "labels")

    @model_validator(mode="after")
    def _fitting(self) -> "LabelMapping":
        if self.kind == "interval":
            self.check_interval()
            return self
        if self.column is None:
            raise ValueError("needs 'column', the table's column to read")
        if self.means_something:
            _check_meanings(self, self.uncertain_cells, self.unknown_cells)
        if self.blank_cells is not None and self.absent_means is not None:
            raise ValueError("'blank' and 'absent_means' both define a blank cell; give only one")
        _check_blank(self, self.uncertain_cells)
        return self

    @property
    def blank_means(self) -> bool | None:
        return False if self.blank_cells == "negative" else super().blank_means

    @property
    def means_something(self) -> bool:
        """Whether filled cells have a stated meaning, instead of being 1, 0 or -1."""
        uncertain = self.uncertain_cells not in ((), ("",))
        stated = (self.present_means, self.others_mean, self.separator)
        return bool(self.true_cells or self.false_cells or uncertain) or any(each is not None for each in stated)

    @property
    def blank(self) -> Literal["negative", "positive", "uncertain", "unknown"]:
        """The meaning of a blank cell, as in the cohort's metadata."""
        if "" in self.uncertain_cells:
            return "uncertain"
        return "unknown" if self.blank_means is None else "positive" if self.blank_means else "negative"

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column it is made from."""
        return tuple(name for name in (self.column, self.starts, self.ends) if name)


def _is_limit(limit: Any, open_ended: bool) -> bool:
    if limit is None or isinstance(limit, bool):
        return limit is None and open_ended
    return number(str(limit)) is not None or str(limit) in ("inf", "-inf")


def list_of_cells(cells: Any) -> list[str]:
    """The texts of a list of cells as YAML reads it; raises ValueError for anything else."""
    if not isinstance(cells, (list, tuple)):
        raise ValueError(f"needs a list of cells, [{_text(cells)}]")
    return [_text(cell) for cell in cells]


def _text(cell: Any, what: str = "cell") -> str:
    if isinstance(cell, bool) or cell is None:
        place = " as in the table" if what == "cell" else ""
        raise ValueError(f"YAML reads this {what} as {cell}; write it in quotes{place}")
    return str(cell).strip()


def _check_meanings(cells: Cells, uncertain: tuple[str, ...] = (), unknown: tuple[str, ...] = ()) -> None:
    listed, stated = cells.true_cells + cells.false_cells, cells.present_means
    if cells.others_mean is not None and not listed:
        raise ValueError("'others_mean' needs 'true' or 'false', the cells that mean the contrary")
    if cells.separator is not None and not listed:
        raise ValueError("'separator' needs 'true', the findings in the cell that mean it")
    if uncertain and not listed:
        raise ValueError("'uncertain' also needs the lists 'true' and 'false', [1] and [0] in a column of numbers")
    if bool(listed) == (stated is not None):
        raise ValueError("needs lists of cells under 'true' and 'false', or 'present_means' (not both)")
    lists = {"true": cells.true_cells, "false": cells.false_cells, "uncertain": uncertain, "unknown": unknown}
    for (one, ours), (other, theirs) in combinations(lists.items(), 2):
        both = sorted(set(ours) & set(theirs))
        if both:
            raise ValueError(f"the cell {both[0]!r} is in both {one!r} and {other!r}")


def _check_blank(cells: Cells, uncertain: tuple[str, ...] = ()) -> None:
    """Raises ValueError if a blank cell has two meanings."""
    if cells.absent_means is not None and "" in cells.true_cells + cells.false_cells + uncertain:
        raise ValueError("'absent_means' and '' in a list both define a blank cell; give only one")
