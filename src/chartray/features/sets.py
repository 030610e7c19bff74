"""The 23 published charts: their variables, encodings, columns and files."""

from typing import NamedTuple

from chartray.schema import ICU_LEVELS, MORTALITY_LEVELS, POSITION_LEVELS, SEX_LEVELS, VIEW_LEVELS

EDGES = {"age-10": tuple(range(20, 91, 10)), "age-5": tuple(range(20, 91, 5))}
# The published files mark the open ends of the 10-year bins with a star.
OPEN_ENDS = {"age-10": ("<20*", "90+*"), "age-5": ("<20", "90+")}
AGES = ("age-norm", "age-10", "age-5")
LEVELS = {
    "sex": SEX_LEVELS,
    "view": VIEW_LEVELS,
    "position": POSITION_LEVELS,
    "mortality": MORTALITY_LEVELS,
    "icu": ICU_LEVELS,
}
# Published age_norm = (a - 16) / 84: ages 16 to 100 were observed.
AGE_NORM = (16.0, 84.0)


class FeatureSet(NamedTuple):
    """A named chart: its encoded variables in column order, and its published file (without .csv)."""

    items: tuple[str, ...]
    file: str


def _sets() -> dict[str, FeatureSet]:
    single = {"sex": "gender", "age-norm": "age-norm", "age-10": "age10", "age-5": "age5", "position": "orientation"}
    names = ("sex", *AGES, "view", "position", "mortality", "icu")
    sets = {name: FeatureSet((name,), f"single-variable/meta-{single.get(name, name)}-only") for name in names}
    scan, stay = ("view", "position"), ("mortality", "icu")
    for age, file in zip(AGES, ("socio-norm", "socio-age10", "socio-age5"), strict=True):
        sets[age.replace("age", "demographic")] = FeatureSet(("sex", age), f"single-group/{file}")
    sets["scan"] = FeatureSet(scan, "single-group/image_meta")
    sets["stay"] = FeatureSet(stay, "single-group/clinical")
    for name, items, file in (("scan", scan, "image-meta"), ("stay", stay, "clinical")):
        for age in AGES:
            set_name = f"{age.replace('age', 'demographic')}+{name}"
            sets[set_name] = FeatureSet(("sex", age, *items), f"combinations/socio-{age}-{file}")
    sets["scan+stay"] = FeatureSet((*scan, *stay), "combinations/image-meta-clinical")
    for age in AGES:
        sets[age.replace("age", "all")] = FeatureSet(("sex", age, *scan, *stay), f"all/all-{age}")
    return sets


FEATURE_SETS = _sets()
PUBLISHED_NAMES = {feature.file.split("/")[1].replace("_", "-"): name for name, feature in FEATURE_SETS.items()}


def variable_of(item: str) -> str:
    """The cohort variable of an item.

    >>> variable_of("age-10"), variable_of("icu")
    ('age', 'icu')
    """
    return "age" if item in AGES else item
