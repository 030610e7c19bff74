"""What was seen before of what is to be scored: in pretraining chart columns made labels, and patients; by the probes
patients and images of other stores.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from chartray.errors import InputError
from chartray.evaluation.baselines import chart_variables
from chartray.evaluation.image_set import ImageSet, metadata_of
from chartray.features.chart import refuse_shared_columns
from chartray.networks.description import DESCRIPTION_FILE, Init, Provenance
from chartray.networks.encoder import PretrainedEncoder
from chartray.pixels.hashes import content_hashes
from chartray.pixels.store import Store
from chartray.schema import patient_key
from chartray.training.patients import PATIENTS_FILE, read_patients

Integers = NDArray[np.int64]
_BATCH = 256


def refuse_chart_labels(encoder: PretrainedEncoder, store: Store, labels: Sequence[str]) -> None:
    """Raises InputError if a label of the store was made from a source column of a chart the encoder was shown: in its
    own pretraining, or in that of the weights it started from.

    Another source's column of one name is another fact. What the store itself makes of the column does not matter:
    a cohort may hold as a label what the cohort of pretraining held as a variable. Encoders that do not say from which
    columns their chart came are judged by the names of its variables.
    """
    made, metadata = encoder.provenance, metadata_of(store)
    if made.chart_sources is None:
        if made.source in (None, metadata.source):
            named = made.chart_variables or chart_variables(made.chart or "none")
            refuse_shared_columns(store.cohort, named, labels)
        return
    for shown in _charts_shown(made, metadata.source):
        for label in labels:
            columns = set(metadata.labels[label].columns) if label in metadata.labels else set()
            for variable, sources in shown.items():
                if shared := sorted(columns & set(sources)):
                    raise InputError(
                        f"the label {label!r} of {store.folder} and the chart variable {variable!r} of the encoder's "
                        f"pretraining are both made from the column {shared[0]!r}; leave the label out with --labels, "
                        "or pretrain without the variable"
                    )


def patients_seen(source: Path, encoder: PretrainedEncoder, image_set: ImageSet) -> int | None:
    """0 if no patient of the images was pretrained on; None where that cannot be known: an encoder folder without its
    run, images of another source, or first weights of which one of these is true.

    Raises InputError if a patient was pretrained on, or the file that says so is not as it was written.
    """
    made, name, known = encoder.provenance, metadata_of(image_set.store).source, True
    generations: list[tuple[Path, str | None, Provenance | Init]] = [
        (source, made.source, made),
        *((Path(each.source), each.dataset, each) for each in _inits(made)),
    ]
    patients = np.unique(image_set.patients).tolist()
    for folder, dataset, said in generations:
        pretrained = patients_of(folder, said)
        if pretrained is None or dataset != name:
            known = False
            continue
        seen = sum(patient_key(name, patient) in pretrained for patient in patients)
        if seen:
            raise InputError(
                f"the encoder was pretrained on {seen} patients of the {image_set.split} split of "
                f"{image_set.store.folder} ({PATIENTS_FILE} of {folder} lists them); use the same "
                "split in both cohorts, or pretrain again"
            )
    return 0 if known else None


def patients_of(source: Path, said: Provenance | Init) -> frozenset[str] | None:
    """The keys of the patients of pretraining at `source`, a RUN or the encoder folder inside one, of which `said` says
    how many there were; None where only the encoder is there. Raises InputError if the file is not as it was written.
    """
    if isinstance(said, Provenance) and said.public:
        return None
    return read_patients(source.resolve().parent if (source / DESCRIPTION_FILE).is_file() else source, said)


def refuse_learnt(learnt: Sequence[ImageSet], test: ImageSet) -> str | None:
    """Raises InputError if a patient or an image of another store is among those that probes are fitted or chosen on.

    Patients are compared within one source, where a name means one person; images pixel by pixel, whatever the source
    and the name, where both stores hold them at one size. Returns why images were not compared, None where they were.
    """
    source, home = metadata_of(test.store).source, learnt[0].store
    there = f"the {test.split} split of {test.store.folder}"
    for image_set in learnt if metadata_of(home).source == source else ():
        if shared := len(np.intersect1d(image_set.patients, test.patients)):
            raise InputError(
                f"{shared} of the {len(np.unique(test.patients))} patients of {there} are also in the "
                f"{image_set.split} split of {home.folder}, on which the probe is fitted or chosen (source "
                f"{source!r}); use the same split in both cohorts, or leave it out of --external"
            )
    if test.store.size != home.size:
        return (
            f"images of {test.store.folder} ({test.store.size} px) were not compared with those of {home.folder} "
            f"({home.size} px): identical images are found only at the same size"
        )
    for image_set in learnt:
        if shared := len(same_images(image_set, test)):
            raise InputError(
                f"{shared} of the {len(test.rows)} images of {there} are identical to images of the {image_set.split} "
                f"split of {home.folder}, on which the probe is fitted or chosen; make its cohort without them, or "
                "leave it out of --external"
            )
    return None


def same_images(ours: ImageSet, theirs: ImageSet) -> Integers:
    """Rows of `theirs` whose pixels an image of `ours` has, in stores of one size; images of one grey have no picture.

    Of every image one line is read; only where lines agree the whole image is.
    """
    middle = ours.store.size // 2
    first, second = (
        [hash(bytes(each.store.images[row][middle])) for row in each.rows.tolist()] for each in (ours, theirs)
    )
    both = set(first) & set(second)
    known = set(_contents(ours.store, ours.rows[[line in both for line in first]]))
    rows = theirs.rows[[line in both for line in second]]
    found = zip(rows.tolist(), _contents(theirs.store, rows), strict=True)
    alike = [row for row, content in found if content in known and np.ptp(theirs.store.images[row]) > 0]
    return np.array(alike, dtype=np.int64)


def _contents(store: Store, rows: Integers) -> list[bytes]:
    found: list[bytes] = []
    for start in range(0, len(rows), _BATCH):
        found += content_hashes(store.images.gather(rows[start : start + _BATCH]))
    return found


def _charts_shown(made: Provenance, source: str) -> Iterator[Mapping[str, Sequence[str]]]:
    """The source columns of each chart variable that patients of `source` were shown with, generation by generation.

    What a run inherited stands among its own variables too, so the parent's, which may be another source's, is told
    from its own by the name.
    """
    own = made.chart_variables
    if made.source in (None, source):
        yield {name: each for name, each in (made.chart_sources or {}).items() if own is None or name in own}
    for init in _inits(made):
        if init.dataset in (None, source):
            yield init.chart_sources or {}


def _inits(made: Provenance) -> Iterator[Init]:
    """The weights an encoder started from, those that they started from, and so on."""
    init = made.init
    while init is not None:
        yield init
        init = init.init
