"""Whose embedding is read: the encoder, the runs it is set against, and the floors and ceilings beside them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from chartray.audit.attributes import COIN, Attribute
from chartray.errors import InputError
from chartray.evaluation.baselines import (
    CHART_FLOORS,
    Frozen,
    chart_features,
    chart_items,
    encoder_features,
    floor_chart,
    no_floor_chart,
)
from chartray.evaluation.embed import pixels
from chartray.evaluation.films import Films, metadata_of
from chartray.features.chart import fit_chart
from chartray.features.sets import variable_of
from chartray.networks.encoder import PretrainedEncoder, load, untrained
from chartray.pixels.store import Store
from chartray.schema import CohortMetadata

Integers = NDArray[np.int64]
NO_OTHER_CHART = "the chart holds nothing but the attribute"


class AuditArm(NamedTuple):
    """One thing that attributes are read from. `features` gives them for an attribute, or says why there are none.

    `pretrained`: it learnt from films, so that another seed would have given another one. `made`: its provenance.
    """

    run: str
    chart: str
    control: str
    features: Callable[[Attribute], Frozen | str]
    pretrained: bool
    made: dict[str, Any]


def run_name(encoder: PretrainedEncoder, source: Path) -> str:
    """The run's name by its provenance, else its folder's."""
    return str(encoder.provenance.get("run") or source.resolve().name)


def encoder_arms(
    source: Path, against: Sequence[Path], films: Sequence[Films], *, device: str, precision: str
) -> tuple[list[AuditArm], Frozen]:
    """The encoder first, with its features, then each run it is set against.

    Raises InputError for two encoders of one name: their rows could not be told apart.
    """
    named: dict[str, PretrainedEncoder] = {}
    for path in (source, *against):
        encoder = load(path)
        if (name := run_name(encoder, path)) in named:
            raise InputError(
                f"expected runs of different names, found {name!r} again at {path}; name each run once, or pretrain "
                "into folders of different names"
            )
        named[name] = encoder
    arms: list[AuditArm] = []
    own: Frozen | None = None
    for name, encoder in named.items():
        frozen = encoder_features(encoder, films, device=device, precision=precision, title=f"embed, {name}")
        own = own or frozen
        made = encoder.provenance
        chart, control = (str(made.get(key, "none")) for key in ("chart", "control"))
        arms.append(AuditArm(name, chart, control, _same(frozen), True, made))
    assert own is not None
    return arms, own


def floor_arms(
    source: Path,
    own: AuditArm,
    frozen: Frozen,
    films: Sequence[Films],
    *,
    device: str,
    precision: str,
    seed: int,
    chart: str | None = None,
) -> tuple[list[AuditArm], dict[str, str]]:
    """The untrained encoder, plain pixels, the chart alone and image + chart; and what was left out, with the reason.

    `chart` is what the chart floors read, else `evaluation.baselines.floor_chart` chooses.

    An attribute is never among the variables of the chart it is read from, nor is one made from its source columns.
    """
    home = films[0].store
    fresh = encoder_features(
        untrained(source, seed=seed), films, device=device, precision=precision, title="embed, untrained"
    )
    arms = [
        AuditArm(own.run, "none", "untrained", _same(fresh), False, {}),
        AuditArm(own.run, "none", "pixels", _same(Frozen(pixels, films)), False, {}),
    ]
    read, left_out = floor_chart(home.cohort, own.chart, [], named=chart)
    if read is None:
        return arms, dict.fromkeys(CHART_FLOORS, no_floor_chart(left_out))
    metadata = metadata_of(home)
    made: dict[str, Frozen | str] = {}

    def without(attribute: Attribute) -> Frozen | str:
        items = [item for item in chart_items(read.ehr) if not _same_fact(variable_of(item), attribute.name, metadata)]
        if not items:
            return NO_OTHER_CHART
        words = ",".join(items)
        if words not in made:
            smaller = fit_chart(home.cohort, words)

            def rows(store: Store, rows: Integers) -> NDArray[np.float32] | None:
                return chart_features(smaller, store, rows, home)

            made[words] = Frozen(rows, films)
        return made[words]

    beside: dict[int, Frozen] = {}

    def with_image(attribute: Attribute) -> Frozen | str:
        rows = without(attribute)
        if isinstance(rows, str):
            return rows
        return beside.setdefault(id(rows), frozen.beside(rows))

    arms.append(AuditArm(own.run, read.ehr, "chart-only", without, False, {}))
    arms.append(AuditArm(own.run, read.ehr, "image+chart", with_image, False, {}))
    return arms, left_out


def _same(frozen: Frozen) -> Callable[[Attribute], Frozen | str]:
    return lambda attribute: frozen


def _same_fact(variable: str, attribute: str, metadata: CohortMetadata) -> bool:
    if attribute == COIN or variable == attribute:
        return variable == attribute
    columns = [set(metadata.variables[name].columns) for name in (variable, attribute) if name in metadata.variables]
    return len(columns) == 2 and bool(columns[0] & columns[1])
