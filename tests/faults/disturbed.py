"""Commands that are killed, that find the disk full or broken at the n-th call, and that run twice at once.

Expected: what stood there before is whole, and the same command, given again, ends in the bytes of an undisturbed run.
"""

import errno
import random
import time
from collections.abc import Callable, Iterator, Sequence
from math import gcd
from typing import NamedTuple

from tests.faults.materials import COMMANDS, Command, Hospital, Made
from tests.faults.outcome import MACHINE, REFUSED, SAME, Outcome, content, differing, failure, misbehaved
from tests.faults.processes import Action, Ended, Fault, begun, ended, run_forked


class Way(NamedTuple):
    """How a call is disturbed."""

    action: Action
    error: int = 0


WAYS = {
    "kill": Way("kill"),
    "tear": Way("tear"),  # killed when half of a write is on the disk
    "full": Way("fail on", errno.ENOSPC),
    "quota": Way("fail on", errno.EDQUOT),
    "limit": Way("fail on", errno.EFBIG),
    "broken": Way("fail", errno.EIO),
    "unreadable": Way("fail reads", errno.EIO),
}
TOGETHER = "together"


def disturbed(hospital: Hospital, name: str, way: str, seed: int) -> Outcome:
    """The command `name`, disturbed at one of the calls that an undisturbed run makes; so many seeds hit each once.

    Every other round over all calls begins where an earlier result of the same command stands.
    """
    command, made, fault = COMMANDS[name], hospital.make(name), WAYS[way]
    calls = max(1, made.reads if fault.action == "fail reads" else made.calls)
    earlier = command.earlier is not None and seed // calls % 2 == 1
    hospital.lay(command, earlier=earlier)
    before = content(hospital.here / command.out, made.volatile) if earlier else {}
    request = Fault(fault.action, 1 + seed * _stride(calls) % calls, fault.error)
    first = _run(hospital, command, request)
    if fault.action in ("kill", "tear"):
        if first.signal != 9 and (wrong := misbehaved(first)):
            return _at(first, wrong)
    elif wrong := misbehaved(first):
        return _at(first, wrong)
    elif first.code not in (0, 1) and fault.action != "fail reads":
        return _at(first, failure("exit code of unusable input for a machine that cannot write", first.err))
    if first.code == 0 and (wrong := _another(hospital, command, made, "done")):
        return _at(first, wrong)
    if first.code != 0 and earlier and (wrong := _lost(hospital, command, made, before)):
        return _at(first, wrong)
    again = _run(hospital, command, Fault("count"))
    if wrong := misbehaved(again):
        return _at(first, failure(f"{wrong.what} when given again", wrong.note))
    if again.code != 0:
        return _at(first, failure("cannot be given again", again.err))
    if wrong := _another(hospital, command, made, "given again"):
        return _at(first, wrong)
    if wrong := _left_over(hospital, command):
        return _at(first, wrong)
    return Outcome(SAME if fault.action in ("kill", "tear") or first.code == 0 else MACHINE)


def together(hospital: Hospital, name: str, seed: int) -> Outcome:
    """The command twice at once, the second begun a moment after the first, the moment drawn from the seed."""
    command, made = COMMANDS[name], hospital.make(name)
    earlier = command.earlier is not None and seed % 2 == 1
    hospital.lay(command, earlier=earlier)
    draw = random.Random(seed)
    does = _does(hospital, command)
    both = [begun(does, hospital.here, hospital.control, Fault("count"), seconds=command.seconds)]
    time.sleep(draw.choice((0.0, 0.001, 0.01, 0.1)) * draw.random())
    both.append(begun(does, hospital.here, hospital.control, Fault("count"), seconds=command.seconds))
    ends = [ended(each, hospital.control, seconds=command.seconds) for each in both]
    for each in ends:
        if wrong := misbehaved(each):
            return wrong
    codes = [each.code for each in ends]
    if 0 not in codes:
        return failure("neither of two was done", " / ".join(each.err for each in ends))
    if wrong := _another(hospital, command, made, "done twice at once"):
        return wrong
    if wrong := _left_over(hospital, command):
        return wrong
    return Outcome(SAME if codes == [0, 0] else REFUSED)


def kinds() -> Iterator[tuple[str, Callable[[Hospital, int], Outcome]]]:
    """Every kind of this room: its name, and what runs a case of it."""
    for name in (each for each in COMMANDS if not each.endswith("-bare")):
        for way in WAYS:
            yield f"{name}.{way}", lambda hospital, seed, name=name, way=way: disturbed(hospital, name, way, seed)
        yield f"{name}.{TOGETHER}", lambda hospital, seed, name=name: together(hospital, name, seed)


def _stride(calls: int) -> int:
    """A step that meets every call once, and from which a few seeds are spread over all of them: the golden ratio's."""
    return next(step for step in range(max(1, round(0.618 * calls)), 2 * calls + 1) if gcd(step, calls) == 1)


def _does(hospital: Hospital, command: Command) -> Callable[[], int]:
    return lambda: hospital.does(command.tokens)


def _run(hospital: Hospital, command: Command, fault: Fault) -> Ended:
    return run_forked(_does(hospital, command), hospital.here, hospital.control, fault, seconds=command.seconds)


def _another(hospital: Hospital, command: Command, made: Made, when: str) -> Outcome | None:
    names = differing(content(hospital.here / command.out, made.volatile), made.content)
    return failure(f"another result when {when}", _some(names)) if names else None


def _lost(hospital: Hospital, command: Command, made: Made, before: dict[str, str]) -> Outcome | None:
    """Whether what stood there before is neither whole nor replaced, for whoever reads it next."""
    from chartray.outputs.replacing import settle

    settle(hospital.here / command.out)
    found = content(hospital.here / command.out, made.volatile)
    if found in (before, made.content):
        return None
    return failure("an earlier result that is not whole", _some(differing(found, before)))


def _left_over(hospital: Hospital, command: Command) -> Outcome | None:
    """Whether names remain beside the result, or hidden in it, that a finished command should have removed."""
    out = hospital.here / command.out
    inside = out.rglob(".*") if out.is_dir() else ()
    left = [each.name for each in (*hospital.here.glob(".*"), *inside) if not each.name.endswith(".lock")]
    return failure("something left over", _some(left)) if left else None


def _at(ended: Ended, outcome: Outcome) -> Outcome:
    return failure(outcome.what, f"[{ended.hit}] {outcome.note}")


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more
