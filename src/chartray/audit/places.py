"""Where an audit looks: the scored split of each store, the labels it may ask about there, and what is left out."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from chartray.audit.attribute_probes import Place
from chartray.audit.attributes import Attribute, why_not_held
from chartray.errors import InputError
from chartray.evaluation.films import Match, blank_entry, chosen_labels, films_of, metadata_of, shared_labels
from chartray.evaluation.leakage import refuse_chart_labels
from chartray.networks.encoder import PretrainedEncoder
from chartray.pixels.store import Store
from chartray.truth import Policy


class Scored(NamedTuple):
    """A place, and which of the disease probe's labels it has: their positions (C,)."""

    place: Place
    labels: list[str]
    columns: NDArray[np.int64]


def unshown(encoder: PretrainedEncoder, store: Store, matches: Sequence[Match]) -> list[Match]:
    """The labels that no chart the encoder was shown gives away (`evaluation.leakage`); raises InputError if none."""
    found = [match for match in matches if not _shown(encoder, store, match.there)]
    if not found:
        raise InputError(
            f"expected a disease label in {store.folder} that the encoder was not shown, found "
            f"{', '.join(match.there for match in matches)}, all made from columns of its chart; audit it on a store "
            "with other labels, or pretrain without these variables"
        )
    return found


def _shown(encoder: PretrainedEncoder, store: Store, label: str) -> bool:
    try:
        refuse_chart_labels(encoder, store, [label])
    except InputError:
        return True
    return False


def labels_left_out(scored: Sequence[Scored]) -> dict[str, str]:
    """Labels that `unshown` took away, by name and data set, and why."""
    why = "made from a column of the chart that the encoder was shown in pretraining"
    stores = [each.place.films.store for each in scored]
    held = [
        chosen_labels(stores[0], None),
        *([m.label for m in shared_labels(scored[0].labels, s)] for s in stores[1:]),
    ]
    none = "no label name matches: attributes, patients and films were looked at there, groups and findings were not"
    return {
        f"labels on {each.place.dataset}": none for each, labels in zip(scored, held, strict=True) if not labels
    } | {
        f"label {label} on {each.place.dataset}": why
        for each, labels in zip(scored, held, strict=True)
        for label in labels
        if label not in each.labels
    }


def unheld(chosen: Sequence[Attribute], places: Sequence[Place]) -> dict[str, str]:
    """Attributes that a place cannot be asked about, by name and data set, and why."""
    return {
        f"{attribute.name} on {place.dataset}": why
        for attribute in chosen
        for place in places
        if (why := why_not_held(attribute, place.films.store)) is not None
    }


def places_scored(
    encoder: PretrainedEncoder,
    home: Store,
    external: Sequence[Store],
    labels: Sequence[str],
    split: str,
    policy: Policy,
) -> list[Scored]:
    """The scored split of STORE and of each external store; names of data sets are unique, as `evaluate` makes them."""
    found: list[Scored] = []
    for store in (home, *external):
        name = metadata_of(store).source
        taken = [each.place.dataset for each in found]
        dataset = name if name not in taken else f"{name}:{store.folder.name}"
        if dataset in taken:
            raise InputError(f"expected each store once, found {store.folder} again after --external")
        same = [Match(label, label) for label in labels]
        # A store without a label in common has attributes, patients and films to look at all the same.
        matches = same if store is home else shared_labels(labels, store)
        matches = unshown(encoder, store, matches) if store is not home and matches else matches
        films = films_of(store, split, [there for _, there in matches], policy)
        ids = store.cohort["image_id"].take(pa.array(films.rows)).to_pylist()
        columns = np.array([labels.index(label) for label, _ in matches], dtype=np.int64)
        found.append(Scored(Place(dataset, films, ids), [label for label, _ in matches], columns))
    return found


def store_entry(scored: Scored) -> dict[str, Any]:
    """What the manifest says of a store."""
    films = scored.place.films
    return {
        "dataset": scored.place.dataset,
        "path": str(films.store.folder),
        "hash": films.store.hash,
        "films": len(films.rows),
        "patients": len(np.unique(films.patients)),
        "labels": scored.labels,
        "blank_negatives": blank_entry(films, scored.labels),
    }
