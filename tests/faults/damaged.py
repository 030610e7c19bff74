"""Files that have changed since they were written: flipped bits, torn ends, edited digits, files gone or empty.

Expected: whoever reads the file refuses it in one sentence that names it, or reads what was written.
"""

import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.faults.materials import COMMANDS, MARK, Command, Hospital, copy
from tests.faults.outcome import (
    REFUSED,
    SAME,
    Outcome,
    content,
    differing,
    failure,
    misbehaved,
    told_patients,
)
from tests.faults.processes import Fault, in_a_row, run_forked


def damage(file: Path, draw: random.Random) -> str:
    """Changes a file in one way; returns the way in words."""
    whole = file.read_bytes()
    way = draw.choice(
        ("nothing", "flip", "flip", "flip", "flip", "cut", "zeros", "digit", "more", "twice", "empty", "gone")
    )
    place = draw.randrange(max(1, len(whole)))
    if way == "gone":
        file.unlink()
        return "gone"
    if way == "nothing":  # and is still read as it was
        changed = bytearray(whole)
    elif way == "flip" and whole:
        changed = bytearray(whole)
        changed[place] ^= 1 << draw.randrange(8)
    elif way == "cut":
        changed = bytearray(whole[:place])
    elif way == "zeros":
        changed = bytearray(whole)
        changed[place : place + 512] = bytes(len(changed[place : place + 512]))
    elif way == "digit":
        digits = [at for at in range(place, min(len(whole), place + 4096)) if whole[at : at + 1].isdigit()]
        changed = bytearray(whole)
        if digits:
            changed[digits[0]] = 48 + (changed[digits[0]] - 48 + draw.randrange(1, 10)) % 10
    elif way == "more":
        changed = bytearray(whole + draw.randbytes(draw.randrange(1, 64)))
    elif way == "twice":
        changed = bytearray(whole[:place] + whole[max(0, place - 64) :])
    else:
        changed = bytearray()
    file.write_bytes(changed)
    return f"{way} at {place} of {len(whole)} bytes"


class Read(NamedTuple):
    """Something that is read in this process, cheaply: which artefact, and what it says."""

    artefact: str
    maker: str
    says: Callable[[Path], object]


def _cohort(place: Path) -> object:
    from chartray.records.cohort import read_cohort

    made = read_cohort(place)
    table = getattr(made, "table", made)
    return table.to_pydict(), {key: value for key, value in (table.schema.metadata or {}).items() if b"sha" not in key}


def _store(place: Path) -> object:
    import numpy as np

    from chartray.pixels.store import Store

    store = Store.open(place)
    images = np.stack([store.images[row] for row in range(len(store))])
    return images.tobytes(), store.cohort.to_pydict(), store.quarantine.to_pydict(), store.hash


def _encoder(place: Path) -> object:
    from chartray.networks.encoder import load

    loaded = load(place)
    weights = {name: value.numpy().tobytes() for name, value in loaded.model.state_dict().items()}
    return weights, repr({key: value for key, value in loaded._asdict().items() if key != "model"})


READS = {
    "cohort": Read("cohort.parquet", "cohort", _cohort),
    "store": Read("store", "ingest", _store),
    "encoder": Read("run/encoder", "pretrain", _encoder),
    "bundle": Read("bundle", "export", _encoder),
}


def files_of(place: Path) -> list[Path]:
    """The files of an artefact, in the order of their names; not what TensorBoard alone reads."""
    if place.is_file():
        return [place]
    return sorted(file for file in place.rglob("*") if file.is_file() and "events" not in file.parts)


