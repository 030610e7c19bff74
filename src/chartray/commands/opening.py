"""Inputs are checked before torch is imported: a wrong path, name or folder costs a second, not half a minute."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from chartray.audit.attributes import chosen_attributes
from chartray.config.evaluate import ScoringOptions
from chartray.config.public import PublicOptions
from chartray.errors import InputError
from chartray.evaluation.image_set import chosen_labels
from chartray.features.chart import fit_chart
from chartray.networks.description import encoder_folder, sealed_description
from chartray.networks.public_folder import check_public, is_public
from chartray.outputs.replacing import refuse_file_above
from chartray.pixels.store import Store


def need_inputs(
    *,
    encoders: Iterable[Path] = (),
    stores: Iterable[Path] = (),
    folders: Iterable[Path] = (),
    out: Path | None,
    public: PublicOptions | None = None,
) -> None:
    """Raises InputError unless each of `encoders` holds an encoder, each of `stores` a finished store, the `folders`
    exist, and no folder above `out` is a file. `public`: how public encoders are read, where the command takes them.
    """
    if out is not None:
        refuse_file_above(out)
    for path in encoders:
        if public is not None and is_public(path):
            check_public(path, public)
        else:
            sealed_description(encoder_folder(path))
    for path in folders:
        if not path.is_dir():
            found = "a file" if path.exists() else "nothing"
            raise InputError(f"expected a folder that Chartray wrote at {path}, found {found}; check the path")
    for path in stores:
        Store.open(path)


def need_scoring(
    store: Path,
    options: ScoringOptions,
    *,
    labels: Sequence[str] | None = None,
    attributes: Sequence[str] | None = None,
) -> None:
    """Raises InputError unless `store` has the `labels`, the `attributes` and the variables of the baseline chart."""
    home = Store.open(store)
    chosen_labels(home, labels)
    if attributes is not None:
        chosen_attributes(home, attributes)
    if options.baseline_chart is not None:
        fit_chart(home.cohort, options.baseline_chart)
