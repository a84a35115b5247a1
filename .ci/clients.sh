# shellcheck shell=bash
# Checks the clients, for .ci/run, which reads this file: each client by itself, all of them together by the conformance suite,
# and the quick starts of docs/clients.md as printed. It prints how long each part took.

clients() {
    step "clients"
    bring_tools
    # shellcheck disable=SC2154 # .ci/run sets it
    export BUF=$buf
    within 900 cargo build --locked --bin unibus
    # two lanes, since much of it waits for downloads
    local pids=() failed=
    check_in_order go java & pids+=($!)
    check_in_order typescript python rust & pids+=($!)
    for pid in "${pids[@]}"; do wait "$pid" || failed=1; done
    [ -z "$failed" ] || exit 1
    timed "the runner" runner_checks
    timed "the bounded conformance suite" within 900 conformance/run --bounded --json target/conformance/matrix.json
    timed "the quick starts" within 300 conformance/run --quick-starts
}

# check_in_order LANGUAGE...: runs the check of each client, and prints its output when it has ended.
check_in_order() {
    local language output
    for language in "$@"; do
        # shellcheck disable=SC2154 # .ci/run sets it
        output=$tools/check-$language.log
        if ! timed "clients/$language/check.sh" within 900 "clients/$language/check.sh" >"$output" 2>&1; then
            cat "$output"
            printf '!!! clients/%s/check.sh failed\n' "$language"
            return 1
        fi
        cat "$output"
    done
}

# timed NAME COMMAND: runs the command, and prints how long it took.
timed() {
    local name=$1 begin=$SECONDS
    shift
    step "$name"
    "$@"
    # a failure comes here only if the caller asks for the status
    local status=$?
    printf -- '--- %s: %s s\n' "$name" $((SECONDS - begin))
    return "$status"
}

# Lints, types and tests of the runner, and whether the scenarios cite all points of docs/clients.md.
runner_checks() {
    within 300 conformance/run --check
    local programs=target/conformance/python/bin
    (
        cd conformance || exit
        within 60 "../$programs/ruff" format --check .
        within 60 "../$programs/ruff" check .
        within 300 "../$programs/mypy"
        PYTHONDONTWRITEBYTECODE=1 within 120 "../$programs/python3" -m unittest discover --quiet \
            --start-directory tests --top-level-directory .
    )
}

# protoc and the plugins of Debian, for docs/stubs.md.
bring_protoc() {
    # shellcheck disable=SC2154 # .ci/run sets it
    local root=$tools/protoc/root programs=$tools/protoc/bin program
    if [ ! -x "$programs/grpc_php_plugin" ]; then
        unpack_debian "$root" protobuf-compiler protobuf-compiler-grpc libprotoc32 libprotobuf32 libprotobuf-dev libgrpc29
        mkdir -p "$programs"
        for program in protoc grpc_ruby_plugin grpc_php_plugin; do
            printf '#!/bin/sh\nLD_LIBRARY_PATH=%s exec %s "$@"\n' "$root/usr/lib/$(uname -m)-linux-gnu" "$root/usr/bin/$program" \
                >"$programs/$program"
            chmod +x "$programs/$program"
        done
    fi
    export PATH=$programs:$PATH
}
