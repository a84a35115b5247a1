#!/usr/bin/env bash
# Builds the package, and what the adapter for the conformance suite needs. Quick if nothing changed.
set -euo pipefail
cd "$(dirname "$0")"

if [ ! -e node_modules/.package-lock.json ] || [ package-lock.json -nt node_modules/.package-lock.json ]; then
    timeout 300 npm ci --ignore-scripts --silent
    touch node_modules/.package-lock.json
fi
if [ ! -e build/adapter/main.js ] || [ -n "$(find src adapter examples package.json tsconfig*.json -newer build/adapter/main.js -print -quit)" ]; then
    timeout 120 npm run --silent build
    touch build/adapter/main.js
fi
