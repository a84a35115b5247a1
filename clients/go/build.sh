#!/usr/bin/env bash
# Builds the adapter for the conformance suite, and the quick start.
set -euo pipefail
cd "$(dirname "$0")"
mkdir -p bin
timeout 300 go build -trimpath -o bin/ ./adapter ./examples/quickstart
