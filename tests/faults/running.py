"""The runner: which cases, in which order, how far they came, and the table of outcomes."""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tests.faults import cells, damaged, disturbed, pictures, texts
from tests.faults.materials import Hospital
from tests.faults.outcome import EXPECTED, Case, Outcome
from tests.faults.processes import UNCAUGHT, Control, settle_before_forks

Runs = Callable[[Hospital, Sequence[int]], Iterator[tuple[int, Outcome]]]


class Kind(NamedTuple):
    """A kind of case: what runs cases of it, and how many of every thousand are of it."""

    name: str
    share: float
    runs: Runs
    needs_shim: bool = False


def kinds() -> dict[str, Kind]:
    """Every kind."""
    made = []
    costly = {"study": 0.1, "report": 0.2, "audit": 0.3}
    for name, does in disturbed.kinds():
        share = costly.get(name.split(".")[0], 0.5) / (2 if name.endswith((".quota", ".limit")) else 1)
        made.append(Kind(name, share, _one_by_one(does), needs_shim=not name.endswith(disturbed.TOGETHER)))
    for form, share in (("dicom", 350), ("png", 120), ("jpeg", 120), ("tiff", 10)):
        made.append(Kind(f"picture.{form}", share, _in_rows(pictures.fuzz, form)))
    for source, share in zip(cells.SOURCES, (40, 20, 20, 12, 12), strict=True):
        made.append(Kind(f"cells.{source}", share, _in_rows(cells.fuzz, source)))
    for which in texts.TEXTS:
        made.append(Kind(f"yaml.{which}", 25, _in_rows(texts.fuzz_yaml, which)))
    for artefact in texts.SHARED:
        made.append(Kind(f"shared.{artefact}", 8, _in_rows(texts.fuzz_sealed, artefact)))
    for name in damaged.READS:
        made.append(Kind(f"read.{name}", 35, _in_rows(damaged.read_damaged, name)))
    for name, artefact in damaged.FED:
        made.append(
            Kind(
                f"{name}.damaged-{artefact}",
                0.5,
                _one_by_one(partial(damaged.feed_damaged, name=name, artefact=artefact)),
            )
        )
    made.append(Kind("pretrain.resume-damaged", 2, _one_by_one(damaged.resume_damaged)))
    made.append(Kind("study.damaged", 0.3, _one_by_one(damaged.study_damaged)))
    return {kind.name: kind for kind in made}


def _in_rows(does: Callable[[Hospital, str, Sequence[int]], Iterator[tuple[int, Outcome]]], of: str) -> Runs:
    return lambda hospital, seeds: does(hospital, of, seeds)


def _one_by_one(does: Callable[[Hospital, int], Outcome]) -> Runs:
    def runs(hospital: Hospital, seeds: Sequence[int]) -> Iterator[tuple[int, Outcome]]:
        for seed in seeds:
            yield seed, does(hospital, seed=seed)

    return runs


def commands() -> Callable[[tuple[str, ...]], int]:
    """Runs a command line in this process; everything it needs is imported now, before any fork."""
    import chartray.audit.audit
    import chartray.checks.table
    import chartray.evaluation.compare
    import chartray.evaluation.embed_store
    import chartray.evaluation.evaluate
    import chartray.experiment
    import chartray.export
    import chartray.records.chexpert
    import chartray.records.mimic
    import chartray.records.nih
    import chartray.records.table
    import chartray.report.page
    import chartray.report.write
    import chartray.simulate.hospital
    import chartray.training.pretrain  # noqa: F401
    from chartray.cli import app, run_command
    from chartray.pixels.ingest import ingest
    from chartray.without_pandas import settle_pyarrow

    def ingest_here(cohort_file: Path, *, out: Path, size: int) -> None:
        """`ingest` with threads for workers: a fork cannot start the processes of its own cheaply."""
        with ThreadPoolExecutor(1) as executor:
            ingest(cohort_file, out, size=size, workers=1, executor=executor)

    app.command(ingest_here, name="ingest-here")
    settle_pyarrow()
    settle_before_forks()

    def does(tokens: tuple[str, ...]) -> int:
        sys.argv = ["chartray", *tokens]
        try:
            return run_command(list(tokens))
        except Exception:
            traceback.print_exc()
            return UNCAUGHT

    return does


def run(options: argparse.Namespace, scratch: Path) -> int:
    """Runs the cases that `options` name; 0 if every outcome was an expected one."""
    began = time.monotonic()
    control = Control()
    chosen = [kind for kind in kinds().values() if _wanted(kind.name, options)]
    if not control.works and (lost := [kind for kind in chosen if kind.needs_shim]):
        print(f"no C compiler, or no LD_PRELOAD: {len(lost)} kinds of disturbed calls are skipped", flush=True)
        chosen = [kind for kind in chosen if not kind.needs_shim]
    hospital = Hospital(scratch, commands, control)
    record = Record(options.out)
    number, of = map(int, options.share.split("/"))
    try:
        for kind, seeds in _rounds(chosen, options, record, number, of):
            if time.monotonic() - began > options.seconds:
                print(f"{options.seconds:.0f} s are over", flush=True)
                break
            _run_kind(kind, seeds, hospital, record)
    finally:
        shutil.rmtree(hospital.here, ignore_errors=True)
        if options.scratch is None:
            shutil.rmtree(scratch, ignore_errors=True)
    record.conclude()
    return 0 if record.expected else 1


