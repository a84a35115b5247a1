#!/usr/bin/env bash
# Generates src/unibus/v1 from ../../proto. Needs buf as $BUF, and the tools of requirements-dev.txt on the PATH.
set -euo pipefail
cd "$(dirname "$0")"
rm -rf src/unibus/v1
"${BUF:-buf}" generate
for proto in message room subscription; do rm "src/unibus/v1/${proto}_pb2_grpc.pyi"; done # they have no service
cat >src/unibus/v1/__init__.py <<'END'
"""The generated messages and stubs of the package unibus.v1, for what the client does not offer."""
END
