#!/usr/bin/env bash
# The tests with the oldest versions that pyproject.toml allows, in .venv-lowest. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
[ -d .venv-lowest ] || python3 -m venv .venv-lowest
. .venv-lowest/bin/activate
python -m pip install --quiet --disable-pip-version-check uv
uv pip install --quiet --resolution lowest-direct -e '.[dev,atari,crafter,benchmarks]'
exec python -m pytest -n "${PYTEST_WORKERS:-2}" --dist worksteal "$@"
