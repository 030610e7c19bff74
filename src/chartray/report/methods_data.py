"""The methods' part on data: which images were eligible, their split, what their labels are, what is missing."""

from collections.abc import Sequence

from chartray.report.cohorts import DataSection, FlowRow
from chartray.report.inputs import PretrainingRun, Results
from chartray.results.arm import dataset_name
from chartray.results.methods import author
from chartray.schema import SPLITS
from chartray.small_counts import counts, told
from chartray.wording import joined

_MISSING = {
    "strict": "a missing chart value entered as the mean of the training patients, with a flag that it was missing",
    "published": "an image whose chart could not be represented was left out of pretraining",
}


def eligibility(data: Sequence[DataSection], simulated: Sequence[str]) -> list[str]:
    """Where the images come from, and which were left out, step by step."""
    found = []
    if simulated:
        found.append(f"Images, charts and findings of {', '.join(map(dataset_name, simulated))} were simulated.")
    for part in data:
        name = dataset_name(part.name) + (f" {part.release}" if part.release else "")
        left = [_left_out(step) for step in part.steps if step.left_out]
        unread = counts([count for _, count in part.quarantine])
        left += [
            f"{count} that could not be read ({reason})"
            for count, (reason, _) in zip(unread, part.quarantine, strict=True)
        ]
        images = sum(one.images for one in part.splits)
        if not part.steps and not images:
            continue
        kept = told(images, "image") if images else f"{part.steps[-1].rows_out} images"
        start = f" of {part.steps[0].rows_in} {part.steps[0].step}" if part.steps else ""
        # Of a source with a file for each split every file is a step.
        files = [step for step in part.steps if step.step in SPLITS]
        start = f" of {joined(step.rows_in for step in files)} rows of its files" if files else start
        out = f"; left out were {joined(left)}" if left else "; none was left out"
        found.append(f"From {name}, {kept}{start} were used{out}.")
    asked = (
        "prospective or retrospective design; sites, dates and equipment of the examinations; who was eligible at the "
    )
    return [*found, author(f"{asked}source; de-identification; ethics approval and consent")]


def _left_out(step: FlowRow) -> str:
    return f"{step.left_out} at “{step.step}”{f' ({step.why})' if step.why else ''}"


def split(data: Sequence[DataSection]) -> list[str]:
    """How images came into parts, how large these are, and whether a patient is in two."""
    found = []
    for part in data:
        images, patients = counts([one.images for one in part.splits]), counts([one.patients for one in part.splits])
        sizes = [
            f"{one.split} {image} images of {patient} patients"
            for one, image, patient in zip(part.splits, images, patients, strict=True)
        ]
        if not sizes:
            continue
        by = [step.step for step in part.steps if "split" in step.step or "lists" in step.step]
        by += [f"{step.step}: {step.why}" for step in part.steps if step.step in SPLITS and step.why]
        how = f" ({'; '.join(by)})" if by else ""
        shared = (
            f"{told(part.patients_in_two_splits, 'patient')} in two parts"
            if part.patients_in_two_splits
            else "no patient in two parts"
        )
        found.append(f"{dataset_name(part.name)} was split by patient{how}: {'; '.join(sizes)}; {shared}.")
    return found


def reference_standard(data: Sequence[DataSection], results: Sequence[Results]) -> list[str]:
    """What the labels are."""
    found = []
    for part in data:
        labels = [one.label for one in part.labels]
        said = [step.why for step in part.steps if step.step == "labels" and step.why]
        if labels:
            origin = f" ({'; '.join(said)})" if said else ""
            found.append(f"Labels of {dataset_name(part.name)} are those of its source{origin}: {', '.join(labels)}.")
    read = {
        store.dataset: store.films_read_by_radiologists
        for one in results
        for store in one.stores
        if store.films_read_by_radiologists and not store.part_of
    }
    found += [
        f"Radiologists themselves labelled {told(count, 'image')} of those scored in {dataset_name(name)}."
        for name, count in read.items()
    ]
    asked = "how, from what, by whom and with which agreement the labels were made, and why they are the reference"
    return [*found, author(asked)]


def missing_values(data: Sequence[DataSection], runs: Sequence[PretrainingRun]) -> list[str]:
    """How often chart variables are missing, and what was done then."""
    found = []
    pretrained = {run.manifest.source for run in runs}
    for part in data:
        lacking = [
            f"{one.name} {one.share or '(not told: a count is below 10)'}" for one in part.missing if one.missing
        ]
        if part.missing and (part.name in pretrained or not runs):
            words = f"missing for these shares of images: {', '.join(lacking)}" if lacking else "never missing"
            found.append(f"Chart variables of {dataset_name(part.name)} are {words}.")
    rules = dict.fromkeys(run.manifest.rules or "strict" for run in runs if run.arm.chart != "none")
    found += [f"Under the {one} rules, {_MISSING[one]}." for one in rules if one in _MISSING]
    dropped = max((run.manifest.films_without_representable_chart or 0 for run in runs), default=0)
    return [*found, *([f"That was so for {told(dropped, 'image')}."] if dropped else [])]
