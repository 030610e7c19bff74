"""Trackers: the numbers of a run also in MLflow or Weights & Biases; TensorBoard events are always written.

A tracker gets numbers, settings, the run's name and the hash of its store: no id, no row, no path of the machine.
Nothing is sent over a network unless it is asked for: MLflow writes RUN/mlflow.db unless --tracker-uri or
MLFLOW_TRACKING_URI names a server, W&B is offline unless WANDB_MODE says online. metrics.jsonl is what counts: a
tracker that fails during a run is left out with a line on standard error, and the run goes on.
"""

import contextlib
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol
from urllib.parse import urlsplit
from uuid import uuid4

from pydantic import JsonValue

from chartray.errors import InputError, Stopped
from chartray.extras import need_extra
from chartray.outputs.json_file import read_json, write_json
from chartray.wording import no_secret

TRACKERS_FILE = "trackers.json"
TrackerName = Literal["tensorboard", "mlflow", "wandb"]
_PROJECT = "chartray"
_SECONDS_BETWEEN, _MOST_AT_ONCE = 10.0, 1000  # 1,000 numbers are what MLflow's server takes at once
# What their libraries would do by themselves: try for minutes, send usage statistics.
_QUIET = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "WANDB_ERROR_REPORTING": "false",
}


class Tracked(NamedTuple):
    """Which trackers a run has; `uri`: MLflow's server or database; `group`: what seeds share, such as an arm."""

    names: Sequence[TrackerName] = ()
    uri: str | None = None
    group: str | None = None

    def tokens(self) -> list[str]:
        """As options of `chartray pretrain`."""
        options = {"--tracker-uri": self.uri, "--tracker-group": self.group}
        named = [token for name in self.names for token in ("--tracker", name)]
        return named + [token for option, value in options.items() if value is not None for token in (option, value)]


NOT_TRACKED = Tracked()


class Tracker(Protocol):
    """Where numbers go besides metrics.jsonl."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Takes the numbers of a step."""

    def end(self, status: Literal["finished", "stopped", "failed"]) -> None:
        """Ends the tracker's run, which a resumed one continues."""


