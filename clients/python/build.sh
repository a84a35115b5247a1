#!/usr/bin/env bash
# Makes .venv with the client and what requirements-dev.txt pins: for the adapter, and for check.sh. It does nothing if
# nothing changed.
set -euo pipefail
cd "$(dirname "$0")"
stamp=.venv/requirements
if ! cmp --silent requirements-dev.txt "$stamp"; then
    rm -rf .venv
    python3 -m venv .venv
    timeout --kill-after=10 300 .venv/bin/pip install --quiet --disable-pip-version-check --no-deps --requirement requirements-dev.txt
    for packages in .venv/lib/python3*/site-packages; do echo "$PWD/src" >"$packages/unibus.pth"; done
    cp requirements-dev.txt "$stamp"
fi
