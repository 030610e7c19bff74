"""What an encoder has seen in pretraining of what it is to be scored on: chart columns made labels, and patients."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from chartray.errors import InputError
from chartray.evaluation.arms import chart_variables
from chartray.evaluation.films import Films, metadata_of
from chartray.features.chart import refuse_shared_columns
from chartray.networks.encoder import DESCRIPTION_FILE, PretrainedEncoder
from chartray.pixels.store import Store
from chartray.schema import patient_key

# Pretraining writes it beside `encoder/`: one `schema.patient_key` a line.
PATIENTS_FILE = "train_patients.txt"


def refuse_chart_labels(encoder: PretrainedEncoder, store: Store, labels: Sequence[str]) -> None:
    """Raises InputError if a label of the store was made from a source column of the chart the encoder was shown.

    Another source's column of one name is another fact. What the store itself makes of the column does not matter:
    a cohort may hold as a label what the cohort of pretraining held as a variable. Encoders that do not say from which
    columns their chart came are judged by the names of its variables.
    """
    made, metadata = encoder.provenance, metadata_of(store)
    if made.get("source") not in (None, metadata.source):
        return
    sources = made.get("chart_sources")
    if sources is None:
        named = made.get("chart_variables") or chart_variables(str(made.get("chart", "none")))
        refuse_shared_columns(store.cohort, named, labels)
        return
    for label in labels:
        columns = set(metadata.labels[label].columns) if label in metadata.labels else set()
        for variable, shown in sources.items():
            if shared := sorted(columns & set(shown)):
                raise InputError(
                    f"expected labels that the encoder was not shown, found {label!r} in {store.folder} and the chart "
                    f"variable {variable!r} of its pretraining both made from {shared[0]!r}; leave the label out with "
                    "--labels, or pretrain without the variable"
                )


def patients_seen(source: Path, encoder: PretrainedEncoder, films: Films) -> int | None:
    """0 if no patient of the films was pretrained on; None where that cannot be known: an encoder folder without its
    run, films of another source, or a run that started from weights, which do not say whom they were shown.

    Raises InputError if a patient was pretrained on.
    """
    made, name = encoder.provenance, metadata_of(films.store).source
    run = source.resolve().parent if (source / DESCRIPTION_FILE).is_file() else source
    file = run / PATIENTS_FILE
    if not file.is_file() or made.get("source") != name:
        return None
    pretrained = set(file.read_text().split())
    seen = sum(patient_key(name, patient) in pretrained for patient in np.unique(films.patients).tolist())
    if seen:
        raise InputError(
            f"expected films of patients that the encoder was not pretrained on in the {films.split} split of "
            f"{films.store.folder}, found {seen} of its patients in {file}; split both cohorts alike, or pretrain again"
        )
    return 0 if made.get("init") is None else None
