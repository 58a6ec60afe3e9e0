#!/usr/bin/env bash
# Install into .venv what the documentation needs, then build the site and show it at http://127.0.0.1:8000, page by
# page as it is written. Arguments go to `mkdocs serve`.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/venv.sh docs
export NO_MKDOCS_2_WARNING=1 JAX_PLATFORMS=cpu
exec mkdocs serve "$@"
