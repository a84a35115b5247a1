#!/usr/bin/env bash
# Checks the Python client: generated code, format, lints, types, unit tests, the examples, and a wheel in a fresh environment.
# Takes buf from $BUF, or brings it. Needs python3 and, to bring buf, npm. It can run again at any time.
set -euo pipefail
cd "$(dirname "$0")"

step() { printf '\n=== %s\n' "$*"; }
within() { timeout --kill-after=10 "$@"; }

step "tools"
./build.sh
export PATH=$PWD/.venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1
buf_version=1.75.0
tools=$PWD/../../target/ci
if [ -z "${BUF-}" ]; then
    BUF=$tools/node_modules/.bin/buf
    if ! "$BUF" --version 2>/dev/null | grep -qx "$buf_version"; then
        within 300 npm install --prefix "$tools" --no-save --no-audit --no-fund --silent "@bufbuild/buf@$buf_version"
    fi
fi
export BUF

step "generated code"
before=$(mktemp -d)
trap 'rm -rf "$before"' EXIT
cp -r src/unibus/v1 "$before/v1"
within 120 ./generate.sh 2>/dev/null
diff -r --exclude=__pycache__ "$before/v1" src/unibus/v1 || {
    echo "src/unibus/v1 differs from what the proto gives: it was generated again"
    exit 1
}

step "format and lints"
within 60 ruff format --check .
within 60 ruff check .

step "types"
within 300 mypy

step "unit tests"
within 120 python -m pytest --quiet -p no:cacheprovider

step "wheel"
rm -rf dist .wheel
within 120 python -m build --no-isolation --outdir dist . >/dev/null
within 60 python3 -m venv .wheel
within 180 .wheel/bin/pip install --quiet --disable-pip-version-check --constraint requirements-dev.txt dist/*.whl
# the wheel brings what it needs, types included, and does not shadow the namespace google
(cd / && "$OLDPWD/.wheel/bin/python" - <<'END'
import importlib.metadata, importlib.resources
import unibus, unibus.sync, google.rpc.status_pb2
from unibus.v1 import room_service_pb2_grpc
assert importlib.resources.files("unibus").joinpath("py.typed").is_file()
assert importlib.resources.files("unibus.v1").joinpath("message_pb2.pyi").is_file()
assert importlib.metadata.metadata("unibus-client").get_all("License-File") == ["LICENSE-APACHE", "LICENSE-MIT"]
try:
    unibus.connect("http://192.0.2.1:1", token="t", plaintext_token=True)
except ValueError as error:
    print("the wheel works:", unibus.__version__, "-", error)
END
)
rm -rf .wheel

step "adapter"
answer=$(echo '{"id": 1, "op": "hello"}' | within 20 ../../conformance/adapters/python)
echo "$answer"
[[ $answer == *'"language": "python"'* ]]

printf '\nThe Python client is fine.\n'
