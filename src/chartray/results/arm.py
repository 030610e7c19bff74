"""What is compared: how an encoder was pretrained, or which baseline was scored with it; and what it is called."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from pydantic import Field
from pydantic.dataclasses import dataclass

from chartray.config.roles import roles_in
from chartray.networks.description import UNKNOWN_PRETRAINING

# What is scored with an encoder: baselines without pretraining, and one that reads its embedding and the chart.
UNTRAINED, PIXELS, CHART_ONLY, IMAGE_CHART = BASELINES = ("untrained", "pixels", "chart-only", "image+chart")
CHART_BASELINES = (CHART_ONLY, IMAGE_CHART)
NO_CHART = "no chart"
# The objective of runs that name none, and the one that titles leave unsaid.
MSN = "msn"
# Ending of a data set's name: the part of it that radiologists labelled. It is no further data set.
RADIOLOGISTS = ":radiologists"
_DATASETS = {"mimic": "MIMIC-CXR", "chexpert": "CheXpert", "nih": "NIH ChestX-ray14"}
_KINDS = ("chart", "none", "control", "public", "baseline")


@dataclass(frozen=True)
class Arm:
    """One column of every table: how an encoder was pretrained, or which baseline was scored with it."""

    chart: str = Field(default="none", description="the feature set of the chart; none: without a chart")
    control: str = Field(
        default="none",
        description=f"none, a control (shuffled, constant, mask-only) or a baseline ({', '.join(BASELINES)})",
    )
    use: str = Field(
        default="anchor", description="role of the chart in pretraining: anchor, predict ...; or NAME=ROLE,... of each"
    )
    on: str = Field(default="", description="image+chart: title of the encoder whose embedding it reads")
    objective: str = Field(default=MSN, description="objective of the pretraining: msn, dino or mae")
    settings: str = Field(
        default="",
        description="hash of all other settings of the pretraining, and after a comma what the embedding is, if not "
        "what the encoder's head pools; empty: not recorded",
    )
    public: str = Field(
        default="", description="name of the public encoder, whose weights are evaluated as they are; empty: a run's"
    )
    note: str = Field(
        default="", description="in the title of arms that differ only in their settings (`disambiguated`)"
    )

    @property
    def title(self) -> str:
        """What a reader calls it.

        >>> [Arm().title, Arm("sex,age").title, Arm("sex,age", "shuffled").title, Arm("none", objective="dino").title]
        ['no chart', 'sex,age', 'sex,age, shuffled', 'DINO, no chart']
        >>> [Arm("sex,age", use="predict").title, Arm("age,view", "shuffled", "age=anchor,view=suppress").title]
        ['sex,age, predicted', 'age anchored + view suppressed, shuffled']
        >>> [Arm("none", "untrained").title, Arm("sex,age", "image+chart", on="no chart").title]
        ['untrained encoder', 'image + chart (sex,age, on no chart)']
        >>> [Arm(public="rad-dino").title, Arm("none", "untrained", public="rad-dino").title]
        ['public: rad-dino', 'untrained encoder (as rad-dino)']
        """
        return self._name + (f", {self.note}" if self.note else "")

    @property
    def _name(self) -> str:
        if self.control == CHART_ONLY:
            return "chart only" if self.chart == "none" else f"chart only ({self.chart})"
        if self.control == IMAGE_CHART:
            if not self.on:
                return "image + chart" if self.chart == "none" else f"image + chart ({self.chart})"
            # The encoder's own chart is named by the encoder.
            own = self.chart == "none" or f"{self.on}, ".startswith(f"{self.chart}, ")
            return f"image + chart (on {self.on})" if own else f"image + chart ({self.chart}, on {self.on})"
        if self.control in BASELINES:
            return {UNTRAINED: "untrained encoder", PIXELS: "plain pixels"}[self.control] + (
                f" (as {self.public})" if self.public else ""
            )
        if self.public:
            return f"public: {self.public}"
        name = NO_CHART if self.chart == "none" else _with_roles(self.chart, self.use)
        name = name if self.control == "none" else f"{name}, {self.control}"
        return name if self.objective == MSN else f"{self.objective.upper()}, {name}"

    @property
    def kind(self) -> str:
        """chart, none, control, public or baseline: the order of the columns."""
        if self.control in BASELINES:
            return "baseline"
        if self.public:
            return "public"
        if self.control != "none":
            return "control"
        return "none" if self.chart == "none" else "chart"

    @property
    def is_baseline(self) -> bool:
        """Whether it is a baseline that was scored with an encoder, and not pretrained."""
        return self.kind == "baseline"

    @property
    def caution(self) -> str:
        """What stands beside its numbers wherever they are printed; empty for an encoder of a run.

        >>> Arm(public="rad-dino").caution
        'its pretraining images are unknown: they may include the test images'
        """
        return UNKNOWN_PRETRAINING if self.kind == "public" else ""

    @property
    def is_fixed(self) -> bool:
        """Whether no seed of a pretraining enters it: plain pixels and the chart alone."""
        return self.control in (PIXELS, CHART_ONLY)

    @property
    def order(self) -> tuple[int, int, bool, str]:
        """Sorts charts first, then no chart, controls, public encoders, baselines; MSN before other objectives."""
        baseline = BASELINES.index(self.control) if self.is_baseline else 0
        return _KINDS.index(self.kind), baseline, self.objective != MSN, self.title

    def differs_in_chart_alone(self, other: "Arm") -> bool:
        """Whether a difference between two arms speaks of the chart: objective and all other settings are the same."""
        return (self.objective, self.settings) == (other.objective, other.settings)

    def noted(self, note: str) -> "Arm":
        """The same arm with a `note` in its title."""
        return replace(self, note=note)


# What an arm is called by the roles of its chart; that of the published way alone is left unsaid.
_AS = {
    "anchor": "anchored",
    "predict": "predicted",
    "contrast": "contrasted",
    "mmcl": "matched (MMCL)",
    "suppress": "suppressed",
    "suppress-contrast": "suppressed by contrast",
    "decorrelate": "decorrelated",
}


def _with_roles(chart: str, use: str) -> str:
    """The chart with its roles, those of one role together."""
    if use == "anchor":
        return chart
    if "=" not in use:
        return f"{chart}, {_AS.get(use, use)}"
    each = [f"{','.join(names)} {_AS[role]}" for role, names in roles_in(chart, use).items() if role in _AS]
    return " + ".join(each) or f"{chart}, {use}"


def arm_of(
    chart: str | None,
    control: str | None,
    use: str | None = None,
    base: Arm | None = None,
    *,
    objective: str | None = None,
    settings: str | None = None,
    public: str | None = None,
) -> Arm:
    """The arm that a run's provenance or a baseline's chart and control name; `base` is the encoder it was scored with.

    The untrained encoder and plain pixels are one arm each for one kind of settings, whatever run they were scored
    with.
    """
    chart, control = chart or "none", control or "none"
    objective, settings = (objective or MSN).lower(), settings or ""
    if control in (UNTRAINED, PIXELS):
        of = base if base is not None else Arm(settings=settings)
        if control == PIXELS:
            return Arm("none", control, settings=of.settings.partition(", ")[0])
        return Arm("none", control, settings=of.settings, public=of.public)
    if control == IMAGE_CHART and base is not None:
        return Arm(chart, control, on=base.title, objective=base.objective, settings=base.settings)
    if control in BASELINES:
        return Arm(chart, control)
    if public:
        return Arm(settings=settings, public=public)
    # Without a chart there is nothing to use in one way or another.
    return Arm(chart, control, (use or "anchor") if chart != "none" else "anchor", "", objective, settings)


def disambiguated(arms: Iterable[Arm], recipes: Mapping[Arm, Iterable[str | None]] | None = None) -> dict[Arm, Arm]:
    """The arms that would share a title, each with a note: its recipe where every such arm has its own, else what its
    embedding is, or the hash of its settings. `recipes` are those of each arm's runs.

    >>> a, b = Arm("sex", settings="1f" * 32), Arm("sex", settings="2e" * 32)
    >>> [arm.title for arm in disambiguated([a, b]).values()]
    ['sex, settings 1f1f1f', 'sex, settings 2e2e2e']
    >>> [arm.title for arm in disambiguated([a, replace(a, settings=f"{a.settings}, mean of patches")]).values()]
    ['sex, class token', 'sex, mean of patches']
    """
    groups: dict[Arm, dict[Arm, None]] = {}
    for arm in arms:
        groups.setdefault(replace(arm, settings="", note=""), {})[arm] = None
    found: dict[Arm, Arm] = {}
    for members in (group for group in groups.values() if len(group) > 1):
        known = {arm: set((recipes or {}).get(arm, ())) for arm in members}
        named = [next(iter(each)) for each in known.values() if len(each) == 1 and None not in each]
        own = len(set(named)) == len(members)
        for arm in members:
            digest, _, pooled = arm.settings.partition(", ")
            if not pooled and any(each.settings.startswith(f"{digest}, ") for each in members):
                pooled = "class token"
            other = pooled or f"settings {digest[:6] or 'not recorded'}"
            words = f"recipe {next(iter(known[arm]))}" if own else other
            found[arm] = arm.noted(words)
    return found


def dataset_name(place: str) -> str:
    """What a reader calls a data set, or a data set and the home of the probe that was scored there (`Row.place`).

    >>> dataset_name("mimic"), dataset_name("mimic:second.store"), dataset_name("hannover")
    ('MIMIC-CXR', 'MIMIC-CXR (second.store)', 'hannover')
    >>> dataset_name("nih<nih"), dataset_name("nih<mimic")
    ('NIH ChestX-ray14 (own probe)', 'NIH ChestX-ray14 (probe of MIMIC-CXR)')
    """
    dataset, _, home = place.partition("<")
    source, colon, folder = dataset.partition(":")
    name = _DATASETS.get(source, source) + (f" ({folder})" if colon else "")
    return name + ("" if not home else " (own probe)" if home == dataset else f" (probe of {dataset_name(home)})")
