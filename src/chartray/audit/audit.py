"""`chartray audit`: what an encoder knows beside disease, whom its probes serve, and whether anything leaked.

The folder that `audit` writes:

audit.jsonl          rows {part, run, chart, control, dataset, attribute, ...} of four parts:
    readability      how well `attribute` is read from frozen features of the film alone, by the encoder, every run of
                     `against`, and untrained | pixels | chart-only | image+chart (these two without the attribute
                     itself in the chart): level (a category; null: the macro over levels, or a number), metric auroc |
                     r2 | mae, value, ci_low, ci_high, n, n_patients, reason. The attribute `coin (control)` is a toss
                     for each patient: what reads it above chance is no reading
    difference       the encoder a minus each other arm b, and where runs are seeds of arms the mean of a's over them
                     minus b's: difference, ci_low, ci_high, p, p_holm (over attributes, `corrected_over` so many),
                     seeds, levels, claim, verdict
                     `a higher` | `b higher` | `no difference shown` | `no claim` (`audit.differences`)
    group            the disease probe in each group of an attribute, and the gaps (`audit.subgroups`)
    removed          disease before and after the attribute is taken out (`audit.leace`)
leaks.jsonl          patients and films on both sides of a wall (`audit.leakage`); `count` 0: none
predictions.parquet  part (readability | disease | removed), run, control, chart, dataset, split, attribute, target (the
                     level or label), image_id, patient_id, truth, score: every number above can be computed again
audit.json           format, command, versions, when, encoders, settings, stores, attributes, labels, left_out, notes
"""

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from chartray.audit.arms import AuditArm, encoder_arms, floor_arms, run_name
from chartray.audit.attribute_probes import (
    Judge,
    Place,
    Reading,
    judge_of,
    read,
    reading_of,
    rows_of,
    unread_row,
)
from chartray.audit.attributes import Attribute, chosen_attributes, why_not_held
from chartray.audit.differences import difference_rows, seeds_said, sides
from chartray.audit.leace import before, removed
from chartray.audit.leakage import leaks, pretrained
from chartray.audit.places import Scored, labels_left_out, places_scored, store_entry, unheld, unshown
from chartray.audit.sentences import spoken
from chartray.audit.subgroups import SPECIFICITY, Diagnosis, group_rows
from chartray.config.audit import AuditOptions
from chartray.evaluation import results
from chartray.evaluation.baselines import Frozen, named_chart
from chartray.evaluation.earlier import check_replaceable, check_same, whole_folder
from chartray.evaluation.embed import device_of
from chartray.evaluation.films import Films, Match, blank_entry, chosen_labels, films_of, metadata_of
from chartray.evaluation.sentences import blanks_counted, chart_floors_said
from chartray.networks.encoder import load
from chartray.pixels.store import Store
from chartray.statistics.operating_point import threshold_at_specificity
from chartray.statistics.probe import Probe, fit_probe
from chartray.truth import Policy

Floats = NDArray[np.float64]

__all__ = ["audit", "spoken"]

DEFAULTS = AuditOptions()
CONFIDENCE = DEFAULTS.level


class _Terms(NamedTuple):
    """What every part is computed under."""

    resamples: int
    seed: int
    device: str
    common: dict[str, Any]


