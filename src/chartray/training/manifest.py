"""manifest.json of a RUN: how far the run came, and what its encoder's provenance is made from."""

import subprocess
from collections.abc import Mapping
from pathlib import Path

from pydantic import ConfigDict

from chartray.flow import CohortFlow
from chartray.networks.description import Provenance
from chartray.networks.ways import Way
from chartray.outputs.json_file import parsed_record, read_json, write_json

MANIFEST_FILE = "manifest.json"
RUNNING, COMPLETE = "running", "complete"


class RunManifest(Provenance):
    """The manifest of a run: the provenance of its encoder, the state of the run, and the flow of its cohort."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    status: str
    store_hash: str
    chartray: str
    torch: str
    timm: str
    source: str
    films: int
    steps: int
    warmup_steps: int
    peak_learning_rate: float
    freeze_steps: int = 0  # steps in which the encoder was frozen, and over which its learning rate then rose
    ramp_steps: int = 0
    ehr_in: int
    out: str | None = None
    store_size: int | None = None
    films_without_representable_chart: int | None = None
    grey_mean: float | None = None
    grey_std: float | None = None
    compiled: bool | None = None
    attention: Way | None = None  # where a gradient is asked for
    attention_without_gradient: Way | None = None
    seconds_of_choice: float | None = None  # processor time that choosing these three took; None: not measured
    accumulate: int | None = None  # parts of a step, as many as the last command needed
    device: str | None = None
    processes: int | None = None
    precision: str | None = None
    memory_planned: int | None = None  # bytes of a step beside the weights; None: not planned
    memory_measured: int | None = None  # the same as it was measured at the second step; None: not measured
    config_sha256: str = ""  # known once config.yaml is written
    metrics_sha256: str | None = None  # known when the run ends
    flow: CohortFlow | None = None

    def of_encoder(self, run: str) -> Provenance:
        """The provenance of the encoder of this run, called `run`."""
        said = self.model_dump(
            exclude={"status", "flow", "metrics_sha256", "memory_planned", "memory_measured"}, exclude_unset=True
        )
        return Provenance.model_validate(said | {"run": run})


def read_manifest(run: Path) -> RunManifest:
    """The manifest of a run; raises InputError if it was changed, or lacks a key that identifies a run."""
    file = run / MANIFEST_FILE
    remedy = "continue the run with the Chartray that wrote it, or choose another folder"
    content = read_json(file, "the manifest of a run of `chartray pretrain`")
    return parsed_record(RunManifest, content, str(file), "the manifest of a run", remedy)


def write_manifest(run: Path, manifest: RunManifest) -> None:
    """Writes the manifest, whole or not at all."""
    write_json(run / MANIFEST_FILE, manifest.model_dump(mode="json", exclude_unset=True, by_alias=True))


def git_commit() -> str | None:
    """The commit of the checkout that Chartray runs from, if it is one."""
    source = Path(__file__).resolve().parents[3]
    if not (source / ".git").exists():
        return None
    command = ["git", "-C", str(source), "rev-parse", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def moved(before: RunManifest | None, place: Mapping[str, object]) -> str:
    """What a continued run is told that computes elsewhere than before; nothing if it does not."""
    if before is None or before.device is None:
        return ""
    then = {"device": before.device, "processes": before.processes, "precision": before.precision}
    changed = [f"{name} {then[name]} before, now {place[name]}" for name in then if then[name] != place[name]]
    same = "; the batches are the same, and numbers differ by rounding"
    return f" ({', '.join(changed)}{same})" if changed else ""
