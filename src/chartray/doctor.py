"""`chartray doctor`: whether this machine has what Chartray needs, each thing tried and not only looked for."""

import importlib
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import cache_from_source, find_spec
from pathlib import Path
from typing import Literal, NamedTuple

from packaging.requirements import Requirement

from chartray.cores import available_cores
from chartray.errors import InputError
from chartray.memory import available
from chartray.outputs.lock import reason_without_locks
from chartray.wording import first_line, plural

Verdict = Literal["ok", "note", "missing"]
_GIB = 2**30
_FOR_DEVELOPERS = ("dev", "bench")


class Examined(NamedTuple):
    """One thing of this machine: `missing` where Chartray cannot work without it, `note` where something is lost."""

    name: str
    verdict: Verdict
    found: str
    remedy: str = ""


def examine(folder: Path) -> Iterator[Examined]:
    """What this machine has, in the order of the page; `folder` is where results would be written."""
    yield _python()
    yield from _packages()
    yield _byte_code()
    yield from _torch()
    yield _processors()
    yield _memory()
    yield from _folder(folder)
    yield from _decoders()
    yield from _extras()


def spoken(examined: Examined) -> str:
    """One line.

    >>> spoken(Examined("memory", "note", "1 GiB free", "2 GiB are needed for the demo"))
    'note     memory: 1 GiB free; 2 GiB are needed for the demo'
    """
    remedy = f"; {examined.remedy}" if examined.remedy else ""
    return f"{examined.verdict:<8} {examined.name}: {examined.found}{remedy}"


def _python() -> Examined:
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if sys.platform == "linux":
        return Examined("Python", "ok", found)
    return Examined("Python", "note", found, "Chartray is tested on Linux")


def _packages() -> Iterator[Examined]:
    """The required packages; one entry for all where none is wrong."""
    wrong = list(_wanting("chartray", ""))
    yield Examined("Chartray", "ok", _version("chartray") or "not installed")
    for said in wrong:
        yield Examined("package", "missing", said, "install Chartray again")
    if not wrong:
        yield Examined("packages", "ok", f"{plural(len(_requirements('chartray', '')), 'required package')} installed")


def _wanting(package: str, extra: str) -> Iterator[str]:
    """What is not as the `extra` of an installed package, or the package alone (""), requires it."""
    for needed in _requirements(package, extra):
        version = _version(needed.name)
        if version is None:
            yield f"{needed.name} is not installed"
        elif not needed.specifier.contains(version, prereleases=True):
            yield f"{needed.name} {version} is installed, {needed.specifier} is needed"
        else:
            for inner in needed.extras:
                yield from _wanting(needed.name, inner)


def _requirements(package: str, extra: str) -> list[Requirement]:
    found = [Requirement(text) for text in distribution(package).requires or ()]
    without = [each for each in found if each.marker is None or each.marker.evaluate({"extra": ""})]
    if not extra:
        return without
    return [each for each in found if each not in without and each.marker and each.marker.evaluate({"extra": extra})]


def _version(package: str) -> str | None:
    try:
        return distribution(package).version
    except PackageNotFoundError:
        return None


def _byte_code() -> Examined:
    spec = find_spec("torch")
    cached = spec is not None and spec.origin is not None and Path(cache_from_source(spec.origin)).exists()
    if cached or not sys.dont_write_bytecode:
        return Examined("byte-code", "ok", "kept" if cached else "written at the first import")
    return Examined(
        "byte-code",
        "note",
        "none of torch, and PYTHONDONTWRITEBYTECODE is set: every command compiles its libraries again",
        f"run {sys.executable} -m compileall -q {Path(sys.prefix, 'lib')}",
    )


def _torch() -> Iterator[Examined]:
    try:
        torch = importlib.import_module("torch")
    except (ImportError, OSError) as error:
        yield Examined("torch", "missing", f"cannot be imported ({first_line(error)})", "install torch again")
        return
    from chartray.training.driver import driver_version, refuse_unusable_gpu

    cuda = torch.version.cuda
    built = f"CUDA {cuda}" if cuda else f"ROCm {torch.version.hip}" if torch.version.hip else "no CUDA"
    yield Examined("torch", "ok", f"{torch.__version__}, built with {built}, {torch.get_num_threads()} threads")
    yield Examined("NVIDIA driver", "ok", driver_version() or "none")
    try:
        refuse_unusable_gpu("--device cpu")
    except InputError as error:
        yield Examined("GPU", "note", str(error))
        return
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        yield Examined("GPU", "note", "none", "full-size pretraining needs one; the demo does not")
    for place in range(count):
        of = torch.cuda.get_device_properties(place)
        bf16 = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no bf16"
        yield Examined(
            f"GPU {place}", "ok", f"{of.name}, {of.total_memory / _GIB:.0f} GiB, {of.major}.{of.minor}, {bf16}"
        )


def _processors() -> Examined:
    usable = available_cores()
    set_to = os.environ.get("OMP_NUM_THREADS")
    told = f", OMP_NUM_THREADS={set_to}" if set_to else ""
    return Examined("cores", "ok", f"{usable} of {os.cpu_count()} for this process{told}")


def _memory() -> Examined:
    free = available()
    if free is None:
        return Examined("memory", "note", "this system does not say")
    found = f"{free / _GIB:.1f} GiB free for this process"
    return (
        Examined("memory", "ok", found) if free >= 2 * _GIB else Examined("memory", "note", found, "the demo needs 2")
    )


def _folder(folder: Path) -> Iterator[Examined]:
    if not folder.is_dir():
        yield Examined("folder", "missing", f"no folder at {folder}", "give the folder that results are written to")
        return
    free = shutil.disk_usage(folder).free
    yield Examined("disk", "ok" if free >= 10 * _GIB else "note", f"{free / _GIB:.1f} GiB free at {folder}")
    try:
        reason = reason_without_locks(folder)
    except OSError as error:
        yield Examined("locks", "missing", f"{folder} cannot be written ({error.strerror})", "choose another folder")
        return
    if reason is None:
        yield Examined("locks", "ok", f"{folder} has them")
    else:
        stands = "a file with the writer's name stands for one, and outlives a writer that is killed"
        yield Examined("locks", "note", f"{folder} has none ({reason}); {stands}", "mount Lustre with -o flock")


def _decoders() -> Iterator[Examined]:
    try:
        from chartray.pixels.decoders import unread
    except (ImportError, OSError) as error:
        yield Examined("decoders", "missing", f"cannot be imported ({first_line(error)})", "install Chartray again")
        return
    for name, reason in unread().items():
        if reason is None:
            yield Examined(name, "ok", "read")
        else:
            yield Examined(name, "note", f"not read ({reason})", "such images go to quarantine")


def _extras(package: str = "chartray") -> Iterator[Examined]:
    for extra in distribution(package).metadata.get_all("Provides-Extra") or ():
        if extra in _FOR_DEVELOPERS:
            continue
        wanting = list(_wanting(package, extra))
        if wanting:
            yield Examined(f"extra {extra}", "note", ", ".join(wanting), f"pip install '{package}[{extra}]'")
        else:
            yield Examined(f"extra {extra}", "ok", "installed")
