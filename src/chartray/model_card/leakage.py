"""What a card says of leakage above its numbers: what audits found, or that none checked."""

from collections.abc import Sequence

from chartray.audit.leakage import PRETRAINING
from chartray.audit.sentences import leak_sentences
from chartray.model_card.folders import CardAudit, CardEvaluation
from chartray.model_card.numbers import cell, dataset_of
from chartray.networks.description import Provenance
from chartray.results.audit_rows import Leak


def leaked(audits: Sequence[CardAudit], made: Provenance) -> str:
    """One sentence that says what leaked, with this encoder or between the stores; empty where nothing did."""
    rows = [row for audit in audits for row in audit.leaks or () if row.count and _concerns(row, made)]
    found = list(dict.fromkeys(cell(line) for line in leak_sentences(rows, masked=True)))
    if not found:
        return ""
    return f"The audit found leakage. No score on this card can be trusted: {'; '.join(found)}."


def unchecked(audits: Sequence[CardAudit], evaluations: Sequence[CardEvaluation]) -> str:
    """One sentence that names the data sets that no audit checked for leakage; empty where audits checked all."""
    checked = {store.hash for audit in audits if audit.leaks is not None for store in audit.manifest.stores}
    bare = dict.fromkeys(
        dataset_of(one.manifest, store.dataset)
        for one in evaluations
        for store in one.manifest.stores
        if store.hash not in checked and not store.part_of
    )
    if not bare:
        return ""
    return (
        f"Leakage was not checked on {', '.join(map(cell, bare))}: scored patients or images may also be training "
        "data. `chartray audit` checks this."
    )


def _concerns(row: Leak, made: Provenance) -> bool:
    """Whether a leak is of this encoder, or of the stores; an audit of several runs names those it is of."""
    others = f"{PRETRAINING} of "
    return all(not place.startswith(others) or place == f"{others}{made.run}" for place in row.between)