class Trackers:
    """Those of a run; one that fails is left out from then on, and said."""

    def __init__(self, opened: Mapping[str, Tracker]) -> None:
        self._opened = dict(opened)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Gives the numbers of a step to each."""
        for name, tracker in list(self._opened.items()):
            try:
                tracker.write(step, values)
            except Exception as error:  # each library has its own
                self._leave_out(name, error)

    def end(self, error: BaseException | None) -> None:
        """Ends each with how the run ended."""
        status: Literal["finished", "stopped", "failed"] = (
            "finished" if error is None else "stopped" if isinstance(error, Stopped) else "failed"
        )
        for name, tracker in list(self._opened.items()):
            try:
                tracker.end(status)
            except Exception as failed:
                self._leave_out(name, failed)

    def _leave_out(self, name: str, error: Exception) -> None:
        del self._opened[name]
        print(
            f"chartray: {name} takes no more numbers ({type(error).__name__}); the run goes on, and metrics.jsonl has "
            "them all",
            file=sys.stderr,
            flush=True,
        )


def check_trackers(tracked: Tracked) -> None:
    """Raises InputError for an extra that is not installed, a URI without MLflow or with a password; imports none."""
    if tracked.uri is not None and _has_password(tracked.uri):
        raise InputError(
            f"expected --tracker-uri without a password, which would be written down, found one for "
            f"{no_secret(tracked.uri)}; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or PGPASSWORD"
        )
    for name in tracked.names:
        if name != "tensorboard":
            need_extra(name, f"--tracker {name}")
    if tracked.group is not None and not tracked.names:
        raise InputError("expected --tracker-group only with --tracker; add it, or leave the group out")
    if tracked.uri is not None and "mlflow" not in tracked.names:
        raise InputError("expected --tracker-uri only with --tracker mlflow; add it, or leave the URI out")


def _has_password(uri: str) -> bool:
    try:
        return urlsplit(uri).password is not None
    except ValueError:  # no URL: MLflow says so
        return False


def open_trackers(out: Path, tracked: Tracked, settings: Mapping[str, JsonValue]) -> Trackers:
    """Begins the runs of the trackers, or continues those of RUN `out`, which are in its trackers.json.

    Raises InputError where a tracker cannot be reached.
    """
    file = out / TRACKERS_FILE
    begun = read_json(file, "the trackers of a run") if file.exists() else {}
    remote: tuple[TrackerName, ...] = ("mlflow", "wandb")
    before = {name: dict(begun[name]) for name in remote if isinstance(begun.get(name), dict)}
    names = [name for name in remote if name in tracked.names or name in before]
    check_trackers(Tracked(names, tracked.uri))
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    opened: dict[str, Tracker] = {}
    said: dict[str, JsonValue] = {str(name): entry for name, entry in before.items()}
    for name in names:
        opening = _mlflow if name == "mlflow" else _wandb
        try:
            opened[name], entry = opening(out, tracked, settings, before.get(name))
            said[name] = {**entry}
        except InputError:
            raise
        except Exception as error:  # each library has its own
            raise InputError(
                f"expected {name} to take the numbers of {out}, found {type(error).__name__}; check its address and "
                "that it is up, or leave --tracker out"
            ) from None
    if names:
        write_json(file, {"format": 1, **said})
    return Trackers(opened)


class _Mlflow:
    """An MLflow run through its client, which sets no tags with the user, host or command."""

    def __init__(self, client: Any, run: str, last: int) -> None:
        self._client, self._run, self._last = client, run, last
        self._waiting: list[Any] = []
        self._sent = time.monotonic()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        if step <= self._last:  # it has them from before the run was killed
            return
        now = time.time_ns() // 1_000_000
        self._waiting += [Metric(name.replace(".", "/"), value, now, step) for name, value in values.items()]
        if time.monotonic() - self._sent > _SECONDS_BETWEEN or len(self._waiting) > _MOST_AT_ONCE - 100:
            self._send()

    def _send(self) -> None:
        for start in range(0, len(self._waiting), _MOST_AT_ONCE):
            self._client.log_batch(self._run, metrics=self._waiting[start : start + _MOST_AT_ONCE])
        self._waiting, self._sent = [], time.monotonic()

    def end(self, status: Literal["finished", "stopped", "failed"]) -> None:
        self._send()
        said = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}[status]
        self._client.set_terminated(self._run, said)


def _mlflow(
    out: Path, tracked: Tracked, settings: Mapping[str, JsonValue], before: Mapping[str, str] | None
) -> tuple[Tracker, dict[str, str]]:
    from mlflow import MlflowClient

    given = tracked.uri or os.environ.get("MLFLOW_TRACKING_URI")
    uri = given or (before or {}).get("uri") or f"sqlite:///{(out / 'mlflow.db').resolve()}"
    client = MlflowClient(tracking_uri=uri)
    # Whoever moves a RUN moves its database. A password, from the environment, is not written down.
    kept = {} if (not given and "uri" not in (before or {})) or _has_password(uri) else {"uri": uri}
    if before is not None:
        client.update_run(before["run"], status="RUNNING")
        known = client.get_metric_history(before["run"], "loss")
        return _Mlflow(client, before["run"], max((each.step for each in known), default=0)), {**before, **kept}
    experiment = client.get_experiment_by_name(_PROJECT)
    if experiment is None:
        with contextlib.suppress(Exception):  # another run may have made it since
            where = {} if given else {"artifact_location": (out / "mlflow-artifacts").resolve().as_uri()}
            client.create_experiment(_PROJECT, **where)
        experiment = client.get_experiment_by_name(_PROJECT)
    tags = {} if tracked.group is None else {"group": tracked.group, "seed": str(settings.get("seed"))}
    made = client.create_run(experiment.experiment_id, run_name=out.resolve().name, tags=tags)
    run = str(made.info.run_id)
    for name, value in settings.items():
        client.log_param(run, name, str(value)[:500])
    return _Mlflow(client, run, 0), {"run": run, **kept}


class _Wandb:
    def __init__(self, run: Any) -> None:
        self._run = run

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({name.replace(".", "/"): value for name, value in values.items()}, step=step)

    def end(self, status: Literal["finished", "stopped", "failed"]) -> None:
        self._run.finish(exit_code=0 if status == "finished" else 1)


def _wandb(
    out: Path, tracked: Tracked, settings: Mapping[str, JsonValue], before: Mapping[str, str] | None
) -> tuple[Tracker, dict[str, str]]:
    import wandb

    run = (before or {}).get("run") or uuid4().hex[:12]
    group = tracked.group or (before or {}).get("group")
    made = wandb.init(
        project=_PROJECT,
        name=out.resolve().name,
        group=group,
        job_type=None if group is None else f"seed {settings.get('seed')}",
        id=run,
        resume="allow",
        mode=os.environ.get("WANDB_MODE", "offline"),
        dir=out,
        config=dict(settings),
        # Neither host, command, code nor commit.
        settings=wandb.Settings(
            console="off",
            silent=True,
            host="not told",
            disable_git=True,
            save_code=False,
            x_disable_meta=True,
            x_disable_stats=True,
        ),
    )
    return _Wandb(made), {"run": run} | ({} if group is None else {"group": group})
