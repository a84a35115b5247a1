#!/bin/sh
# Checks the Rust client: format, lints, unit tests, the programs in the documentation, the adapter and the examples. It
# needs Rust with rustfmt and clippy. There is no generated code to compare: the build script of `unibus` makes it.
set -eu
cd "$(dirname "$0")/../.."
cargo=${CARGO:-cargo}

step() { printf '\n=== %s\n' "$*"; }

step "cargo fmt --check"
cargo fmt --check -p unibus-client

step "cargo clippy"
timeout 900 "$cargo" clippy --locked -p unibus-client --all-targets -- -D warnings

# also builds the adapter and the examples
step "cargo test"
timeout 900 "$cargo" test --locked -p unibus-client

step "cargo doc"
RUSTDOCFLAGS="-D warnings" timeout 600 "$cargo" doc --locked --no-deps -p unibus-client

step "the packages"
# of the client: without the adapter; of the service: without the clients
timeout 60 cargo package --locked --allow-dirty --list -p unibus-client | grep '^adapter' && exit 1
timeout 60 cargo package --locked --allow-dirty --list -p unibus | grep '^clients\|^conformance' && exit 1
echo "have what they should"