def read_damaged(hospital: Hospital, name: str, seeds: Sequence[int]) -> Iterator[tuple[int, Outcome]]:
    """Reads the artefact of READS[name] with one file damaged."""
    reading = READS[name]
    hospital.make(reading.maker)
    shutil.rmtree(hospital.here)
    hospital.here.mkdir()
    (hospital.here / "films").symlink_to(hospital.whole / "films")
    whole, place = hospital.whole / reading.artefact, hospital.here / Path(reading.artefact).name
    copy(whole.parent, hospital.here, (place.name,))
    expected: list[object] = []

    def does(seed: int) -> tuple[str, ...]:
        from chartray.errors import InputError

        if not expected:  # a new fork, perhaps after a case that ended the one before
            copy(whole.parent, hospital.here, (place.name,))
            expected.append(reading.says(place))
        draw = random.Random(f"{name}:{seed}")
        file = draw.choice(files_of(place))
        kept, found, error = file.read_bytes(), None, ""
        way = damage(file, draw)
        try:
            found = reading.says(place)
        except InputError as refused:
            error = str(refused)
        except Exception as uncaught:
            return "traceback", f"[{file.name} {way}] {type(uncaught).__name__}: {uncaught}"
        finally:
            file.write_bytes(kept)
        at = f"[{file.name} {way}]"
        if error:
            if told_patients(error, MARK):
                return "a patient's identifier told", f"{at} {error}"
            return (REFUSED,)
        if found != expected[0]:
            return "another content read", at
        return (SAME,)

    for seed, said in in_a_row(does, seeds, hospital.scratch, seconds=60, gigabytes=4):
        yield seed, _outcome(said)


def _outcome(said: Sequence[str]) -> Outcome:
    return Outcome(said[0]) if len(said) == 1 and said[0] in (SAME, REFUSED) else failure(said[0], " ".join(said[1:]))


# A command that reads what another has made: name, the command that reads, the artefact that is damaged.
FED = [
    *(("ingest", "cohort.parquet"), ("pretrain", "store"), ("evaluate", "store"), ("evaluate", "run")),
    *(("compare", "results"), ("audit", "run"), ("embed", "store"), ("embed", "run")),
    *(("export", "run"), ("export", "results"), ("export", "compared"), ("export", "audited")),
    *(("report", "results"), ("report", "compared"), ("report", "audited"), ("report", "run"), ("report", "store")),
]


def feed_damaged(hospital: Hospital, name: str, artefact: str, seed: int) -> Outcome:
    """The command `name` where one file of `artefact`, which it may read, is damaged."""
    command, made = COMMANDS[name], hospital.make(name)
    hospital.lay(command)
    return _damaged_run(
        hospital, command, hospital.here / artefact, made.content, made.volatile, f"{name}.{artefact}:{seed}"
    )


def resume_damaged(hospital: Hospital, seed: int) -> Outcome:
    """A run that was killed after its last checkpoint, one file of it damaged, and continued."""
    command, made = COMMANDS["pretrain"], hospital.make("pretrain")
    hospital.lay(command)
    copy(hospital.whole, hospital.here, ("run",))
    shutil.rmtree(hospital.here / "run" / "encoder")
    newest = max((hospital.here / "run" / "checkpoints").glob("step-*"))
    if seed % 2:  # as if killed between the two checkpoints
        shutil.rmtree(newest)
    return _damaged_run(
        hospital, command, hospital.here / "run", made.content, made.volatile, f"resume:{seed}", whole=True
    )


def study_damaged(hospital: Hospital, seed: int) -> Outcome:
    """A finished study, one file of it damaged, and given again."""
    command, made = COMMANDS["study"], hospital.make("study")
    hospital.lay(command)
    copy(hospital.whole, hospital.here, ("study",))
    return _damaged_run(
        hospital, command, hospital.here / "study", made.content, made.volatile, f"study:{seed}", whole=True
    )


def _damaged_run(
    hospital: Hospital,
    command: Command,
    place: Path,
    expected: dict[str, str],
    volatile: frozenset[str],
    seed: str,
    *,
    whole: bool = False,
) -> Outcome:
    draw = random.Random(seed)
    file = draw.choice(files_of(place))
    at = f"[{file.relative_to(hospital.here)} {damage(file, draw)}]"
    ended = run_forked(
        lambda: hospital.does(command.tokens), hospital.here, hospital.control, Fault("count"), seconds=command.seconds
    )
    if wrong := misbehaved(ended):
        return failure(wrong.what, f"{at} {wrong.note}")
    if told_patients(ended.err, MARK):
        return failure("a patient's identifier told", f"{at} {ended.err}")
    if ended.code != 0:
        return Outcome(REFUSED)
    names = differing(content(hospital.here / command.out, volatile), expected)
    if whole:  # what nobody reads again stays damaged: only what was read may say nothing else
        names = [name for name in names if not name.startswith(file.relative_to(hospital.here).as_posix())]
    return failure("another result", f"{at} {', '.join(names[:4])} {ended.err[-200:]}") if names else Outcome(SAME)
