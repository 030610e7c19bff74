"""What a run would be refused for, found before torch is imported."""

from pathlib import Path

import pyarrow.compute as pc

from chartray.config.pretrain import NO_CHART, ChartConfig, Config
from chartray.console import status
from chartray.errors import InputError
from chartray.features import Chart, fit_chart
from chartray.networks.description import encoder_folder, sealed_description
from chartray.networks.public_folder import is_public, read_public
from chartray.pixels.store import Store
from chartray.schema import from_metadata
from chartray.training.processes import is_first_process, refuse_uneven
from chartray.training.run_folder import check_out


def check_run(store_folder: Path, out: Path | None, config: Config, *, resume: bool) -> None:
    """Raises InputError if the store, `out`, the chart, the batch size or the initial weights cannot be used."""
    store = Store.open(store_folder)
    refuse_uneven(config.train.batch_size)
    if out is not None:
        check_out(out, config, store.hash, resume=resume)
    check_chart(store, config.chart)
    images = pc.sum(pc.equal(store.cohort["split"], "train")).as_py() or 0
    if images < config.train.batch_size:
        raise InputError(
            f"expected at least train.batch_size = {config.train.batch_size} training images in {store.folder}, "
            f"found {images}; lower --train.batch_size"
        )
    _check_start(config)
    if is_first_process():
        # torch takes seconds to import: whoever waits should know for what.
        chart = "no chart" if config.chart.name == NO_CHART else f"the chart {config.chart.name}"
        status(f"{store.folder}: {images} training images, {config.encoder.name}, {chart}", aside=True)


def _check_start(config: Config) -> None:
    """Raises InputError unless the first weights can be read."""
    if config.encoder.init is None or Path(config.encoder.init).is_file():
        return
    if is_public(start := Path(config.encoder.init)):
        read_public(start)
    else:
        sealed_description(encoder_folder(start))


def check_chart(store: Store, chart: ChartConfig) -> None:
    """Raises InputError unless the store has the charts that a run names."""
    fitted_chart(store, chart)
    if chart.films_of is not None:
        fit_films_of(store, chart.films_of)


def fitted_chart(store: Store, chart: ChartConfig) -> Chart | None:
    """The chart that a run is given; raises InputError unless the store has it, and its control leaves it a meaning."""
    if chart.name == NO_CHART:
        if chart.control != "none":
            raise InputError(f"expected a chart for --control {chart.control}, found --ehr none; name a feature set")
        return None
    fitted = fit_chart(
        store.cohort,
        chart.name,
        roles=chart.by_name,
        bins=chart.bins,
        allow_after_film=chart.allow_after_film,
    )
    guessed = [one.variable for one in fitted.encodings if one.role not in ("anchor", "mmcl")]
    if chart.control == "mask-only" and guessed:
        raise InputError(
            f"control mask-only leaves no value of {guessed[0]!r} to predict, contrast or suppress; use --control "
            "shuffled, or the role anchor"
        )
    return fitted


def fit_films_of(store: Store, films_of: str) -> Chart:
    """The chart whose images are trained on; its values do not enter training, so what is known later may be in it."""
    variables = list(from_metadata(store.cohort.schema.metadata).variables)
    return fit_chart(store.cohort, films_of, allow_after_film=variables)