def audit(
    source: Path,
    store: Path,
    out: Path,
    options: AuditOptions = DEFAULTS,
    *,
    against: Sequence[Path] = (),
) -> list[dict[str, Any]]:
    """Audits the encoder of a RUN (or encoder folder), writes the Audit folder `out`, returns the rows of both files
    and one {part: note} for each of its notes.

    Disease labels made from a chart column that the encoder was shown are left out, as the manifest says.

    Args:
        source: RUN or encoder folder.
        store: the STORE whose training films probes are fitted on.
        out: the folder to write; an earlier audit of this encoder on this STORE is replaced.
        options: everything else, `config.audit.AuditOptions`.
        against: other runs to compare with: without the chart, with shuffled charts, of other seeds.

    Raises:
        InputError: `out` holds other things, an unknown attribute, one with one level, two runs of one name, a store
            whose labels the encoder was all shown, or what evaluation refuses.
    """
    check_replaceable(out, results.AUDIT_FILE)
    home = Store.open(store)
    chosen, left_out = chosen_attributes(home, options.attributes)
    if options.baseline_chart is not None:
        named_chart(home.cohort, options.baseline_chart, [])
    encoder = load(source)
    run = run_name(encoder, source)
    check_same(out, results.AUDIT_FILE, run=run, made=encoder.provenance, store=home.hash)
    labels = [each.label for each in unshown(encoder, home, [Match(one, one) for one in chosen_labels(home, None)])]
    policy, seed = Policy(options.uncertain, options.blank), options.seed
    train, validate = (films_of(home, part, labels, policy) for part in ("train", "validate"))
    scored = places_scored(
        encoder, home, [Store.open(each) for each in options.external], labels, options.split, policy
    )
    places = [each.place for each in scored]
    left_out |= labels_left_out(scored) | unheld(chosen, places)
    films = [train, validate, *(place.films for place in places)]
    arms, own = encoder_arms(source, against, films, device=options.device, precision=options.precision)
    pretrainings = [pretrained(arm.run, path, arm.made) for arm, path in zip(arms, (source, *against), strict=True)]
    if options.baselines:
        more, reasons = floor_arms(
            source,
            arms[0],
            own,
            films,
            device=options.device,
            precision=options.precision,
            seed=seed,
            chart=options.baseline_chart,
        )
        arms += more
        left_out |= reasons
    common = {"split": options.split, "resamples": options.resamples, "seed": seed, "level_of_interval": CONFIDENCE}
    terms = _Terms(options.resamples, seed, options.device, common)
    judges = _judges(chosen, places, terms)
    rows, tables, readings = _readability(arms, chosen, judges, train, validate, places, terms)
    more_rows, more_tables = _disease(arms[0], own, train, validate, scored, chosen, judges, readings, terms)
    leaked, uncompared = leaks(pretrainings, _named(scored))
    notes = [
        *chart_floors_said([(arm.chart, arm.control) for arm in arms], left_out),
        *_notes(arms, home, options.split),
        *_too_few(len(chosen) - 1, options.resamples),
        *seeds_said(arms),
        *uncompared,
    ]
    said = {
        "settings": common | options.model_dump(mode="json", exclude={"external", "attributes"}),
        "stores": [store_entry(each) for each in scored],
        "blank_negatives_learnt_from": blank_entry(train, labels),
    }
    notes += blanks_counted(said)
    with whole_folder(out, results.AUDIT_FILE) as folder:
        results.write_jsonl(folder / results.AUDIT_ROWS_FILE, rows + more_rows)
        results.write_jsonl(folder / results.LEAKS_FILE, leaked)
        results.write_parquet(folder / results.PREDICTIONS_FILE, tables + more_tables)
        manifest = {
            "format": results.RESULTS_FORMAT,
            "command": sys.argv,
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": results.versions(),
            "encoders": [
                {"run": arm.run, "path": str(path), "provenance": arm.made}
                for arm, path in zip(arms, (source, *against), strict=False)
            ],
            **said,
            "attributes": [attribute._asdict() for attribute in chosen],
            "labels": labels,
            "leaks": sum(row["count"] > 0 for row in leaked),
            "left_out": left_out,
            "test_split_touched": options.split == "test",
            "notes": notes,
        }
        results.write_json(folder / results.AUDIT_FILE, manifest)
    told = [{"part": "leak"} | row for row in leaked] + [{"part": "note", "note": note} for note in notes]
    return rows + more_rows + told


def _judges(chosen: Sequence[Attribute], places: Sequence[Place], terms: _Terms) -> dict[tuple[str, str], Judge]:
    """The truth of every attribute on every place that holds it."""
    return {
        (attribute.name, place.dataset): judge_of(attribute, place, resamples=terms.resamples, seed=terms.seed)
        for attribute in chosen
        for place in places
        if why_not_held(attribute, place.films.store) is None
    }


def _readability(
    arms: Sequence[AuditArm],
    chosen: Sequence[Attribute],
    judges: dict[tuple[str, str], Judge],
    train: Films,
    validate: Films,
    places: Sequence[Place],
    terms: _Terms,
) -> tuple[list[dict[str, Any]], list[pa.Table], dict[str, Reading]]:
    """Rows of the parts readability and difference, predictions, and the encoder's own readings at home."""
    rows: list[dict[str, Any]] = []
    tables: list[pa.Table] = []
    read_by: list[dict[str, list[Reading]]] = []
    for arm in arms:
        scores = read(arm, chosen, train, validate, places, terms.device)
        here: dict[str, list[Reading]] = {place.dataset: [] for place in places}
        for (name, dataset), judge in judges.items():
            found = scores[name, dataset]
            if isinstance(found, str):
                rows.append(unread_row(arm, judge, found, terms.common))
                continue
            reading = reading_of(judge, found)
            rows += rows_of(arm, reading, terms.common, CONFIDENCE)
            here[dataset].append(reading)
            targets = [target or name for target in judge.attribute.targets]
            tables.append(_table("readability", arm, judge.place, name, targets, judge.truth, found))
        read_by.append(here)
    for place in places:
        here_by = [{reading.judge.attribute.name: reading for reading in each[place.dataset]} for each in read_by]
        for a, b in sides(arms, here_by):
            rows += difference_rows(a, b, terms.common, confidence=CONFIDENCE, seed=terms.seed)
    own = {reading.judge.attribute.name: reading for reading in read_by[0][places[0].dataset]}
    return rows, tables, own


