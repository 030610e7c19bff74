"""A RUN: config.yaml, manifest.json, train_patients.txt, metrics.jsonl, events/, checkpoints/ and encoder/.

The manifest is written last when a run begins, with the SHA-256 of the other files: without it, no run has begun.
A run is complete once the encoder is written and then the manifest says so.
"""

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import yaml
from pydantic import JsonValue

from chartray.config import pretrain as knobs
from chartray.config.pretrain import Config, TrainConfig
from chartray.console import status
from chartray.errors import InputError
from chartray.networks.description import DESCRIPTION_FILE, WEIGHTS_FILE
from chartray.outputs.disk import writing
from chartray.outputs.guard import refuse_other
from chartray.outputs.replacing import replaced_file, sync_names
from chartray.outputs.seal import sha256, verify
from chartray.training.manifest import COMPLETE, MANIFEST_FILE, RUNNING, RunManifest, read_manifest, write_manifest
from chartray.training.patients import PATIENTS_FILE, write_patients

CONFIG_FILE = "config.yaml"
CHECKPOINTS, ENCODER = "checkpoints", "encoder"
# May differ when a run is resumed: they change where and how it runs, not what it computes.
_FREE_ON_RESUME = {
    "health.stop",
    "train.accumulate",
    "train.checkpoint_every",
    "train.checkpoint_keep",
    "train.device",
    "train.recompute",
}


class Begun(NamedTuple):
    """The state of a RUN: its `status`, and the name of the checkpoint to resume from, if there is one."""

    status: str
    checkpoint: str | None

    @property
    def complete(self) -> bool:
        """Whether nothing is left to do."""
        return self.status == COMPLETE


def as_begun(out: Path, train: TrainConfig, *, resume: bool) -> TrainConfig:
    """The options of a run that is continued: under `precision: auto` in the precision that it began with.

    Otherwise a run that moves to another kind of device would be one of two precisions.
    """
    if not resume or train.precision != "auto" or not (out / MANIFEST_FILE).is_file():
        return train
    return train.model_copy(update={"precision": read_manifest(out).precision or "auto"})


def resolved(config: Config) -> dict[str, JsonValue]:
    """The knobs of a run as JSON-like values, flat by dotted path."""
    flat: dict[str, JsonValue] = {}
    for name, value in config.model_dump(mode="json").items():
        flat |= {f"{name}.{key}": inner for key, inner in value.items()} if isinstance(value, dict) else {name: value}
    return flat


def identity(config: Config, store_hash: str) -> str:
    """A SHA-256 of what a run computes: its store, and its knobs without those that may differ when it is resumed."""
    fixed = {knob: value for knob, value in resolved(config).items() if knob not in _FREE_ON_RESUME}
    return hashlib.sha256(json.dumps([fixed, store_hash], sort_keys=True).encode()).hexdigest()


def claim(out: Path, config: Config, store_hash: str, *, resume: bool) -> Begun | None:
    """Checks that `out` may be written: a new folder, or with `resume` the same run; None if no run has begun there.

    Raises InputError if `out` holds a run and `resume` is off, holds something else, is a run with other knobs or on
    another store, or has no intact checkpoint left.
    """
    check_out(out, config, store_hash, resume=resume)
    if (out / MANIFEST_FILE).is_file():
        return _begun(out, read_manifest(out).status)
    if out.exists() and any(out.iterdir()):
        status(f"{out}: an earlier command was killed before its run began; the run begins now")
    return None


def check_out(out: Path, config: Config, store_hash: str, *, resume: bool) -> None:
    """Raises InputError as `claim` does, but for a run without an intact checkpoint; without importing torch."""
    if not (out / MANIFEST_FILE).is_file():
        _refuse_other_things(out)
        return
    if not resume:
        raise InputError(f"{out} holds a run already; continue it with --resume, or choose another --out")
    manifest = read_manifest(out)
    _check_config(out, manifest)
    before, now = resolved(knobs.load_saved(out / CONFIG_FILE)), resolved(config)
    changed = [knob for knob in now if before.get(knob) != now[knob] and knob not in _FREE_ON_RESUME]
    if changed:
        knob = changed[0]
        raise InputError(
            f"{out} was started with {knob} = {before.get(knob)}, found {now[knob]}; "
            "omit it to resume, or choose another --out"
        )
    if manifest.store_hash != store_hash:
        raise InputError(
            f"{out} was started on a store with hash {manifest.store_hash[:12]}, found one with {store_hash[:12]}; "
            "give the store that it was started on, or choose another --out"
        )


def _refuse_other_things(out: Path) -> None:
    """Raises InputError for a folder that is not empty, unless a killed command left only its first files."""

    def foreign(names: set[str]) -> str:
        begun = {CONFIG_FILE, PATIENTS_FILE}
        begun |= {f".{name}.{what}" for name in (*begun, MANIFEST_FILE) for what in ("lock", "partial")}
        if names <= begun and (out / CONFIG_FILE).is_file():
            with suppress(InputError):
                knobs.load_saved(out / CONFIG_FILE)
                return ""
        return "" if names <= begun - {CONFIG_FILE} else "no run"

    refuse_other(out, foreign)


def _check_config(out: Path, manifest: RunManifest) -> None:
    file = out / CONFIG_FILE
    if not file.is_file() or sha256(file) != manifest.config_sha256:
        found = "other content (its SHA-256 differs)" if file.is_file() else "none"
        raise InputError(
            f"expected {file} as it was written when the run began, found {found}; restore it, and give knobs on "
            "the command line; to change what a run computes, choose another --out"
        )


def _begun(out: Path, status: str) -> Begun:
    if status == COMPLETE:
        try:
            verify(out / ENCODER, (WEIGHTS_FILE, DESCRIPTION_FILE))
        except InputError as error:
            status = RUNNING
            print(f"{out} is complete, but its encoder is damaged ({error}); it is written again", flush=True)
        else:
            return Begun(status, None)
    from chartray.training import checkpoint  # which imports torch

    newest = checkpoint.newest_intact(out / CHECKPOINTS)
    return Begun(status, None if newest is None else newest.name)


def begin(out: Path, config: Config, manifest: RunManifest, patients: Sequence[str], *, again: bool) -> str:
    """Writes the files that describe a run, the manifest last; returns the SHA-256 of config.yaml.

    `again`: config.yaml stays as it was when the run began, since knobs that may differ now do not change the result.
    """
    file = out / CONFIG_FILE
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        sync_names(out.parent)
        if not again:
            with replaced_file(file) as partial:
                partial.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False), encoding="utf-8")
        write_patients(out, patients)
        digest = sha256(file)
        write_manifest(out, manifest.model_copy(update={"config_sha256": digest}))
        (out / CHECKPOINTS).mkdir(exist_ok=True)
        sync_names(out)
    return digest
