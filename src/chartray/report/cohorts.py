"""On which data: flow of the cohort, links to admissions, images and patients by split, missing cells, quarantine."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from chartray.flow import CohortFlow, FlowStep
from chartray.pixels.store import Store, read_store_flow
from chartray.records.cohort import patients_in_two_splits
from chartray.records.linking import UNLINKED
from chartray.report.inputs import AuditResults, PretrainingRun, Results
from chartray.schema import EHR_PREFIX, LABEL_PREFIX, SPLITS, CohortMetadata, from_metadata
from chartray.small_counts import SMALLEST_TOLD, counts, is_small, nearly, steps_told, told, without_small_counts
from chartray.truth import blank_cells, meaning

# Entries of the flow that are not the text of a cell: empty cells, and groups of cells that are not told.
_RARE = "(rare values)"
_TOLD = ("absent", "(unreadable)", "(dates, long numbers or long texts)")
# A cell that could not be used may hold anything, also a name: it is on the page if that many images share it.
IMAGES_TO_SHOW_A_VALUE = SMALLEST_TOLD
VALUES_SHOWN = 6


class FlowRow(NamedTuple):
    """One step of the flow: rows as they are told, and `percent`, what is left of the first step's rows; nothing is
    `left_out` where all rows were kept.
    """

    step: str
    rows_in: str
    rows_out: str
    left_out: str
    why: str
    percent: float


class SplitRow(NamedTuple):
    """Images and patients of one split."""

    split: str
    images: int
    patients: int


class MissingCells(NamedTuple):
    """A chart variable: images where it is observed, images where it is not, and which cells could not be used."""

    name: str
    kind: str
    observed: int
    missing: int
    percent: float
    after_image: bool
    values: str

    @property
    def share(self) -> str:
        """How large a part is missing; nothing where that would give away a small count."""
        return "" if is_small(self.observed) or is_small(self.missing) else f"{self.percent:.1f} %"


class LabelCounts(NamedTuple):
    """A label over all splits: images where it is present, absent, uncertain; `blank` in the source, and what that
    `means`; and `unknown` for another reason: a cell that could not be read, or no row.
    """

    label: str
    present: int
    absent: int
    uncertain: int
    blank: int
    means: str
    unknown: int


class DataSection(NamedTuple):
    """One data set of the report; empty lists where nothing was known about it."""

    name: str
    release: str
    rules: str
    steps: list[FlowRow]
    notes: list[str]
    links: list[tuple[str, str]]
    splits: list[SplitRow]
    patients_in_two_splits: int
    missing: list[MissingCells]
    labels: list[LabelCounts]
    absent_labels: list[str]
    quarantine: list[tuple[str, int]]
    quarantined: int
    side: int | None
    store_hash: str


def open_stores(
    folders: Sequence[Path], runs: Sequence[PretrainingRun], results: Sequence[Results]
) -> dict[str, tuple[Path, Store]]:
    """The stores by data set: those given, and those that evaluations and manifests name and that are still there.

    Raises InputError where a given folder is no store.
    """
    # A part of a store (the images that radiologists read) has the hash of the whole.
    entries = [entry for one in results for entry in one.stores if not entry.part_of]
    by_hash = {entry.hash: entry.dataset for entry in entries}
    named = [Path(entry.path) for entry in entries]
    named += [Path(run.manifest.store) for run in runs if run.manifest.store]
    found: dict[str, tuple[Path, Store]] = {}
    for folder in dict.fromkeys([*folders, *(folder for folder in named if (folder / "store.json").is_file())]):
        store = Store.open(folder)
        source = from_metadata(store.cohort.schema.metadata).source
        found.setdefault(by_hash.get(store.hash, source), (Path(folder), store))
    return found


def parts_of_stores(results: Sequence[Results]) -> dict[str, str]:
    """The data sets that are a part of a store, and their sizes in words, as the evaluation counted them."""
    found: dict[str, str] = {}
    for entry in (entry for one in results for entry in one.stores if entry.part_of):
        size = ""
        if entry.films is not None and entry.patients is not None:
            size = f"{told(entry.films, 'image')} of {told(entry.patients, 'patient')}"
        found.setdefault(entry.dataset, size)
    return found


def simulated(
    runs: Sequence[PretrainingRun],
    results: Sequence[Results],
    audits: Sequence[AuditResults],
    opened: Mapping[str, tuple[Path, Store]],
) -> list[str]:
    """The data sets that are simulated, as stores, manifests and encoders say."""
    found = [run.manifest.source for run in runs if run.manifest.simulated]
    encoders = [one.provenance for one in results if one.provenance is not None]
    encoders += [encoder.provenance for one in audits for encoder in one.manifest.encoders]
    found += [made.source for made in encoders if made.source and made.simulated]
    stores = [store for one in results for store in one.manifest.stores]
    stores += [store for one in audits for store in one.manifest.stores]
    found += [store.dataset for store in stores if store.simulated and not store.part_of]
    metadata = {name: from_metadata(store.cohort.schema.metadata) for name, (_, store) in opened.items()}
    return list(dict.fromkeys([*found, *(name for name, its in metadata.items() if its.simulated)]))


def data_section(name: str, store: tuple[Path, Store] | None, runs: Sequence[PretrainingRun]) -> DataSection:
    """Everything known about data set `name`, from its store and from the runs that were pretrained on it."""
    flow = _flow(name, store[0] if store else None, runs)
    cohort = store[1].cohort if store else None
    splits = _splits(cohort) if cohort is not None else []
    metadata = from_metadata(cohort.schema.metadata) if cohort is not None else CohortMetadata(source=name)
    quarantine = _quarantine(store[1]) if store else Counter()
    return DataSection(
        name=name,
        release=flow.release or metadata.release or "",
        rules=flow.rules or (metadata.rules if cohort is not None else ""),
        steps=_steps(flow, splits),
        notes=[f"{each.of}: {without_small_counts(each.what)}" for each in flow.cautions],
        links=_links(flow.links),
        splits=splits,
        patients_in_two_splits=patients_in_two_splits(cohort["patient_id"], cohort["split"])
        if cohort is not None
        else 0,
        missing=_missing(cohort, metadata, flow.missing) if cohort is not None else [],
        labels=_labels(cohort) if cohort is not None else [],
        absent_labels=flow.absent_labels or list(metadata.absent_labels),
        quarantine=quarantine.most_common(),
        quarantined=sum(quarantine.values()),
        side=store[1].size if store else None,
        store_hash=store[1].hash if store else "",
    )


def without_identifiers(reason: str) -> str:
    """A quarantine reason with every path, file name, quoted text and long number taken out.

    >>> without_identifiers("truncated file /data/p10/p10000032/s1/a.jpg (12 bytes)")
    'truncated file … (12 bytes)'
    """
    reason = re.sub(
        r"'[^']*'|\"[^\"]*\"|\S*[/\\]\S*|\S+\.(?:jpe?g|png|dcm|dicom)\b\S*", "…", reason, flags=re.IGNORECASE
    )
    return re.sub(r"\b\w*\d{4,}\w*\b", "…", reason).strip(" :,;")


def common_values(cells: Mapping[str, int], images: int) -> str:
    """Cells that could not be used, by value, of so many images; a value of few images could identify one of them and
    is only counted. Their sum, the missing ones, is told too.

    >>> common_values({"absent": 90, "?": 12, "Jane Doe 1.4.1950": 1, "(rare values)": 2}, 500)
    'absent about 90, “?” 12, rare values < 10'
    >>> common_values({"absent": 495}, 500)
    'absent > 490'
    """
    always = [(value, count) for value, count in cells.items() if value in _TOLD]
    common = [one for one in cells.items() if one[0] not in (*_TOLD, _RARE) and one[1] >= IMAGES_TO_SHOW_A_VALUE]
    common.sort(key=lambda one: -one[1])
    found = {value.strip("()"): count for value, count in always}
    found |= {f"“{value}”": count for value, count in common[:VALUES_SHOWN]}
    others = sum(count for _, count in common[VALUES_SHOWN:])
    rare = sum(cells.values()) - sum(count for _, count in [*always, *common])
    found |= {name: count for name, count in (("other values", others), ("rare values", rare)) if count}
    told = [
        nearly(count, images) if is_small(images - count) else words
        for count, words in zip(found.values(), counts(list(found.values())), strict=True)
    ]
    return ", ".join(f"{name} {words}" for name, words in zip(found, told, strict=True))


def _links(found: Mapping[str, int]) -> list[tuple[str, str]]:
    """Links as they are told: images that are linked and those that are not for one reason are all images."""
    parts = [name for name in ("linked", *UNLINKED) if name in found]
    told = dict(zip(parts, counts([found[name] for name in parts]), strict=True))
    others = {name: count for name, count in found.items() if name not in told}
    told |= {name: nearly(count, found.get("linked", count)) for name, count in others.items()}
    return [(name.replace("films", "images"), told[name]) for name in found]


def _flow(name: str, folder: Path | None, runs: Sequence[PretrainingRun]) -> CohortFlow:
    for run in runs:
        if run.manifest.flow is not None and run.manifest.source == name:
            return run.manifest.flow
    return (None if folder is None else read_store_flow(folder)) or CohortFlow(source=name)


def _steps(flow: CohortFlow, splits: Sequence[SplitRow]) -> list[FlowRow]:
    """The flow as it is told; the images of each split, which the page tells exactly, are its end."""
    chains: list[list[FlowStep]] = []
    for step in flow.steps:
        if not chains or step.step in SPLITS or step.rows_in != chains[-1][-1].rows_out:
            chains.append([])
        chains[-1].append(step)
    stored = {one.split: one.images for one in splits}
    stored |= {chains[-1][-1].step: sum(stored.values())} if chains and chains[-1][-1].step not in SPLITS else {}
    found = []
    for chain in chains:
        rows = [chain[0].rows_in, *(step.rows_out for step in chain)]
        last = stored.get(chain[-1].step, rows[-1]) if splits else rows[-1]
        left = steps_told([*rows, min(last, rows[-1])])
        for step, before, after in zip(chain, left, left[1:], strict=False):
            lost = after.fewer if step.rows_in > step.rows_out else ""
            why = without_small_counts(step.why)
            found.append((step.step, before.text, after.text, lost, why, before.most, after.most))
    most = max([rows for row in found for rows in row[5:]] + [1])
    return [FlowRow(*row[:5], percent=100 * row[6] / most) for row in found]


def _splits(cohort: pa.Table) -> list[SplitRow]:
    found = []
    for split in SPLITS:
        rows = cohort.filter(pc.equal(cohort["split"], split))
        found.append(SplitRow(split, rows.num_rows, pc.count_distinct(rows["patient_id"]).as_py()))
    return found


def _missing(cohort: pa.Table, metadata: CohortMetadata, values: Mapping[str, Mapping[str, int]]) -> list[MissingCells]:
    found = []
    for name, variable in metadata.variables.items():
        column = cohort[EHR_PREFIX + name]
        missing = column.null_count
        unusable = values.get(name) or values.get(EHR_PREFIX + name) or {}
        text = common_values(unusable, len(column))
        percent = 100 * missing / max(len(column), 1)
        found.append(
            MissingCells(name, variable.kind, len(column) - missing, missing, percent, not variable.known_at_film, text)
        )
    return found


def _labels(cohort: pa.Table) -> list[LabelCounts]:
    found = []
    for column in cohort.column_names:
        if column.startswith(LABEL_PREFIX):
            values = cohort[column].to_numpy()
            present, absent, uncertain = (int(np.sum(values == value)) for value in (1, 0, -1))
            label = column.removeprefix(LABEL_PREFIX)
            blank = blank_cells(cohort, label)
            means = (meaning(cohort, label) or "not recorded") if blank.any() else ""
            lost = int((np.isnan(values) & ~blank).sum())
            found.append(LabelCounts(label, present, absent, uncertain, int(blank.sum()), means, lost))
    return found


def _quarantine(store: Store) -> Counter[str]:
    return Counter(without_identifiers(str(reason)) for reason in store.quarantine["reason"].to_pylist())
