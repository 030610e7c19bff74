"""The ledger of a store: how often its test split was scored, by which runs, by which commands, and when.

`evaluate` and `audit` append to `test-scored.jsonl` in the folder of every store whose test split they score. It is no
part of the store's content or hash, stays when the store is moved or completed again, and goes with a copy.
"""

import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from chartray.outputs.appending import Entries, append_line, read_lines
from chartray.outputs.notices import notice
from chartray.results.folder import command, now
from chartray.results.manifest import ComparisonManifest
from chartray.results.question import Scorings

LEDGER_FILE = "test-scored.jsonl"


class LedgerEntry(NamedTuple):
    """One scoring of a test split: the run, its folder, the command, the time, and the store's hash."""

    run: str
    source: str
    command: str
    when: str
    store: str


def note_scoring(stores: Iterable[tuple[Path, str]], *, run: str, source: Path) -> None:
    """Appends one entry, of this command and time, to the ledger of each store, given by folder and hash.

    Where a store cannot be written, one line on standard error says so: the scoring is then counted from the results
    folder alone.
    """
    when = now()
    for folder, digest in dict.fromkeys(stores):
        entry = LedgerEntry(run, str(source.resolve()), shlex.join(command()), when, digest)
        try:
            append_line(folder / LEDGER_FILE, entry._asdict())
        except OSError as error:
            notice(
                f"chartray: the test split of {folder} was scored, but its ledger {LEDGER_FILE} cannot be written "
                f"({error.strerror}); this scoring can be counted only where its results folder is at hand"
            )


def read_ledger(folder: Path) -> tuple[list[LedgerEntry], int]:
    """The entries of a store's ledger, and how many lines of it cannot be read or were changed."""
    try:
        found = read_lines(folder / LEDGER_FILE)
    except OSError:
        found = Entries([], 1)
    rows, unreadable = list[LedgerEntry](), found.unreadable
    for entry in found.entries:
        values = [entry.get(name) for name in LedgerEntry._fields]
        if all(isinstance(value, str) for value in values):
            rows.append(LedgerEntry(*map(str, values)))
        else:
            unreadable += 1
    return rows, unreadable


def looks(compared: ComparisonManifest) -> list[Scorings]:
    """How often each test split that was compared has been scored by now.

    What is scored after a comparison, by an audit of its runs say, is in the ledgers alone. Where the stores are gone,
    the comparison's own count stands. Lines that were changed since then are told.
    """
    runs = [(member.run, compared.when) for members in compared.arms.values() for member in members]
    found = []
    for recorded in compared.scorings:
        folders = [Path(store.path) for store in compared.stores if store.hash == recorded.hash and store.path]
        today = scorings(recorded.dataset, recorded.hash, folders, runs)
        most = max(recorded, today, key=lambda one: one.times)
        found.append(most.replaced(unreadable=max(recorded.unreadable, today.unreadable)))
    return found


def scorings(dataset: str, digest: str, folders: Sequence[Path], results: Sequence[tuple[str, str]]) -> Scorings:
    """How often the test split of one store was scored.

    Args:
        dataset: the data set.
        digest: the store's hash.
        folders: where the store was when it was scored, copies of it too.
        results: run and time of evaluations at hand, which count even where no ledger has them.
    """
    entries = Counter[LedgerEntry]()
    unreadable, gone = 0, 0
    for folder in dict.fromkeys(folders):
        if not folder.is_dir():
            gone += 1
            continue
        rows, broken = read_ledger(folder)
        # Of a copied ledger, each entry counts once; two of one second in one ledger are two.
        entries |= Counter(row for row in rows if row.store == digest)
        unreadable += broken
    noted = {row.run for row in entries}
    missing = [(run, when) for run, when in results if run not in noted]
    times = sorted([*(row.when for row in entries.elements()), *(when for _, when in missing)])
    notes = []
    if missing:
        notes.append(f"{len(missing)} of them counted from the evaluations compared, not noted in a ledger")
    if gone:
        notes.append("the store is no longer where it was scored, so scorings by others are not counted")
    return Scorings(
        dataset=dataset,
        hash=digest,
        times=len(times),
        runs=len({(row.run, row.source) for row in entries}) + len({run for run, _ in missing}),
        first=times[0] if times else None,
        last=times[-1] if times else None,
        unreadable=unreadable,
        note="; ".join(notes) or None,
    )
