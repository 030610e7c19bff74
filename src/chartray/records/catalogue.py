"""The laboratory and vital values that `cohort mimic` knows: MIMIC-IV's item ids, units and possible values.

Item ids are those of hosp/d_labitems and icu/d_items; a test compares their labels and fluids.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from chartray.errors import InputError
from chartray.records.as_of import Window, hours
from chartray.records.measurements import Measurement
from chartray.records.units import TO_CELSIUS, Conversion, same_unit
from chartray.schema import Variable
from chartray.wording import nearest

Group = Literal["laboratory", "vital", "body"]
GROUPS: tuple[Group, ...] = ("laboratory", "vital", "body")
# Hours that a value counts, by group, unless the command says otherwise.
_WINDOW_HOURS = {"laboratory": 72.0, "vital": 24.0, "body": 365 * 24.0}
_TABLES = {"laboratory": "labevents", "vital": "chartevents", "body": "omr"}
_SAME = Conversion(1.0)
_PER_LITRE = {"g/dL": _SAME, "g/L": Conversion(0.1)}
_CELLS = {"K/uL": _SAME, "10^9/L": _SAME, "10*9/L": _SAME, "10^3/uL": _SAME, "10*3/uL": _SAME}
_MILLIMOLES = {"mmol/L": _SAME, "mEq/L": _SAME}
_PRESSURE = {"mmHg": _SAME, "mm Hg": _SAME, "kPa": Conversion(7.50062)}
_ENZYME = {"U/L": _SAME, "IU/L": _SAME}


class Quantity(NamedTuple):
    """One entry: MIMIC's item ids (of omr: names of results), unit, range in that unit, and the units it accepts."""

    group: Group
    items: tuple[int | str, ...]
    unit: str
    range: tuple[float, float]
    units: dict[str, Conversion]

    @property
    def table(self) -> str:
        """The table of MIMIC-IV that it stands in."""
        return _TABLES[self.group]

    def measurement(self, name: str, window_hours: float | None) -> Measurement:
        """What is read of it; `window_hours` None: the group's own."""
        window = Window(-hours(_WINDOW_HOURS[self.group] if window_hours is None else window_hours))
        units = {same_unit(unit): conversion for unit, conversion in self.units.items()}
        return Measurement(name, {str(item): _SAME for item in self.items}, units, self.range, window)

    def variable(self) -> Variable:
        """Its entry in the cohort's metadata."""
        columns = tuple(f"{self.table}.{item}" for item in self.items)
        return Variable(kind="numeric", range=self.range, unit=self.unit, group=self.group, columns=columns)


