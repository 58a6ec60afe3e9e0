#!/usr/bin/env bash
# Install into .venv and train a first agent. Arguments go to `dreamer-jax train`.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/venv.sh ""
exec dreamer-jax train --config configs/quickstart.yaml "$@"
