#!/usr/bin/env bash
# Checks the package on a fresh machine with Node, npm and git: generated code, format, lints, types, unit tests, and that
# adapter and examples build. BUF names the buf to use. The test in Chromium needs a service: see README.md.
set -euo pipefail
cd "$(dirname "$0")"

root=$(cd ../.. && pwd)
tools=$root/target/ci
buf_version=1.75.0
step() { printf '\n--- typescript: %s\n' "$*"; }

step "packages"
timeout 300 npm ci --ignore-scripts --silent
touch node_modules/.package-lock.json # for build.sh

step "buf"
BUF=${BUF:-$tools/node_modules/.bin/buf}
if ! "$BUF" --version 2>/dev/null | grep -qx "$buf_version"; then
    mkdir -p "$tools"
    timeout 300 npm install --prefix "$tools" --no-save --no-audit --no-fund --silent "@bufbuild/buf@$buf_version"
    BUF=$tools/node_modules/.bin/buf
fi
"$BUF" --version

step "the generated code is what the contract gives"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -r src/gen "$work/before"
timeout 120 "$BUF" generate --template buf.gen.yaml
diff -r "$work/before" src/gen || {
    echo "src/gen was not generated from proto/: commit what 'npm run generate' writes"
    exit 1
}

step "package, adapter and examples"
rm -rf dist build
timeout 120 npm run --silent build

step "format, lints, types"
timeout 120 npm run --silent check

step "unit tests"
timeout 120 npm run --silent test

step "the bundle for browsers has nothing of Node"
timeout 120 npm run --silent bundle
if grep -nE 'node:|browser-external|http2SessionOptions' browser/out/page.js; then exit 1; fi
ls -l browser/out/page.js

step "what would be published"
timeout 60 npm pack --dry-run --silent
