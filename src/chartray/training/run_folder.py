"""A RUN: config.yaml, manifest.json, metrics.jsonl, TensorBoard events, checkpoints/ and encoder/."""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from torch.utils.tensorboard import SummaryWriter

from chartray import config as knobs
from chartray.config import Config
from chartray.errors import InputError
from chartray.yaml_file import read_yaml

CONFIG_FILE, MANIFEST_FILE, METRICS_FILE = "config.yaml", "manifest.json", "metrics.jsonl"
PATIENTS_FILE = "train_patients.txt"
CHECKPOINTS, EVENTS, ENCODER = "checkpoints", "events", "encoder"
# May differ between a run and its continuation: they change where and how it runs, not what it computes.
_FREE_ON_RESUME = {"train.checkpoint_every", "train.checkpoint_keep", "train.device", "health.stop"}


def resolved(out: Path, config: Config) -> dict[str, Any]:
    """The knobs of a run as JSON-like values, flat by dotted path."""
    flat: dict[str, Any] = {}
    for name, value in config.model_dump(mode="json").items():
        flat |= {f"{name}.{key}": inner for key, inner in value.items()} if isinstance(value, dict) else {name: value}
    return flat


def claim(out: Path, config: Config, store_hash: str, *, resume: bool) -> bool:
    """Makes sure that `out` may be written: a new folder, or with `resume` the same run again; True if it holds one.

    Raises InputError if `out` holds a run and `resume` is off, holds something else, or is a run with other knobs or
    on a store of another content.
    """
    holds_run = (out / CONFIG_FILE).is_file()
    if not holds_run:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise InputError(
                f"expected a new or empty folder as --out, found {out} with other things in it; choose another"
            )
        return False
    if not resume:
        raise InputError(f"{out} holds a run already; continue it with --resume, or choose another --out")
    before, now = (
        resolved(out, knobs.validate(read_yaml(out / CONFIG_FILE, "a run's config.yaml"))),
        resolved(out, config),
    )
    changed = [knob for knob in now if before.get(knob) != now[knob] and knob not in _FREE_ON_RESUME]
    if changed:
        knob = changed[0]
        raise InputError(
            f"{out} was started with {knob} = {before.get(knob)}, found {now[knob]}; "
            "leave it out to continue, or choose another --out"
        )
    started_on = read_manifest(out).get("store_hash", store_hash) if (out / MANIFEST_FILE).is_file() else store_hash
    if started_on != store_hash:
        raise InputError(
            f"{out} was started on a store with hash {started_on[:12]}, found one with {store_hash[:12]}; "
            "give the store that it was started on, or choose another --out"
        )
    return True


def write_config(out: Path, config: Config) -> None:
    """Writes the resolved configuration."""
    _write_whole(out / CONFIG_FILE, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))


def write_manifest(out: Path, manifest: Mapping[str, Any]) -> None:
    """Writes the manifest, whole or not at all."""
    _write_whole(out / MANIFEST_FILE, json.dumps(dict(manifest), indent=2, default=str) + "\n")


def write_patients(out: Path, keys: Sequence[str]) -> None:
    """Writes which patients a run was pretrained on, one key a line; not in `encoder/`, which may leave the house."""
    _write_whole(out / PATIENTS_FILE, "".join(f"{key}\n" for key in keys))


def read_manifest(out: Path) -> dict[str, Any]:
    """The manifest of a run."""
    manifest: dict[str, Any] = json.loads((out / MANIFEST_FILE).read_text())
    return manifest


def versions() -> dict[str, str | None]:
    """What ran: the versions of Chartray, torch and timm, and the git commit of Chartray's checkout if it is one."""
    return {name: version(name) for name in ("chartray", "torch", "timm")} | {"git_commit": _git_commit()}


class Metrics:
    """One JSON line a step in metrics.jsonl, the same numbers as TensorBoard events; later steps are cut on resume."""

    def __init__(self, out: Path, *, first_step: int) -> None:
        self._file = out / METRICS_FILE
        if self._file.exists():
            lines = self._file.read_text().splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= first_step]
            _write_whole(self._file, "".join(kept))
        self._stream = self._file.open("a")
        self._events = SummaryWriter(str(out / EVENTS), purge_step=first_step + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Notes the numbers of a step."""
        self._stream.write(json.dumps({"step": step} | dict(values)) + "\n")
        self._stream.flush()
        for name, value in values.items():
            self._events.add_scalar(name.replace(".", "/"), value, step)

    def close(self) -> None:
        """Flushes both."""
        self._stream.close()
        self._events.close()


def _write_whole(file: Path, text: str) -> None:
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.rename(file)


def _git_commit() -> str | None:
    source = Path(__file__).resolve().parents[3]
    if not (source / ".git").exists():
        return None
    command = ["git", "-C", str(source), "rev-parse", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None
