#!/usr/bin/env bash
# Builds what the adapter of the conformance suite needs. Quick if nothing changed.
set -euo pipefail
cd "$(dirname "$0")"
built=target/adapter-built
if [[ -f $built && -f target/classpath ]] &&
    [[ -z $(find src/main adapter examples pom.xml ../../proto -newer "$built" -print -quit) ]]; then
    exit 0
fi
timeout 600 mvn -q -B test-compile 1>&2
touch "$built"
