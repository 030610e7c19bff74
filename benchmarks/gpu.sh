#!/bin/sh
# Everything that only a GPU can show, in at most 8 minutes: one table, and gpu.json.
#   benchmarks/gpu.sh                        on the first GPU
#   benchmarks/gpu.sh --device cpu --quick   a rehearsal without one
set -e
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
PYTHONPATH=src:.${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 exec "$python" -m benchmarks.gpu "$@"