def _disease(
    arm: AuditArm,
    frozen: Frozen,
    train: Films,
    validate: Films,
    scored: Sequence[Scored],
    chosen: Sequence[Attribute],
    judges: dict[tuple[str, str], Judge],
    readings: dict[str, Reading],
    terms: _Terms,
) -> tuple[list[dict[str, Any]], list[pa.Table]]:
    """Rows of the parts group (every place) and removed (STORE), and predictions of disease."""
    of_run = {"run": arm.run, "chart": arm.chart, "control": arm.control}
    probe = _disease_probe(frozen, train, validate, terms.device)
    thresholds = threshold_at_specificity(validate.truth, probe.scores(frozen.needed(validate)), SPECIFICITY)
    rows: list[dict[str, Any]] = []
    tables: list[pa.Table] = []
    for place, labels, columns in scored:
        scores = probe.scores(frozen.needed(place.films))[:, columns]
        diagnosis = Diagnosis(place, labels, place.films.truth, scores, thresholds[columns])
        tables.append(_table("disease", arm, place, None, labels, place.films.truth, scores))
        for attribute in chosen:
            if (attribute.name, place.dataset) in judges:
                rows += group_rows(
                    diagnosis,
                    attribute,
                    of_run | terms.common,
                    resamples=terms.resamples,
                    seed=terms.seed,
                    confidence=CONFIDENCE,
                )
    home = scored[0]
    untouched = probe.scores(frozen.needed(home.place.films))
    known = before(home.place.films, home.labels, untouched, resamples=terms.resamples, seed=terms.seed)
    for attribute in chosen:
        found = removed(
            attribute,
            frozen,
            train,
            validate,
            known,
            judges[attribute.name, home.place.dataset],
            readings[attribute.name].scores,
            of_run | {"dataset": home.place.dataset} | terms.common,
            device=terms.device,
            confidence=CONFIDENCE,
        )
        rows += found.rows
        truth = home.place.films.truth
        tables.append(_table("removed", arm, home.place, attribute.name, home.labels, truth, found.scores))
    return rows, tables


def _disease_probe(frozen: Frozen, train: Films, validate: Films, device: str) -> Probe:
    return fit_probe(
        frozen.needed(train),
        train.truth,
        frozen.needed(validate),
        validate.truth,
        patients=train.patients,
        validation_patients=validate.patients,
        device=device_of(device),
    )


def _table(
    part: str, arm: AuditArm, place: Place, attribute: str | None, targets: Sequence[str], truth: Floats, scores: Floats
) -> pa.Table:
    """One row a film and target, film by film; truth that is not known is null."""
    films, count = truth.shape
    same = {"part": part, "run": arm.run, "control": arm.control, "chart": arm.chart, "dataset": place.dataset}
    same |= {"split": place.films.split}
    columns = {name: pa.repeat(pa.scalar(value), films * count) for name, value in same.items()}
    columns["attribute"] = pa.repeat(pa.scalar(attribute, pa.string()), films * count)
    columns["target"] = pa.array(list(targets) * films, pa.string())
    columns["image_id"] = pa.array(np.repeat(np.array(place.image_ids, dtype=object), count), pa.string())
    columns["patient_id"] = pa.array(np.repeat(place.films.patients.astype(object), count), pa.string())
    known = truth.ravel()
    columns["truth"] = pa.array(known, pa.float64(), mask=np.isnan(known))
    columns["score"] = pa.array(scores.ravel(), pa.float64())
    return pa.table(columns)


def _named(scored: Sequence[Scored]) -> list[tuple[str, Store]]:
    return [(each.place.dataset, each.place.films.store) for each in scored]


def _notes(arms: Sequence[AuditArm], home: Store, split: str) -> list[str]:
    source = metadata_of(home).source
    notes = [
        f"{arm.run} was pretrained on {arm.made['source']}, the probes are fitted on {source}"
        for arm in arms
        if arm.pretrained and arm.made.get("source") not in (None, source)
    ]
    own = arms[0].made
    notes += [
        f"{arm.run} was pretrained with other settings than {arms[0].run}, so the chart is not all that differs"
        for arm in arms[1:]
        if arm.pretrained and arm.made.get("settings_hash") != own.get("settings_hash")
    ]
    if split == "validate":
        notes.append("scored on the films that strengths and thresholds were chosen on: optimistic; test untouched")
    return notes


def _too_few(attributes: int, resamples: int) -> list[str]:
    least = 2 * attributes / (resamples + 1)
    if least < 1 - CONFIDENCE:
        return []
    return [
        f"{resamples} resamples cannot show a difference of {attributes} attributes: the smallest p after Holm's "
        f"correction is {least:.2f}"
    ]
