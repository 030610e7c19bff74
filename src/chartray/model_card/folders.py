"""The results that a card's numbers come from: read, and refused where they are of another encoder."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from chartray.errors import InputError
from chartray.networks.description import Provenance
from chartray.results.audit_rows import AuditRow, Leak
from chartray.results.folder import (
    AUDIT_FILE,
    COMPARE_FILE,
    MANIFEST_FILE,
    ResultsFolder,
    open_kind,
    open_results,
)
from chartray.results.manifest import (
    AuditManifest,
    ComparisonManifest,
    EvaluationManifest,
    differing,
    identity,
    reading,
)
from chartray.results.schema import MACRO, Comparison, Score


class CardEvaluation(NamedTuple):
    """An evaluation of the encoder: its scores by image and its comparisons, at the largest fraction."""

    manifest: EvaluationManifest
    scores: list[Score]
    comparisons: list[Comparison]


class CardAudit(NamedTuple):
    """An audit of the encoder; `leaks` is None where it made no leakage check."""

    manifest: AuditManifest
    rows: list[AuditRow]
    leaks: list[Leak] | None


class CardResults(NamedTuple):
    """All results of the encoder; `comparisons` are of the macro AUROC of its arm, at the largest fraction, `compared`
    their manifests.
    """

    evaluations: list[CardEvaluation]
    comparisons: list[Comparison]
    audits: list[CardAudit]
    compared: list[ComparisonManifest]


def read_folders(results: Sequence[Path], made: Provenance) -> CardResults:
    """The results of the encoder that `made` describes.

    Raises InputError for a folder that is no result, is damaged, or is of another encoder.
    """
    found = CardResults([], [], [], [])
    for folder in results:
        what = f"expected a folder of chartray evaluate, compare or audit as --results, found none in {folder}"
        opened = open_results(folder, (MANIFEST_FILE, COMPARE_FILE, AUDIT_FILE), what)
        manifest = opened.manifest
        if isinstance(manifest, EvaluationManifest):
            _expect_same([manifest.encoder.provenance], made, folder)
            scores, pairs = opened.scores, opened.comparisons
            most = max((row.fraction for row in scores), default=1.0)
            whole = [row for row in scores if row.fraction == most]
            found.evaluations.append(CardEvaluation(manifest, whole, [row for row in pairs if row.fraction == most]))
        elif isinstance(manifest, ComparisonManifest):
            found.compared.append(manifest)
            found.comparisons.extend(_comparisons(manifest, opened.comparisons, made, folder))
        elif isinstance(manifest, AuditManifest):
            _expect_same([one.provenance for one in manifest.encoders], made, folder)
            found.audits.append(CardAudit(manifest, opened.audit_rows, opened.leaks))
    return found


def audits_beside(results: Sequence[Path], made: Provenance) -> list[CardAudit]:
    """Audits of this encoder next to the results, or next to the folder they are in, that were not named.

    That is where an experiment puts them: a leak that they found must not be lost. One line on standard error names
    each that cannot be read.
    """
    named = {folder.resolve() for folder in results}
    places = dict.fromkeys(place for folder in named for place in (folder.parent, folder.parent.parent))
    found = []
    for folder in dict.fromkeys(file.parent for place in places for file in sorted(place.glob(f"*/{AUDIT_FILE}"))):
        if folder.resolve() in named:
            continue
        try:
            opened: ResultsFolder[AuditManifest] = open_kind(
                folder, AuditManifest, f"expected an audit in {folder}, found none"
            )
            if any(identity(one.provenance) == identity(made) for one in opened.manifest.encoders):
                found.append(CardAudit(opened.manifest, opened.audit_rows, opened.leaks))
        except InputError as error:
            print(f"chartray: an audit next to the results is not on the card: {error}", file=sys.stderr, flush=True)
    return found


def _comparisons(
    manifest: ComparisonManifest, rows: Sequence[Comparison], made: Provenance, folder: Path
) -> list[Comparison]:
    """The macro AUROC rows of the arm that holds this encoder."""
    _expect_same([run.provenance for runs in manifest.arms.values() for run in runs], made, folder)
    arms = {
        name for name, runs in manifest.arms.items() if any(reading(run.provenance) == reading(made) for run in runs)
    }
    most = max((row.fraction for row in rows), default=1.0)
    return [
        row for row in rows if {row.a, row.b} & arms and (row.label, row.metric, row.fraction) == (MACRO, "auroc", most)
    ]


def _expect_same(candidates: Sequence[Provenance], made: Provenance, folder: Path) -> None:
    """One of the encoders must be this one; the error says how the nearest differs."""
    if not candidates:
        raise InputError(f"expected results of the encoder of {made.run} in {folder}, found none")
    others = [(one, differing(reading(one), reading(made))) for one in candidates]
    nearest, other = min(others, key=lambda each: (each[0].run != made.run, len(each[1])))
    if other:
        raise InputError(
            f"expected results of the encoder of {made.run} in {folder}, found those of {nearest.run}: "
            f"{', '.join(other)}; give the results of this encoder with the default --pool"
        )
