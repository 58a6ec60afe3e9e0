#!/usr/bin/env bash
# The whole check, with the tools on PATH: style, types, the wheel, the site, the tests. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."

echo "== style"
ruff check .
ruff format --check .

echo "== types"
mypy

echo "== wheel"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cp -r dreamer_jax pyproject.toml setup.cfg README.md LICENSE "$scratch" # a stale build/ would end up in the wheel
python -m build --wheel --outdir "$scratch/dist" "$scratch" >"$scratch/log" 2>&1 || { cat "$scratch/log"; exit 1; }
python -m pip install --quiet --disable-pip-version-check --no-deps --target "$scratch/site" "$scratch"/dist/*.whl
(
    cd "$scratch/site"
    PYTHONPATH=. python - <<'PYTHON'
import dreamer_jax, dreamer_jax.agent, dreamer_jax.cli, dreamer_jax.training.train
import os
assert os.path.samefile(os.path.dirname(dreamer_jax.__file__), "dreamer_jax"), dreamer_jax.__file__
assert os.path.exists("dreamer_jax/py.typed")
print("dreamer_jax", dreamer_jax.__version__, "imports from its wheel:", dreamer_jax.load_config().revision)
PYTHON
)

echo "== docs"
export NO_MKDOCS_2_WARNING=1
# Not with --quiet, which would let warnings pass.
JAX_PLATFORMS=cpu python -m mkdocs build --strict --site-dir "$scratch/docs" >"$scratch/log" 2>&1 || { cat "$scratch/log"; exit 1; }
export DREAMER_JAX_DOCS="$scratch/docs" # for tests/test_site.py

echo "== tests"
python -m pytest -n "${PYTEST_WORKERS:-2}" --dist worksteal --durations 30 "$@"
