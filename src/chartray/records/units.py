"""Units of measured values: how they are written, and how a value in one is brought to another."""

import math
import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple, TypeVar

Found = TypeVar("Found")


class Conversion(NamedTuple):
    """A unit's way to the variable's: value * `scale` + `shift`."""

    scale: float
    shift: float = 0.0


# Temperatures are no multiples of each other: these are the ways to degrees Celsius.
TO_CELSIUS = {"fahrenheit": Conversion(1 / 1.8, -32 / 1.8), "kelvin": Conversion(1.0, -273.15)}
_CELSIUS = ("c", "degc", "cel", "celsius", "degreescelsius")


def same_unit(unit: str) -> str:
    """A unit in one spelling.

    >>> [same_unit(unit) for unit in ("mg/dL", "MG / DL", "µmol/L", "mm Hg", "°F")]
    ['mg/dl', 'mg/dl', 'umol/l', 'mmhg', 'f']
    """
    return re.sub(r"[\s°º]", "", unit).translate(str.maketrans("µμ", "uu")).lower()


def is_celsius(unit: str) -> bool:
    """Whether a unit is a spelling of degrees Celsius.

    >>> is_celsius("°C"), is_celsius("F")
    (True, False)
    """
    return same_unit(unit) in _CELSIUS


def conversion_of(given: Any) -> Conversion:
    """What a mapping says: a factor, a factor and an offset, or the name of a temperature scale.

    Raises ValueError for anything else.

    >>> conversion_of(0.1), conversion_of({"factor": 2, "offset": -1})
    (Conversion(scale=0.1, shift=0.0), Conversion(scale=2.0, shift=-1.0))
    """
    if isinstance(given, Conversion):
        return given
    if isinstance(given, str) and given.lower() in TO_CELSIUS:
        return TO_CELSIUS[given.lower()]
    parts = given if isinstance(given, dict) and given.keys() <= {"factor", "offset"} and given else {"factor": given}
    numbers = [_number(parts.get("factor", 1)), _number(parts.get("offset", 0))]
    if None in numbers or numbers[0] == 0:
        raise ValueError(
            f"needs a factor other than 0, {{factor: 0.5556, offset: -17.78}}, or {' or '.join(TO_CELSIUS)} (to °C), "
            f"found {given!r}"
        )
    return Conversion(*(each for each in numbers if each is not None))


def _number(given: Any) -> float | None:
    try:
        found = math.nan if isinstance(given, bool) else float(given)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def of_code(code: str, patterns: Mapping[str, Found]) -> Found | None:
    """What the first pattern stands for that the code matches: a code itself, or with * and ?; None if none does.

    >>> of_code("LAB//50912//mg/dL", {"LAB//50912//*": 1.0}), of_code("BMI (kg/m2)", {"BMI (kg/m2)": 1.0})
    (1.0, 1.0)
    """
    return next((found for each, found in patterns.items() if code == each or fnmatchcase(code, each)), None)
