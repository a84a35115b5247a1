#!/usr/bin/env bash
# Builds the adapter for the conformance suite.
set -euo pipefail
cd "$(dirname "$0")"
timeout 300 go build -trimpath -o bin/adapter ./adapter