CATALOGUE: dict[str, Quantity] = {
    "creatinine": Quantity(
        "laboratory", (50912,), "mg/dL", (0.05, 50), {"mg/dL": _SAME, "umol/L": Conversion(1 / 88.42)}
    ),
    "urea_nitrogen": Quantity("laboratory", (51006,), "mg/dL", (1, 400), {"mg/dL": _SAME, "mmol/L": Conversion(2.801)}),
    "sodium": Quantity("laboratory", (50983,), "mmol/L", (80, 220), _MILLIMOLES),
    "potassium": Quantity("laboratory", (50971,), "mmol/L", (1, 15), _MILLIMOLES),
    "chloride": Quantity("laboratory", (50902,), "mmol/L", (40, 180), _MILLIMOLES),
    "bicarbonate": Quantity("laboratory", (50882,), "mmol/L", (1, 70), _MILLIMOLES),
    "glucose": Quantity("laboratory", (50931,), "mg/dL", (5, 3000), {"mg/dL": _SAME, "mmol/L": Conversion(18.016)}),
    "lactate": Quantity("laboratory", (50813,), "mmol/L", (0.05, 50), {"mmol/L": _SAME, "mg/dL": Conversion(1 / 9.01)}),
    "haemoglobin": Quantity("laboratory", (51222,), "g/dL", (1, 30), _PER_LITRE | {"mmol/L": Conversion(1.611)}),
    "white_cells": Quantity("laboratory", (51301,), "K/uL", (0, 1000), _CELLS),
    "platelets": Quantity("laboratory", (51265,), "K/uL", (0, 5000), _CELLS),
    "crp": Quantity("laboratory", (50889,), "mg/L", (0, 1000), {"mg/L": _SAME, "mg/dL": Conversion(10.0)}),
    "troponin_t": Quantity(
        "laboratory", (51003,), "ng/mL", (0, 100), {"ng/mL": _SAME, "ug/L": _SAME, "ng/L": Conversion(0.001)}
    ),
    "ntprobnp": Quantity("laboratory", (50963,), "pg/mL", (0, 200_000), {"pg/mL": _SAME, "ng/L": _SAME}),
    # A plain ng/mL says neither fibrinogen equivalents nor D-dimer units, which differ by a factor of two.
    "d_dimer": Quantity(
        "laboratory", (50915, 51196), "ng/mL FEU", (0, 200_000), {"ng/mL FEU": _SAME, "ug/L FEU": _SAME}
    ),
    "inr": Quantity("laboratory", (51237,), "ratio", (0.3, 30), {"": _SAME, "ratio": _SAME}),
    "albumin": Quantity("laboratory", (50862,), "g/dL", (0.3, 10), _PER_LITRE),
    "bilirubin": Quantity(
        "laboratory", (50885,), "mg/dL", (0, 100), {"mg/dL": _SAME, "umol/L": Conversion(1 / 17.104)}
    ),
    "alt": Quantity("laboratory", (50861,), "U/L", (0, 50_000), _ENZYME),
    "ph": Quantity("laboratory", (50820,), "pH", (6, 8.5), {"units": _SAME, "": _SAME, "pH": _SAME}),
    "pco2": Quantity("laboratory", (50818,), "mmHg", (3, 250), _PRESSURE),
    "po2": Quantity("laboratory", (50821,), "mmHg", (5, 800), _PRESSURE),
    "heart_rate": Quantity("vital", (220045,), "1/min", (0, 350), {"bpm": _SAME, "1/min": _SAME}),
    "respiratory_rate": Quantity("vital", (220210,), "1/min", (0, 120), {"insp/min": _SAME, "1/min": _SAME}),
    "oxygen_saturation": Quantity("vital", (220277,), "%", (1, 100), {"%": _SAME}),
    "systolic_pressure": Quantity("vital", (220179, 220050), "mmHg", (20, 350), _PRESSURE),
    "diastolic_pressure": Quantity("vital", (220180, 220051), "mmHg", (5, 250), _PRESSURE),
    "temperature": Quantity("vital", (223761, 223762), "C", (20, 45), {"C": _SAME, "F": TO_CELSIUS["fahrenheit"]}),
    "weight": Quantity("body", ("Weight (Lbs)",), "kg", (1, 500), {"Lbs": Conversion(0.45359237), "kg": _SAME}),
    "height": Quantity("body", ("Height (Inches)",), "cm", (30, 250), {"Inches": Conversion(2.54), "cm": _SAME}),
    "bmi": Quantity("body", ("BMI (kg/m2)",), "kg/m2", (5, 150), {"kg/m2": _SAME}),
}


def chosen(names: Sequence[str]) -> dict[str, Quantity]:
    """The entries of these names, groups or `all`; raises InputError for another, with the nearest name."""
    found: dict[str, Quantity] = {}
    for name in names:
        group = {each: entry for each, entry in CATALOGUE.items() if name in ("all", entry.group)}
        if name in CATALOGUE:
            group = {name: CATALOGUE[name]}
        if not group:
            known = [*GROUPS, *CATALOGUE]
            raise InputError(
                f"expected --measured of all, {', '.join(known)}, found {name!r}{nearest(name.lower(), known)}"
            )
        found |= group
    return found
