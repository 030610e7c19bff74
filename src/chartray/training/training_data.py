"""What a run trains on: the images of the train split, their charts, and grey statistics."""

import hashlib
import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from chartray.config.pretrain import Config
from chartray.config.renamed import first_names
from chartray.console import status
from chartray.errors import InputError
from chartray.features import Chart
from chartray.networks.chart import ChartBatch
from chartray.networks.initial_weights import lineage
from chartray.pixels.resampling import Grey, to_device
from chartray.pixels.store import Store, read_store_flow
from chartray.pixels.views import median_enlargement
from chartray.schema import from_metadata, patient_key
from chartray.training.controls import ChartTable, controlled, corrupted
from chartray.training.early import fit_films_of, fitted_chart
from chartray.training.loader import ImageBatch, grey_statistics, image_sizes, places_of_step, split_rows
from chartray.training.manifest import RUNNING, RunManifest, git_commit
from chartray.training.patients import patients_sha256
from chartray.training.processes import is_first_process
from chartray.training.schedules import Schedule

_ENLARGEMENT_TO_WARN_OF = 1.3


class TrainingData:
    """The training images of a store: `rows` (M,), their grey statistics, and the chart of each."""

    def __init__(
        self,
        store: Store,
        rows: npt.NDArray[np.int64],
        chart: Chart | None,
        table: ChartTable,
        unrepresentable: int,
        config: Config,
    ) -> None:
        self.store, self.rows, self.chart, self.unrepresentable = store, rows, chart, unrepresentable
        self.grey = Grey(*grey_statistics(store, rows))
        self._table, self._control, self._seed = table, config.chart.control, config.seed
        self._of_epoch: dict[int, ChartTable] = {}
        self._batch_size, self._corruption = config.train.batch_size, config.chart.corruption
        self._matched = [block for block in chart.blocks if block.role == "mmcl"] if chart else []

    def chart_batch(self, batch: ImageBatch, device: torch.device) -> ChartBatch:
        """The charts of a batch's images, each under the control of its epoch."""
        own = self.charts(batch.places, batch.epochs)
        if self._matched and self._corruption:
            # All of the step's images may give a value, whichever process has them.
            places, epochs = places_of_step(batch.step, self._batch_size, len(self.rows), self._seed)
            spans = [slice(block.start, block.end) for block in self._matched]
            everyone = self.charts(places, epochs)
            rows = corrupted(everyone, spans, self._corruption, seed=self._seed, step=batch.step)
            # An image is in a step once, or once in each of two passes.
            at = {key: row for row, key in enumerate(zip(places.tolist(), epochs.tolist(), strict=True))}
            keys = zip(batch.places.tolist(), batch.epochs.tolist(), strict=True)
            own = own._replace(rows=rows[[at[key] for key in keys]])
        return ChartBatch(to_device(own.rows, device), to_device(own.observed, device))

    def charts(self, places: npt.NDArray[np.int64], epochs: npt.NDArray[np.int64]) -> ChartTable:
        """The charts of the images at `places` (B,)."""
        rows = np.empty((len(places), self._table.rows.shape[1]), np.float32)
        observed = np.empty((len(places), self._table.observed.shape[1]), np.bool_)
        for epoch in np.unique(epochs):
            here, table = epochs == epoch, self._chart_table(int(epoch))
            rows[here], observed[here] = table.rows[places[here]], table.observed[places[here]]
        return ChartTable(rows, observed, self._table.patients[places])

    def patient_keys(self) -> list[str]:
        """The training patients as `schema.patient_key`, so that an evaluation can refuse them."""
        metadata = from_metadata(self.store.cohort.schema.metadata)
        patients = self.store.cohort.column("patient_id").take(pa.array(self.rows)).unique().to_pylist()
        return sorted(patient_key(metadata.source, patient) for patient in patients)

    def manifest(self, config: Config, schedule: Schedule) -> RunManifest:
        """The manifest of a run on these images; it includes what the initial weights were trained on."""
        metadata = from_metadata(self.store.cohort.schema.metadata)
        parent = None if config.encoder.init is None else lineage(Path(config.encoder.init))
        after_film = list(self.chart.after_film) if self.chart else []
        sources = {name: list(metadata.variables[name].columns) for name in self.chart.variables} if self.chart else {}
        keys = self.patient_keys()
        return RunManifest(
            status=RUNNING,
            chartray=version("chartray"),
            torch=version("torch"),
            timm=version("timm"),
            git_commit=git_commit(),
            store=str(self.store.folder),
            store_hash=self.store.hash,
            store_size=self.store.size,
            source=metadata.source,
            rules=metadata.rules,
            simulated=metadata.simulated,
            recipe=config.recipe,
            objective=config.objective.name,
            settings_hash=settings_hash(config),
            seed=config.seed,
            chart=config.chart.name,
            chart_use=config.chart.said_use if self.chart else None,
            control=config.chart.control,
            films_of=config.chart.films_of,
            ehr_in=self.chart.ehr_in if self.chart else 0,
            chart_columns=list(self.chart.columns) if self.chart else [],
            chart_variables=list(self.chart.variables) if self.chart else [],
            chart_sources=((parent.chart_sources if parent else None) or {}) | sources,
            after_film=sorted({*after_film, *(parent.after_film if parent else [])}),
            init=parent,
            films=len(self.rows),
            films_without_representable_chart=self.unrepresentable,
            steps=schedule.steps,
            warmup_steps=schedule.warmup_steps,
            peak_learning_rate=schedule.peak_learning_rate,
            freeze_steps=config.train.freeze_steps,
            ramp_steps=config.train.ramp_steps,
            grey_mean=self.grey.mean,
            grey_std=self.grey.std,
            flow=read_store_flow(self.store.folder),
            patients=len(keys),
            patients_sha256=patients_sha256(keys),
        )

    def _chart_table(self, epoch: int) -> ChartTable:
        if self._control != "shuffled":
            epoch = 0
        if epoch not in self._of_epoch:
            # A batch may straddle two passes, never more.
            for old in sorted(self._of_epoch)[:-1]:
                del self._of_epoch[old]
            flags = list(self.chart.flag_columns) if self.chart else []
            self._of_epoch[epoch] = controlled(self._table, self._control, flags, seed=self._seed, epoch=epoch)
        return self._of_epoch[epoch]


