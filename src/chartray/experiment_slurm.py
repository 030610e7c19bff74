"""SLURM's scripts of an experiment: one job for each of its commands, and the dependencies between them."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

SUBMIT = "submit.sh"

_SUBMIT = """#!/bin/bash
# Puts the experiment into SLURM's queue; a job starts when those that it needs have succeeded:
#   bash submit.sh --partition=gpu
# Options are sbatch's, for every job. PRETRAIN, an environment variable, has those of pretraining alone:
#   PRETRAIN="--ntasks-per-node=4 --gpus-per-node=4" bash submit.sh --partition=gpu
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
read -r -a pretrain <<< "${PRETRAIN:-}"
queued() {
    local id
    id=$(sbatch --parsable "$@")
    echo "${id%%;*}"
}
"""

_PRETRAIN = """#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --output={name}.log
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
# 300 seconds before the time is over every process saves the run and exits with 138; then the job is queued again.
#SBATCH --signal=USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
cd {place}
code=0
srun --kill-on-bad-exit=1 {command} || code=$?
if [ "$code" -eq 138 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""

_ONE_PROCESS = """#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --output={name}.log
#SBATCH --nodes=1
#SBATCH --ntasks=1
{gpu}#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
cd {place}
{command}
"""
_WITH_GPU = ("pretrain", "evaluate", "audit")


class Job(NamedTuple):
    """One command of an experiment, `tokens` after `chartray`, and the names of the jobs that it waits for."""

    name: str
    tokens: Sequence[str]
    after: Sequence[str]


def scripts(jobs: Sequence[Job], place: Path) -> dict[str, str]:
    """The text of each script by its file name; commands run in the folder `place`. Jobs come after those they need."""
    texts, numbers = dict[str, str](), {job.name: number for number, job in enumerate(jobs)}
    submit = [_SUBMIT.rstrip("\n")]
    for job in jobs:
        verb, file = job.tokens[0], f"{job.name}.sbatch"
        texts[file] = (_PRETRAIN if verb == "pretrain" else _ONE_PROCESS).format(
            name=job.name,
            place=shlex.quote(str(place)),
            command=shlex.join(["chartray", *job.tokens]),
            gpu="#SBATCH --gpus-per-node=1\n" if verb in _WITH_GPU else "",
        )
        options = ['"$@"'] + (['"${pretrain[@]}"'] if verb == "pretrain" else [])
        if job.after:
            ids = ":".join(f"$job_{numbers[name]}" for name in job.after)
            options += ["--kill-on-invalid-dep=yes", f'--dependency="afterok:{ids}"']
        submit.append(f"job_{numbers[job.name]}=$(queued {' '.join(options)} {shlex.quote(file)})")
    submit.append(f'echo "{len(jobs)} jobs are queued, the last of them as $job_{len(jobs) - 1}"')
    return texts | {SUBMIT: "\n".join(submit) + "\n"}
