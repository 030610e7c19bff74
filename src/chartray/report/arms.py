"""What is compared: how an encoder was pretrained, or what was scored beside it."""

from typing import NamedTuple

# What is scored beside a run: floors that no pretraining enters, and the ceiling that reads its embedding too.
SOURCES = ("untrained", "pixels", "chart-only", "image+chart")
NO_CHART = "no chart"
# The objective of runs that name none, and the one that titles leave unsaid.
MSN = "msn"


class Arm(NamedTuple):
    """One column of every table: how an encoder was pretrained, or which source was scored beside it.

    `chart` is the feature set (none: plain pretraining), `control` is none, shuffled, constant, mask-only or one of
    SOURCES, `use` is anchor or predict; `on` is the title of the encoder whose embedding image + chart read;
    `settings` is the hash of all other knobs ("" where none was recorded), which the title names where `named`.
    """

    chart: str
    control: str = "none"
    use: str = "anchor"
    on: str = ""
    objective: str = MSN
    settings: str = ""
    named: bool = False

    @property
    def title(self) -> str:
        """What a reader calls it."""
        return self._name + (f", settings {self.settings[:6] or 'not recorded'}" if self.named else "")

    @property
    def _name(self) -> str:
        if self.control == "chart-only":
            return "chart only" if self.chart == "none" else f"chart only ({self.chart})"
        if self.control == "image+chart":
            if not self.on:
                return "image + chart" if self.chart == "none" else f"image + chart ({self.chart})"
            # The encoder's own chart is named by the encoder.
            own = self.chart == "none" or f"{self.on}, ".startswith(f"{self.chart}, ")
            return f"image + chart (on {self.on})" if own else f"image + chart ({self.chart}, on {self.on})"
        if self.control in SOURCES:
            return {"untrained": "untrained encoder", "pixels": "plain pixels"}[self.control]
        name = NO_CHART if self.chart == "none" else self.chart
        name += ", predicted" if self.use == "predict" and self.chart != "none" else ""
        name = name if self.control == "none" else f"{name}, {self.control}"
        return name if self.objective == MSN else f"{self.objective.upper()}, {name}"

    @property
    def kind(self) -> str:
        """chart, none, control or source: the order of the columns."""
        if self.control in SOURCES:
            return "source"
        if self.control != "none":
            return "control"
        return "none" if self.chart == "none" else "chart"

    @property
    def order(self) -> tuple[int, int, bool, str]:
        """Sorts charts first, then no chart, controls, floors and ceilings; MSN before the baselines."""
        place = ("chart", "none", "control", "source").index(self.kind)
        source = SOURCES.index(self.control) if self.control in SOURCES else 0
        return place, source, self.objective != MSN, self.title

    def differs_in_chart_alone(self, other: "Arm") -> bool:
        """Whether a difference between two arms speaks of the chart: objective and all other settings are the same."""
        return (self.objective, self.settings) == (other.objective, other.settings)


def arm_of(
    chart: str | None,
    control: str | None,
    use: str | None = None,
    base: Arm | None = None,
    *,
    objective: str | None = None,
    settings: str | None = None,
) -> Arm:
    """The arm that a row or a manifest names; `base` is the encoder that it was scored beside.

    The untrained encoder and plain pixels are one arm each for one kind of settings, whatever run they were scored
    beside.
    """
    chart, control = chart or "none", control or "none"
    objective, settings = (objective or MSN).lower(), settings or ""
    if control in ("untrained", "pixels"):
        return Arm("none", control, settings=settings)
    if control == "image+chart" and base is not None:
        return Arm(chart, control, on=base.title, objective=base.objective, settings=base.settings)
    if control in SOURCES:
        return Arm(chart, control)
    # Without a chart there is nothing to use in one way or another.
    return Arm(chart, control, (use or "anchor") if chart != "none" else "anchor", "", objective, settings)
