# shellcheck shell=bash
# Runs the conformance suite of the Connect protocols against the test service of examples/conformance, for .ci/run, which
# reads this file.

conformance_version=v1.0.7

# The suite, and the folder with its descriptors. Go checks the sources against its checksum database.
# shellcheck disable=SC2154 # .ci/run sets it
bring_conformance() {
    suite=$tools/conformance/$conformance_version
    if [ ! -x "$suite/connectconformance" ]; then
        mkdir -p "$suite"
        GOBIN=$suite within 1200 nice go install "connectrpc.com/conformance/cmd/connectconformance@$conformance_version"
    fi
    if [ ! -d "$suite/proto" ]; then
        local module
        module=$(cd "$suite" && within 300 go mod download -json "connectrpc.com/conformance@$conformance_version" |
            python3 -c 'import json, sys; print(json.load(sys.stdin)["Dir"])')
        cp -r "$module/proto" "$suite/proto"
        chmod -R u+w "$suite/proto"
    fi
}

# Unary calls and streams over HTTP/1.1 and HTTP/2: the Connect protocol with both codecs, gRPC and gRPC-Web.
conformance() {
    step "conformance"
    bring_conformance
    within 900 cargo build --locked --example conformance
    UNIBUS_NATS_SERVER=$(.cargo/runner printenv UNIBUS_NATS_SERVER) CONFORMANCE_PROTO=$suite/proto \
        within 240 "$suite/connectconformance" --mode server --conf .ci/conformance.yaml --parallel 4 \
        --known-failing "@.ci/conformance-known-failing.txt" --known-flaky "@.ci/conformance-known-flaky.txt" \
        -- "${CARGO_TARGET_DIR:-target}/debug/examples/conformance"
}
