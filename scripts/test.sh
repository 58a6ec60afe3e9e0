#!/usr/bin/env bash
# Install into .venv with everything that development needs, then run the whole check.
# Arguments go to pytest: `bash scripts/test.sh -m slow`.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/venv.sh dev,docs,atari,crafter,offline,benchmarks,gymnax,slurm
exec bash scripts/check.sh "$@"
