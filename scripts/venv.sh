# Source this from the repository's root: `. scripts/venv.sh EXTRAS`.
# Creates .venv, or uses the one that is there, and installs the package with EXTRAS into it;
# does nothing where that has been done since the requirements last changed.

extras="${1:-}"
stamp=".venv/installed-${extras//,/-}"
if [ ! -x .venv/bin/python ]; then
    python=""
    for candidate in "${PYTHON:-python3}" python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            python="$candidate"
            break
        fi
    done
    if [ -z "$python" ]; then
        echo "Python 3.11 or newer is needed; name it with PYTHON=/path/to/python" >&2
        exit 1
    fi
    "$python" -m venv .venv
fi
if [ ! -e "$stamp" ] || [ pyproject.toml -nt "$stamp" ] || [ constraints.txt -nt "$stamp" ]; then
    echo "Installing into .venv (one to three minutes the first time) ..."
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".${extras:+[$extras]}"
    touch "$stamp"
fi
export PATH="$PWD/.venv/bin:$PATH"
