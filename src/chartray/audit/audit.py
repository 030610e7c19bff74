"""`chartray audit`: patient attributes in an encoder, how its probes serve subgroups, and leakage.

Writes an Audit folder: audit.jsonl (parts readability, difference, group and removed), leaks.jsonl, predictions.parquet
and audit.json. Their fields are those of `results.schema` and `results.manifest`; predictions.parquet holds every score
that the numbers were computed from.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from chartray.audit.arms import AuditArm, baseline_arms, encoder_arms, run_name
from chartray.audit.attribute_probes import (
    AttributeResult,
    AttributeTruth,
    Resampling,
    attribute_result,
    attribute_truth,
    missing_row,
    predict_attributes,
    probe_rows,
)
from chartray.audit.attributes import Attribute, chosen_attributes, subgroup_codes, why_not_available
from chartray.audit.differences import compared_sides, difference_rows, notes_on_seeds
from chartray.audit.families import corrected
from chartray.audit.leace import DiseaseScores, Remover, disease_scores, remove_attribute
from chartray.audit.leakage import find_leaks, pretrained
from chartray.audit.splits import attributes_left_out, evaluation_splits, labels_left_out, labels_outside_chart
from chartray.audit.subgroup_metrics import SPECIFICITY, own_thresholds
from chartray.audit.subgroups import Diagnosis, subgroup_rows
from chartray.audit.suppression import suppression_costs
from chartray.config.audit import AuditOptions
from chartray.evaluation.assemble import encoder_entry, store_entry
from chartray.evaluation.baselines import Frozen, fitted_probe, named_chart
from chartray.evaluation.image_set import ImageSet, Match, blank_entry, chosen_labels, image_set_of
from chartray.evaluation.scoring import EvaluationSet
from chartray.evaluation.sentences import blanks_counted, chart_baselines_said
from chartray.networks.encoder import PretrainedEncoder
from chartray.networks.public import open_encoder
from chartray.pixels.store import Store
from chartray.results import folder as results
from chartray.results.audit_rows import AuditRow, Leak
from chartray.results.ledger import note_scoring
from chartray.results.manifest import AttributeEntry, AuditManifest, Settings
from chartray.statistics.operating_point import threshold_at_specificity
from chartray.truth import Policy
from chartray.wording import plural

Floats = NDArray[np.float64]


DEFAULTS = AuditOptions()


class AuditRows(NamedTuple):
    """What an audit found: the rows of audit.jsonl, those of leaks.jsonl, and notes."""

    rows: list[AuditRow]
    leaks: list[Leak]
    notes: list[str]


class _Data(NamedTuple):
    """The disease labels, what probes are fitted on, chosen on and scored on, and how.

    `truths` are the attributes on every split that has them, by (attribute, data set).
    """

    labels: list[str]
    train: ImageSet
    validate: ImageSet
    tests: list[EvaluationSet]
    attributes: list[Attribute]
    truths: dict[tuple[str, str], AttributeTruth]
    resampling: Resampling
    device: str

    @property
    def images(self) -> list[ImageSet]:
        """All that features are needed of."""
        return [self.train, self.validate, *(test.image_set for test in self.tests)]


class _Found(NamedTuple):
    """Rows of audit.jsonl, and tables of predictions.parquet."""

    rows: list[AuditRow]
    tables: list[pa.Table]


def audit(
    source: Path,
    store: Path,
    out: Path,
    options: AuditOptions = DEFAULTS,
    *,
    against: Sequence[Path] = (),
) -> AuditRows:
    """Audits the encoder of a RUN (or encoder folder), writes the Audit folder `out`, and returns what it found.

    Disease labels that were made from a column of the encoder's chart are left out, as the manifest says.

    Args:
        source: RUN, encoder folder or public encoder.
        store: the STORE whose training images probes are fitted on.
        out: the folder to write; an earlier audit of this encoder on this STORE is replaced.
        options: everything else, `config.audit.AuditOptions`.
        against: other runs to compare it with: without the chart, with shuffled charts, of other seeds.

    Raises:
        InputError: `out` holds other things, an attribute is unknown or constant, two runs have one name, all labels
            of a store were made from the encoder's chart, or evaluation refuses it.
    """
    results.check_replaceable(out, results.AUDIT_FILE)
    home = Store.open(store)
    chosen, left_out = chosen_attributes(home, options.attributes)
    if options.baseline_chart is not None:
        named_chart(home.cohort, options.baseline_chart, [])
    encoder = open_encoder(source, options)
    entry = encoder_entry(encoder, run_name(encoder, source), source)
    results.check_same(out, results.AUDIT_FILE, encoder=entry, store=home.hash)
    policy, resampling = (
        Policy(options.uncertain, options.blank),
        Resampling(options.resamples, options.seed, options.level),
    )
    stores = [home, *(Store.open(each) for each in options.external)]
    data = _data(encoder, stores, chosen, options.split, policy, resampling, options.device)
    left_out |= labels_left_out(data.tests) | attributes_left_out(chosen, data.tests)
    arms, entries, own = encoder_arms(source, against, data.images, options)
    runs = [pretrained(each) for each in entries]
    if options.baselines:
        beside, reasons = baseline_arms(
            encoder,
            arms[0],
            own,
            data.images,
            device=options.device,
            precision=options.precision,
            seed=options.seed,
            chart=options.baseline_chart,
        )
        arms += beside
        left_out |= reasons
    if options.split == "test":
        for path, scored in zip((source, *against), entries, strict=True):
            note_scoring(((each.folder, each.hash) for each in stores), run=scored.run, source=path)
    probed, own_results = _attributes(arms, data)
    disease, disease_scored = _disease(arms[0], own, data, own_results)
    costs = suppression_costs(
        arms, disease_scored, data.train, data.validate, data.attributes[0], resampling, options.device
    )
    leaks, uncompared = find_leaks(runs, [(test.dataset, test.image_set.store) for test in data.tests])
    manifest = AuditManifest(
        command=results.command(),
        when=results.now(),
        versions=results.versions(),
        encoders=tuple(entries),
        stores=tuple(store_entry(test, data.labels) for test in data.tests),
        settings=Settings.model_validate(options.recorded()),
        attributes=tuple(AttributeEntry.model_validate(attribute._asdict()) for attribute in chosen),
        labels=tuple(data.labels),
        blank_negatives_learnt_from=blank_entry(data.train, data.labels),
        leaks=sum(row.count > 0 for row in leaks),
        left_out=left_out,
        test_split_touched=options.split == "test",
    )
    manifest = manifest.replaced(notes=(*costs, *_notes(arms, manifest), *notes_on_seeds(arms), *uncompared))
    rows = corrected([*probed.rows, *disease.rows])
    with results.written_folder(out, results.AUDIT_FILE) as folder:
        results.write_rows(folder, results.AUDIT_ROWS_FILE, rows)
        results.write_rows(folder, results.LEAKS_FILE, leaks)
        results.write_parquet(folder / results.PREDICTIONS_FILE, probed.tables + disease.tables)
        results.write_manifest(folder, manifest)
    return AuditRows(rows, leaks, list(manifest.notes))


def _data(
    encoder: PretrainedEncoder,
    stores: Sequence[Store],
    attributes: list[Attribute],
    split: str,
    policy: Policy,
    resampling: Resampling,
    device: str,
) -> _Data:
    """The first of `stores` is the one that probes are fitted on."""
    home = stores[0]
    every = [Match(label, label) for label in chosen_labels(home, None)]
    labels = [match.label for match in labels_outside_chart(encoder, home, every)]
    train, validate = (image_set_of(home, part, labels, policy) for part in ("train", "validate"))
    tests = evaluation_splits(encoder, stores, labels, split, policy)
    truths = {
        (attribute.name, test.dataset): attribute_truth(attribute, test, resampling)
        for attribute in attributes
        for test in tests
        if why_not_available(attribute, test.image_set.store) is None
    }
    return _Data(labels, train, validate, tests, attributes, truths, resampling, device)


def _attributes(arms: Sequence[AuditArm], data: _Data) -> tuple[_Found, dict[str, AttributeResult]]:
    """Rows of the parts readability and difference, predictions, and the encoder's own results on STORE."""
    rows: list[AuditRow] = []
    tables: list[pa.Table] = []
    by_arm: list[dict[str, dict[str, AttributeResult]]] = []
    for arm in arms:
        predicted = predict_attributes(arm, data.attributes, data.train, data.validate, data.tests, data.device)
        here: dict[str, dict[str, AttributeResult]] = {test.dataset: {} for test in data.tests}
        for (name, dataset), truth in data.truths.items():
            scores = predicted[name, dataset]
            if isinstance(scores, str):
                rows.append(missing_row(arm, truth, scores))
                continue
            here[dataset][name] = result = attribute_result(truth, scores)
            rows += probe_rows(arm, result)
            targets = [target or name for target in truth.attribute.targets]
            tables.append(_table("readability", arm, truth.test, name, targets, truth.values, scores))
        by_arm.append(here)
    for test in data.tests:
        for a, b in compared_sides(arms, [found[test.dataset] for found in by_arm]):
            rows += difference_rows(a, b)
    return _Found(rows, tables), by_arm[0][data.tests[0].dataset]


