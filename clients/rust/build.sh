#!/bin/sh
# Builds the adapter of the conformance suite.
cd "$(dirname "$0")/../.." && exec ${CARGO:-cargo} build --locked --quiet -p unibus-client --example adapter
