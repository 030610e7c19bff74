"""What every model of options is made of: ranges in words, and one sentence for a value that does not fit."""

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, get_args, get_origin

from cyclopts import Parameter
from pydantic import (
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    JsonValue,
    ValidationError,
    ValidatorFunctionWrapHandler,
)
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema
from pydantic_core.core_schema import no_info_wrap_validator_function

from chartray.errors import InputError
from chartray.wording import nearest

# Settings by name, as YAML and the command line give them; a section is a mapping of its own.
Knobs = dict[str, JsonValue]

_OUT_OF_RANGE = {"greater_than", "greater_than_equal", "less_than", "less_than_equal", "finite_number"}
_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
_LONGEST_VALUE = 60


class Section(BaseModel):
    """A group of options, each a field with its default, range and meaning; unknown names are refused."""

    model_config = ConfigDict(extra="forbid", validate_default=True, allow_inf_nan=False)

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        """Ends the meaning of an option with its range, and gives it a group in the help."""
        for field in cls.model_fields.values():
            words = f" [range: {found}]" if (found := range_of(field).removeprefix("of ").removeprefix("in ")) else ""
            if field.description and not field.description.endswith("]"):
                field.description += words
            for only in [each for each in field.metadata if isinstance(each, Only)]:
                field.metadata.append(Parameter(group=f"Options of {only.words}"))


class Options(Section):
    """All options of one command: what does not fit is an InputError of one sentence."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        # Around the whole, since a wrap validator of a base class runs inside the validators of its subclasses.
        return no_info_wrap_validator_function(cls._in_one_sentence, handler(source))

    @classmethod
    def _in_one_sentence(cls, given: Any, validate: ValidatorFunctionWrapHandler) -> Any:
        try:
            return validate(given)
        except ValidationError as error:
            raise InputError(sentence(error, cls)) from None


class Only:
    """Marks an option that has a meaning under some protocols alone; the help puts these together."""

    def __init__(self, *protocols: str) -> None:
        self.protocols = protocols

    @property
    def words(self) -> str:
        """As an option of the command line."""
        return f"--protocol {' or '.join(self.protocols)}"


class Option(NamedTuple):
    """One option: its dotted name and its field."""

    name: str
    field: FieldInfo


def options_of(model: type[BaseModel], before: str = "") -> Iterator[Option]:
    """Every option of a model, section by section."""
    for name, field in model.model_fields.items():
        if (section := section_of(field)) is not None:
            yield from options_of(section, f"{before}{name}.")
        else:
            yield Option(before + name, field)


def section_of(field: FieldInfo) -> type[Section] | None:
    """The section that a field holds, None for an option."""
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, Section) else None


def separated(given: Any) -> Any:
    """Values as the command line has them, `a,b`, or as YAML has them, `[a, b]`.

    >>> separated(["a,b", "c"]), separated("[0.2, 1]"), separated(None)
    (['a', 'b', 'c'], ['0.2', '1'], None)
    """
    if isinstance(given, str):
        return [part.strip() for part in given.strip("[]").split(",") if part.strip()]
    if not isinstance(given, list | tuple):
        return given
    return [part for each in given for part in (separated(each) if isinstance(each, str | list) else [each])]


def sentence(error: ValidationError, model: type[BaseModel]) -> str:
    """The first thing that is wrong: the option, what was expected, what was found."""
    first = error.errors()[0]
    known = {option.name: option.field for option in options_of(model)}
    path = [str(part) for part in first["loc"]]
    name = next((part for part in (".".join(path[:end]) for end in (2, 1)) if part in known), ".".join(path))
    if first["type"] == "extra_forbidden":
        return f"unknown option {_flag(name)}{nearest(name, list(known))}"
    if first["type"] in ("value_error", "assertion_error"):
        return str(first["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if first["type"] == "missing" and name == ".".join(path):
        return f"expected {_flag(name)}, found none; give it"
    found = first["input"] if isinstance(first["input"], int | float) else repr(first["input"])
    long = not isinstance(first["input"], str) and len(str(found)) > _LONGEST_VALUE
    short = f"{str(found)[:_LONGEST_VALUE]}..." if long else str(found)
    if name not in known:
        return f"expected a mapping under {name}, found {short}"
    extra = known[name].json_schema_extra
    hint = f"; {extra['hint']}" if isinstance(extra, dict) and "hint" in extra else ""
    return f"expected {_flag(name)} {_wanted(known[name], first['type'])}, found {short}{hint}"


def range_of(field: FieldInfo) -> str:
    """The range of an option, or of each of its values, in words; empty where it has none.

    >>> from pydantic import Field
    >>> class Training(Section):
    ...     rate: float = Field(1.0, gt=0, le=1, description="Learning rate")
    ...     heads: int | None = Field(None, ge=1, description="Attention heads")
    ...     rule: Literal["step", "epoch"] = Field("step", description="When the rate changes")
    >>> [range_of(field) for field in Training.model_fields.values()]
    ['in (0, 1]', 'of 1 or more', '']
    >>> Training.model_fields["heads"].description
    'Attention heads [range: 1 or more]'
    """
    found = [*field.metadata, *(each for kind in get_args(field.annotation) for each in _metadata(kind))]
    limits = {
        name: limit
        for each in found
        for name in ("gt", "ge", "lt", "le")
        if (limit := getattr(each, name, None)) is not None
    }
    low, high = limits.get("gt", limits.get("ge")), limits.get("lt", limits.get("le"))
    if low is not None and high is not None:
        return f"in {'(' if 'gt' in limits else '['}{low:g}, {high:g}{')' if 'lt' in limits else ']'}"
    if low is not None:
        return f"above {low:g}" if "gt" in limits else f"of {low:g} or more"
    return "" if high is None else f"below {high:g}" if "lt" in limits else f"of {high:g} or less"


def _metadata(kind: Any) -> list[Any]:
    """What an annotated type carries: constraints, and those inside of a pydantic field."""
    return [
        inner for each in getattr(kind, "__metadata__", ()) for inner in (getattr(each, "metadata", None) or [each])
    ]


def _wanted(field: FieldInfo, wrong: str) -> str:
    """What the option takes: its range where the value is outside, else its kind or choices."""
    if wrong in _OUT_OF_RANGE and range_of(field):
        return range_of(field)
    if wrong == "too_short":
        return "with at least one value"
    return "to be " + " or ".join(dict.fromkeys(_kinds(field.annotation)))


def _kinds(kind: Any) -> Iterator[str]:
    if get_origin(kind) is Literal:
        yield from map(str, get_args(kind))
    elif get_origin(kind) in (tuple, list):
        yield "values separated by commas"
    elif isinstance(kind, type):
        yield _KINDS.get(kind, kind.__name__.lower()) if kind is not type(None) else "none"
    else:
        for each in get_args(kind):
            yield from _kinds(each)


def _flag(name: str) -> str:
    """The name as its user writes it: knobs of pretraining with a dot, as in YAML; others as on the command line."""
    return name if "." in name else f"--{name.replace('_', '-')}"