def _disease(
    arm: AuditArm, frozen: Frozen, data: _Data, own: dict[str, AttributeResult]
) -> tuple[_Found, DiseaseScores]:
    """Rows of the parts group (every split) and removed (STORE), and predictions of disease; the scores of STORE."""
    checked = frozen.needed(data.validate)
    probe = fitted_probe(frozen.needed(data.train), checked, data.train, data.validate, data.device)
    validated = probe.scores(checked)
    thresholds = threshold_at_specificity(data.validate.truth, validated, SPECIFICITY)
    own_cuts = {
        attribute.name: own_thresholds(
            data.validate.truth,
            validated,
            data.validate.patients,
            subgroup_codes(attribute, data.validate),
            len(attribute.subgroups),
        )
        for attribute in data.attributes
    }
    rows: list[AuditRow] = []
    tables: list[pa.Table] = []
    for test in data.tests:
        scores = probe.scores(frozen.needed(test.image_set))[:, test.columns]
        diagnosis = Diagnosis(test, scores, thresholds[test.columns])
        tables.append(_table("disease", arm, test, None, test.labels, test.image_set.truth, scores))
        for attribute in data.attributes:
            if (attribute.name, test.dataset) in data.truths:
                cuts = own_cuts[attribute.name][test.columns]
                rows += subgroup_rows(arm, diagnosis, attribute, data.resampling, cuts)
    home = data.tests[0]
    whole = disease_scores(home, probe.scores(frozen.needed(home.image_set)), data.resampling)
    remover = Remover(frozen, data.train, data.validate, whole, data.device)
    for attribute in data.attributes:
        found = remove_attribute(arm, remover, own[attribute.name])
        rows += found.rows
        tables.append(_table("removed", arm, home, attribute.name, home.labels, home.image_set.truth, found.scores))
    return _Found(rows, tables), whole