def _run_kind(kind: Kind, seeds: Sequence[int], hospital: Hospital, record: "Record") -> None:
    for seed, outcome in kind.runs(hospital, seeds):
        record.add(Case(kind.name, seed), outcome)


def _wanted(name: str, options: argparse.Namespace) -> bool:
    asked = [each.split(":")[0] for each in options.only]
    return (not asked or any(fnmatch(name, each) for each in asked)) and not any(
        fnmatch(name, each) for each in options.without
    )


def _rounds(
    chosen: Sequence[Kind], options: argparse.Namespace, record: "Record", number: int, of: int
) -> Iterator[tuple[Kind, list[int]]]:
    """Slices of every kind in turn, so that a bound on the time leaves out the last cases of each kind alike."""
    single = {tuple(each.split(":")) for each in options.only if ":" in each}
    if single:
        for kind in chosen:
            seeds = [int(seed) for pattern, seed in single if fnmatch(kind.name, pattern)]
            if seeds:
                yield kind, sorted(seeds)
        return
    total = sum(kind.share for kind in chosen)
    whole = {kind.name: max(1, round(options.cases * kind.share / total)) for kind in chosen}
    waiting = {
        kind.name: [seed for seed in range(number - 1, whole[kind.name], of) if (kind.name, seed) not in record.done]
        for kind in chosen
    }
    rounds = 40
    for turn in range(rounds):
        for kind in chosen:
            seeds = waiting[kind.name]
            slice_ = seeds[len(seeds) * turn // rounds : len(seeds) * (turn + 1) // rounds]
            if slice_:
                yield kind, slice_


class Record:
    """What came of each case, on the disk as soon as it is known, and counted."""

    def __init__(self, out: Path | None) -> None:
        self.out = out
        self.log = out.with_suffix(".jsonl") if out is not None else None
        self.counts: dict[str, Counter[str]] = {}
        self.notes: dict[tuple[str, str], list[str]] = {}
        self.done: set[tuple[str, int]] = set()
        for line in self.log.read_text().splitlines() if self.log is not None and self.log.exists() else ():
            try:
                kind, seed, what, note = json.loads(line)
            except ValueError:
                continue  # the last line of a run that was stopped
            self._count(Case(kind, seed), Outcome(what, note))

    @property
    def expected(self) -> bool:
        return all(what in EXPECTED for counts in self.counts.values() for what in counts)

    def add(self, case: Case, outcome: Outcome) -> None:
        """Counts a case and writes it down; a failure is said at once."""
        self._count(case, outcome)
        if not outcome.expected:
            print(f"{case}: {outcome.what}: {outcome.note}", flush=True)
        if self.log is not None:
            with self.log.open("a") as stream:
                stream.write(json.dumps([*case, *outcome]) + "\n")

    def _count(self, case: Case, outcome: Outcome) -> None:
        self.done.add(tuple(case))
        self.counts.setdefault(case.kind, Counter())[outcome.what] += 1
        if not outcome.expected:
            self.notes.setdefault((case.kind, outcome.what), []).append(f"{case}: {outcome.note}")

    def conclude(self) -> None:
        """Prints the table, and writes it where one was asked for."""
        text = "\n".join(self.table())
        print(text, flush=True)
        if self.out is not None:
            self.out.write_text(text + "\n")

    def table(self) -> Iterator[str]:
        """The table in Markdown: date, processor, commit; a line each kind, a column each outcome."""
        found = [what for what in EXPECTED if any(what in counts for counts in self.counts.values())]
        total = sum(sum(counts.values()) for counts in self.counts.values())
        wrong = sum(n for counts in self.counts.values() for what, n in counts.items() if what not in EXPECTED)
        yield f"{datetime.now(UTC):%Y-%m-%d}, {_processor()}, commit {_commit()}: {total:,} cases, {wrong:,} failures."
        yield ""
        yield f"| kind | cases | {' | '.join(found)} | failures |"
        yield f"|---|{'---:|' * (len(found) + 2)}"
        for kind in sorted(self.counts):
            counts = self.counts[kind]
            cells = [counts.total(), *(counts[what] for what in found)]
            bad = counts.total() - sum(counts[what] for what in found)
            yield f"| {kind} | {' | '.join(f'{n:,}' for n in (*cells, bad))} |"
        for (kind, what), notes in sorted(self.notes.items()):
            yield f"\n- {kind}: {what}, {len(notes)} times; first {notes[0]}"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return f"{line.split(':')[1].strip()}, {os.cpu_count()} cores"
    return platform.processor() or platform.machine()


def _commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
