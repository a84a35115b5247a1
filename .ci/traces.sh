# shellcheck shell=bash
# Shows that one trace links a Go publisher, the service and a Python subscriber, for .ci/run, which reads this file.

# shellcheck disable=SC2154 # .ci/run sets it
traces_tools=$tools/traces

# The programs in Go: a collector of OpenTelemetry, and the publisher, with the stubs of the Go client.
bring_trace_tools() {
    step "tools for traces"
    local python=$traces_tools/python/bin/python3 bin=$traces_tools/bin
    mkdir -p "$bin"
    [ -x "$python" ] || python3 -m venv "$traces_tools/python"
    within 300 "$python" -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
        --requirement .ci/traces/requirements.txt
    (cd .ci/traces && GOFLAGS=-mod=readonly within 900 go build -o "$bin/" ./collector ./publisher)
}

traces() {
    bring_trace_tools
    step "one trace from Go to Python"
    within 1200 cargo build --locked --bin unibus
    PYTHONDONTWRITEBYTECODE=1 within 300 "$traces_tools/python/bin/python3" .ci/traces/check.py \
        "${CARGO_TARGET_DIR:-$PWD/target}/debug/unibus" "$(.cargo/runner printenv UNIBUS_NATS_SERVER)" "$traces_tools/bin"
}