def _table(
    part: str,
    arm: AuditArm,
    test: EvaluationSet,
    attribute: str | None,
    targets: Sequence[str],
    truth: Floats,
    scores: Floats,
) -> pa.Table:
    """One row an image and target, image by image; unknown truth is null."""
    images, count = truth.shape
    same = {"part": part, "run": arm.run, "control": arm.arm.control, "chart": arm.arm.chart}
    same |= {"dataset": test.dataset, "split": test.image_set.split}
    columns = {name: pa.repeat(pa.scalar(value), images * count) for name, value in same.items()}
    columns["attribute"] = pa.repeat(pa.scalar(attribute, pa.string()), images * count)
    columns["target"] = pa.array(list(targets) * images, pa.string())
    columns["image_id"] = pa.array(np.repeat(np.array(test.image_ids, dtype=object), count), pa.string())
    columns["patient_id"] = pa.array(np.repeat(test.image_set.patients.astype(object), count), pa.string())
    known = truth.ravel()
    columns["truth"] = pa.array(known, pa.float64(), mask=np.isnan(known))
    columns["score"] = pa.array(scores.ravel(), pa.float64())
    return pa.table(columns)


def _notes(arms: Sequence[AuditArm], manifest: AuditManifest) -> list[str]:
    runs = [(arm, arm.provenance) for arm in arms if arm.provenance is not None]
    settings = manifest.settings
    notes = chart_baselines_said([arm.arm for arm in arms], manifest.left_out)
    notes += blanks_counted(settings.blank, manifest.stores, manifest.blank_negatives_learnt_from)
    notes += [
        f"{arm.run} was pretrained on {made.source}, but the probes are fitted on {manifest.home}"
        for arm, made in runs
        if made.source not in (None, manifest.home)
    ]
    notes += [
        f"{arm.run} was pretrained with other settings than {arms[0].run}, so they differ in more than the chart"
        for arm, _ in runs[1:]
        if arm.arm.settings != arms[0].arm.settings
    ]
    notes += [f"{arm.run}: {arm.arm.caution}" for arm, _ in runs if arm.arm.caution]
    if settings.split == "validate":
        notes.append(
            "scored on the validation images, on which penalties and thresholds were chosen, so values are optimistic"
        )
    attributes = len(manifest.attributes) - 1  # the coin is not compared
    least = 2 * attributes / (settings.resamples + 1)
    if least >= 1 - settings.level:
        notes.append(
            f"{settings.resamples} resamples are too few to show a difference: the smallest possible p is {least:.2f} "
            f"after correction over {plural(attributes, 'attribute')}"
        )
    return notes
