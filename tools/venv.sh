#!/bin/sh
# Make or renew the virtual environment: everything in requirements.lock, by digest, and the package in place.
# Usage: sh tools/venv.sh DIRECTORY. The environment's Python: $PYTHON, or the first that is new enough.
set -eu

venv=$1
stamp=$venv/.ready
here=$(pwd)
enough='import sys; sys.exit(sys.version_info < (3, 11))'

fail() {
    echo "neverstale: $*" >&2
    exit 1
}

if [ -n "${PYTHON:-}" ]; then
    command -v "$PYTHON" >/dev/null 2>&1 || fail "PYTHON=$PYTHON is not there"
    "$PYTHON" -c "$enough" 2>/dev/null || fail "Python 3.11 or newer is needed, and $PYTHON is older"
    python=$PYTHON
else
    python=
    for name in python3 python3.14 python3.13 python3.12 python3.11 python; do
        if "$name" -c "$enough" >/dev/null 2>&1; then
            python=$name
            break
        fi
    done
    [ -n "$python" ] || fail "Python 3.11 or newer is needed; name one that is not in PATH by PYTHON=..."
fi

whole() {
    [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$here" ] && "$venv/bin/python" -c "$enough" >/dev/null 2>&1
}

if ! whole; then
    "$python" -c 'import venv, ensurepip' 2>/dev/null ||
        fail "$python has no venv or ensurepip: apt-get install python3-venv, or name another by PYTHON=..."
    echo "Building $venv (once; a minute or two) ..."
    rm -rf "$venv"
    "$python" -m venv "$venv" || fail "$python could not make a virtual environment"
else
    echo "Renewing $venv ..."
    rm -f "$stamp"
fi

export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
"$venv/bin/python" -m pip install --quiet --require-hashes -r requirements.lock
"$venv/bin/python" -m pip install --quiet --no-deps --no-build-isolation --editable .
printf '%s\n' "$here" >"$stamp"
