# shellcheck shell=bash
# Shows that one trace links a Go publisher, the service and a Python subscriber, for .ci/run, which reads this file.

# shellcheck disable=SC2154 # .ci/run sets it
traces_tools=$tools/traces
grpc_go_version=v1.6.2 # of the generator of Go code for gRPC

# The programs in Go: a collector of OpenTelemetry, and the publisher, with the code that protoc generates from proto/.
bring_trace_tools() {
    step "tools for traces"
    local python=$traces_tools/python/bin/python3 bin=$traces_tools/bin stubs=$traces_tools/stubs files
    mkdir -p "$bin" "$stubs"
    [ -x "$python" ] || python3 -m venv "$traces_tools/python"
    within 300 "$python" -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
        --requirement .ci/traces/requirements.txt
    [ -x "$bin/protoc-gen-go-grpc" ] || GOBIN=$bin within 300 go install \
        "google.golang.org/grpc/cmd/protoc-gen-go-grpc@$grpc_go_version"
    printf 'module unibus\n\ngo 1.26\n' >"$stubs/go.mod"
    (cd .ci/traces && GOFLAGS=-mod=readonly within 300 go build -o "$bin/" google.golang.org/protobuf/cmd/protoc-gen-go)
    files=(proto/unibus/v1/*.proto)
    PATH=$bin:$PATH "$python" -m grpc_tools.protoc -Iproto --go_out="$stubs" --go_opt=module=unibus \
        --go-grpc_out="$stubs" --go-grpc_opt=module=unibus "${files[@]#proto/}"
    (cd .ci/traces && GOFLAGS=-mod=readonly within 900 go build -o "$bin/" ./collector ./publisher)
}

traces() {
    bring_trace_tools
    step "one trace from Go to Python"
    within 1200 cargo build --locked --bin unibus
    PYTHONDONTWRITEBYTECODE=1 within 300 "$traces_tools/python/bin/python3" .ci/traces/check.py \
        "${CARGO_TARGET_DIR:-$PWD/target}/debug/unibus" "$(.cargo/runner printenv UNIBUS_NATS_SERVER)" "$traces_tools/bin"
}
