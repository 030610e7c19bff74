"""What a card says of leaks before any of its numbers: what audits found, or that none looked."""

from collections.abc import Mapping, Sequence
from typing import Any

from chartray.audit.leakage import PRETRAINING
from chartray.audit.sentences import leaks_said
from chartray.model_card.folders import Audit, Evaluation
from chartray.model_card.numbers import cell, dataset_of


def leaked(audits: Sequence[Audit], made: Mapping[str, Any]) -> str:
    """One sentence that says what leaked, with this encoder or between the stores; empty where nothing did."""
    rows = [row for audit in audits for row in audit.leaks or [] if row["count"] and _concerns(row, made)]
    found = list(dict.fromkeys(cell(line) for line in leaks_said(rows)))
    if not found:
        return ""
    return f"The audit found a leak, so that no score on this card can be trusted: {'; '.join(found)}."


def not_looked(audits: Sequence[Audit], evaluations: Sequence[Evaluation]) -> str:
    """One sentence that names the data sets in which no audit looked for leaks; empty where audits saw all."""
    searched = {
        str(store.get("hash"))
        for audit in audits
        if audit.leaks is not None
        for store in audit.manifest.get("stores", ())
    }
    bare = dict.fromkeys(
        dataset_of(one.manifest, str(store["dataset"]))
        for one in evaluations
        for store in one.manifest["stores"]
        if str(store["hash"]) not in searched and not store.get("part_of")
    )
    if not bare:
        return ""
    return (
        f"No leak audit of {', '.join(map(cell, bare))} was made: nobody has checked whether patients or images that "
        "were scored were also trained on; `chartray audit` does."
    )


def _concerns(row: Mapping[str, Any], made: Mapping[str, Any]) -> bool:
    """Whether a leak is of this encoder, or of the stores; an audit of several runs names those it is of."""
    others = f"{PRETRAINING} of "
    return all(not str(place).startswith(others) or place == f"{others}{made.get('run')}" for place in row["between"])
