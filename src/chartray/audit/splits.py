"""The evaluation split of each store: the labels that can be scored there, and what is left out."""

from collections.abc import Sequence

from chartray.audit.attributes import Attribute, why_not_available
from chartray.errors import InputError
from chartray.evaluation.evaluation_data import evaluation_set
from chartray.evaluation.image_set import Match, chosen_labels, metadata_of, shared_labels
from chartray.evaluation.leakage import refuse_chart_labels
from chartray.evaluation.scoring import EvaluationSet
from chartray.networks.encoder import PretrainedEncoder
from chartray.pixels.store import Store
from chartray.truth import Policy


def labels_outside_chart(encoder: PretrainedEncoder, store: Store, matches: Sequence[Match]) -> list[Match]:
    """The labels that were not made from a column of the encoder's chart (`evaluation.leakage`).

    Raises InputError if there are none.
    """
    found = [match for match in matches if not _in_chart(encoder, store, match.there)]
    if not found:
        raise InputError(
            f"expected a disease label in {store.folder} that the encoder was not pretrained with, found "
            f"{', '.join(match.there for match in matches)}, all made from columns of its chart; audit it on a store "
            "with other labels, or pretrain without these variables"
        )
    return found


def _in_chart(encoder: PretrainedEncoder, store: Store, label: str) -> bool:
    try:
        refuse_chart_labels(encoder, store, [label])
    except InputError:
        return True
    return False


def evaluation_splits(
    encoder: PretrainedEncoder,
    stores: Sequence[Store],
    labels: Sequence[str],
    split: str,
    policy: Policy,
) -> list[EvaluationSet]:
    """The split of each store; all but the first may have no label of the probe."""
    found: list[EvaluationSet] = []
    for store in stores:
        taken = {test.dataset for test in found}
        source = metadata_of(store).source
        if source in taken and f"{source}:{store.folder.name}" in taken:
            raise InputError(f"expected each store once, found {store.folder} again after --external")
        matches = [Match(label, label) for label in labels] if store is stores[0] else shared_labels(labels, store)
        if store is not stores[0] and matches:
            matches = labels_outside_chart(encoder, store, matches)
        found.append(evaluation_set(store, matches, labels, split, policy, taken))
    return found


def labels_left_out(tests: Sequence[EvaluationSet]) -> dict[str, str]:
    """Labels that are not scored, by name and data set, and why."""
    home, *others = [test.image_set.store for test in tests]
    present = [chosen_labels(home, None)]
    present += [[match.label for match in shared_labels(tests[0].labels, store)] for store in others]
    nowhere = "no label name matches: attributes and leakage were audited there, subgroups and findings were not"
    found = {f"labels on {test.dataset}": nowhere for test, names in zip(tests, present, strict=True) if not names}
    return found | {
        f"label {label} on {test.dataset}": "made from a column of the encoder's own chart"
        for test, names in zip(tests, present, strict=True)
        for label in names
        if label not in test.labels
    }


def attributes_left_out(attributes: Sequence[Attribute], tests: Sequence[EvaluationSet]) -> dict[str, str]:
    """Attributes that cannot be evaluated on a data set, by name and data set, and why."""
    return {
        f"{attribute.name} on {test.dataset}": why
        for attribute in attributes
        for test in tests
        if (why := why_not_available(attribute, test.image_set.store)) is not None
    }