def load_training_data(store: Store, config: Config) -> TrainingData:
    """Chooses the training images and fits their chart; prints what it found, and warns of too small a store.

    Raises InputError for an empty train split, a batch larger than it, a control without a chart, and through
    `fit_chart` for a set that the cohort lacks or a variable known only after the image was taken.
    """
    rows = split_rows(store, "train")
    if not rows.size:
        raise InputError(f"expected images in the train split of {store.folder}, found none; pretraining needs them")
    of_split = len(rows)
    if config.chart.films_of is not None:
        rows = rows[fit_films_of(store, config.chart.films_of).rows(store.cohort).representable[rows]]
    table = _empty_table(len(rows))
    if (chart := fitted_chart(store, config.chart)) is not None:
        charts = chart.rows(store.cohort)
        rows = rows[charts.representable[rows]]
        codes = store.cohort.column("patient_id").combine_chunks().dictionary_encode().indices.to_numpy()
        table = ChartTable(charts.values[rows], charts.observed[rows], codes[rows].astype(np.int64))
    if len(rows) < config.train.batch_size:
        raise InputError(
            f"expected at least train.batch_size = {config.train.batch_size} training images in {store.folder}, "
            f"found {len(rows)}; lower --train.batch_size"
        )
    data = TrainingData(store, rows, chart, table, of_split - len(rows), config)
    _announce(data, config)
    return data


# What all runs did before these knobs were there.
_AS_BEFORE: dict[str, dict[str, object]] = {
    "encoder": {"first_weights": "timm"},
    "views": {"exposure": 0.0},
    "objective": {"head_statistics": "together", "prior": "uniform"},
    "train": {"freeze_steps": 0, "ramp_steps": 0},
}
# 2: the published EMA is not one step late, prototypes are not clipped, and a part of a patch is dropped.
_MSN_METHOD = 2


def settings_hash(config: Config) -> str:
    """12 hex digits that all seeds, charts and controls of one experiment share, and two experiments do not.

    The width of the chart's embedding and the weights of its heads count. Which chart enters, and in which roles, does
    not: those have their own fields, and an arm without a chart has the same settings.
    """
    knobs = config.model_dump(mode="json", exclude={"recipe", "seed", "chart", "health"})
    for name in ("checkpoint_every", "checkpoint_keep", "compile", "device", "recompute"):
        del knobs["train"][name]
    knobs["train"]["accumulate"] = 1  # as it was in every recipe: into how many parts a step is divided says nothing
    knobs["objective"] = first_names("objective", knobs["objective"])
    told = {"ehr", "use", "roles", "control", "films_of", "allow_after_film"}
    # Knobs that came later count where they are not as they were for all runs before.
    if config.objective.name != "msn":
        del knobs["objective"]["head_statistics"]  # no BatchNorm there
    if config.objective.prior == "uniform":
        del knobs["objective"]["prior_exponent"]
    for section, before in _AS_BEFORE.items():
        knobs[section] = {knob: value for knob, value in knobs[section].items() if before.get(knob, ...) != value}
    if config.objective.name == "msn":
        knobs["method"] = _MSN_METHOD
    knobs["chart"] = config.chart.model_dump(mode="json", exclude=told, exclude_defaults=True)
    knobs["chart"] |= {"width": config.chart.width, "weight": config.chart.weight}
    return hashlib.sha256(json.dumps(knobs, sort_keys=True).encode()).hexdigest()[:12]


def _announce(data: TrainingData, config: Config) -> None:
    if not is_first_process():
        return
    chart = f"chart {_said(config)} (ehr-in {data.chart.ehr_in})" if data.chart else "no chart"
    line = f"{len(data.rows)} training images, {chart}, control {config.chart.control}"
    if data.unrepresentable:
        by = "it" if config.chart.films_of is None else f"the chart {config.chart.films_of} (chart.films_of)"
        line += f", {data.unrepresentable} images dropped that {by} cannot represent"
    if data.chart and data.chart.after_film:
        line += f", KNOWN ONLY AFTER THE IMAGE: {', '.join(data.chart.after_film)}"
    if data.chart and data.chart.after_film:
        print(line, flush=True)  # a warning: --quiet leaves it
    else:
        status(line)
    sizes = image_sizes(data.store)[data.rows[:4096]]
    for view, times in median_enlargement(sizes, data.store.size, config.views, seed=config.seed).items():
        if times > _ENLARGEMENT_TO_WARN_OF:
            print(
                f"warning: the median {view} view is enlarged {times:.2f} times from a {data.store.size} px store; "
                "ingest with a larger --size, or lower views.size",
                flush=True,
            )


def _said(config: Config) -> str:
    chart = config.chart
    return chart.name + (f" ({chart.said_use})" if chart.said_use != "anchor" else "")


def _empty_table(images: int) -> ChartTable:
    return ChartTable(np.zeros((images, 0), np.float32), np.zeros((images, 0), np.bool_), np.zeros(images, np.int64))
