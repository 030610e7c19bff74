"""The features that attributes are predicted from: those of the encoder, of the other runs, and of the baselines."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from chartray.audit.attributes import COIN, Attribute
from chartray.config.audit import AuditOptions
from chartray.errors import InputError
from chartray.evaluation.assemble import encoder_entry
from chartray.evaluation.baselines import (
    Frozen,
    baseline_chart,
    chart_features,
    chart_items,
    encoder_features,
    no_baseline_chart,
    pixel_features,
)
from chartray.evaluation.image_set import ImageSet, metadata_of
from chartray.features.chart import fit_chart
from chartray.features.sets import variable_of
from chartray.networks.description import Provenance
from chartray.networks.encoder import PretrainedEncoder, untrained
from chartray.networks.public import open_encoder
from chartray.pixels.store import Store
from chartray.results.arm import CHART_BASELINES, CHART_ONLY, IMAGE_CHART, PIXELS, UNTRAINED, Arm, arm_of
from chartray.results.manifest import EncoderEntry
from chartray.schema import CohortMetadata

Integers = NDArray[np.int64]
NO_OTHER_CHART = "the chart has no other variable"


class AuditArm(NamedTuple):
    """An encoder, or one of its baselines. `features` gives its features for an attribute, or why it has none.

    `run` is the encoder's run and `run_seed` the seed of its pretraining, also of its baselines; `provenance` is None
    for a baseline. `without` names the variables that were taken out of the chart of a baseline, since they give the
    attribute away.
    """

    arm: Arm
    run: str
    features: Callable[[Attribute], Frozen | str]
    provenance: Provenance | None = None
    without: Callable[[Attribute], tuple[str, ...]] = lambda _: ()
    run_seed: int | None = None

    @property
    def name(self) -> str:
        """The run, or the name of a baseline."""
        return self.arm.title if self.provenance is None else self.run

    @property
    def seed(self) -> int | None:
        """The seed of its pretraining."""
        return None if self.provenance is None else self.provenance.seed


def run_name(encoder: PretrainedEncoder, source: Path) -> str:
    """The run's name by its provenance, else its folder's."""
    return encoder.provenance.run or source.resolve().name


def encoder_arms(
    source: Path, against: Sequence[Path], images: Sequence[ImageSet], options: AuditOptions
) -> tuple[list[AuditArm], list[EncoderEntry], Frozen]:
    """The encoder and each run it is compared with, their entries of the manifest, and the encoder's own features.

    Raises InputError for two encoders of one name: their rows would be mixed up.
    """
    named: dict[str, tuple[PretrainedEncoder, EncoderEntry]] = {}
    for path in (source, *against):
        encoder = open_encoder(path, options)
        if (name := run_name(encoder, path)) in named:
            raise InputError(
                f"expected runs of different names, found {name!r} again at {path}; name each run once, or pretrain "
                "into folders of different names"
            )
        named[name] = encoder, encoder_entry(encoder, name, path)
    arms: list[AuditArm] = []
    own: Frozen | None = None
    for name, (encoder, entry) in named.items():
        frozen = encoder_features(
            encoder, images, device=options.device, precision=options.precision, title=f"embed, {name}"
        )
        own = own or frozen
        arms.append(AuditArm(entry.arm, name, _always(frozen), entry.provenance, run_seed=entry.provenance.seed))
    assert own is not None
    return arms, [entry for _, entry in named.values()], own


def baseline_arms(
    encoder: PretrainedEncoder,
    own: AuditArm,
    frozen: Frozen,
    images: Sequence[ImageSet],
    *,
    device: str,
    precision: str,
    seed: int,
    chart: str | None = None,
) -> tuple[list[AuditArm], dict[str, str]]:
    """The untrained encoder, plain pixels, the chart alone and image + chart; and what was left out, with the reason.

    `chart` is what the chart baselines read; by default `evaluation.baselines.baseline_chart` chooses it. The chart
    never holds the attribute that is predicted from it, nor a variable made from the attribute's source columns.
    """
    home = images[0].store
    fresh = encoder_features(
        untrained(encoder, seed=seed), images, device=device, precision=precision, title="embed, untrained"
    )

    def beside(
        chart: str,
        control: str,
        features: Callable[[Attribute], Frozen | str],
        without: Callable[[Attribute], tuple[str, ...]] = lambda _: (),
    ) -> AuditArm:
        base = arm_of(chart, control, base=own.arm)
        return AuditArm(base, own.run, features, without=without, run_seed=own.run_seed)

    arms = [
        beside("none", UNTRAINED, _always(fresh)),
        beside("none", PIXELS, _always(pixel_features(images))),
    ]
    read, left_out = baseline_chart(home.cohort, own.arm.chart, [], named=chart)
    if read is None:
        return arms, dict.fromkeys(CHART_BASELINES, no_baseline_chart(left_out))
    metadata = metadata_of(home)
    fitted: dict[str, Frozen | str] = {}

    def taken_out(attribute: Attribute) -> tuple[str, ...]:
        names = dict.fromkeys(variable_of(item) for item in chart_items(read.ehr))
        return tuple(name for name in names if _same_fact(name, attribute.name, metadata))

    def chart_without(attribute: Attribute) -> Frozen | str:
        out = taken_out(attribute)
        items = [item for item in chart_items(read.ehr) if variable_of(item) not in out]
        if not items:
            return NO_OTHER_CHART
        words = ",".join(items)
        if words not in fitted:
            smaller = fit_chart(home.cohort, words)

            def rows(store: Store, rows: Integers, _: str) -> NDArray[np.float32] | None:
                return chart_features(smaller, store, rows, home)

            fitted[words] = Frozen(rows, images)
        return fitted[words]

    joined: dict[int, Frozen] = {}

    def image_and_chart(attribute: Attribute) -> Frozen | str:
        rows = chart_without(attribute)
        if isinstance(rows, str):
            return rows
        return joined.setdefault(id(rows), frozen.beside(rows))

    arms += [beside(read.ehr, CHART_ONLY, chart_without, taken_out)]
    arms += [beside(read.ehr, IMAGE_CHART, image_and_chart, taken_out)]
    return arms, left_out


def _always(frozen: Frozen) -> Callable[[Attribute], Frozen | str]:
    return lambda attribute: frozen


def _same_fact(variable: str, attribute: str, metadata: CohortMetadata) -> bool:
    if attribute == COIN or variable == attribute:
        return variable == attribute
    columns = [set(metadata.variables[name].columns) for name in (variable, attribute) if name in metadata.variables]
    return len(columns) == 2 and bool(columns[0] & columns[1])
