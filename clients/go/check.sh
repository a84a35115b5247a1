#!/usr/bin/env bash
# Checks the Go client. It needs Go with a C compiler (for the race detector), and buf: $BUF, or npm to install it.
set -euo pipefail
cd "$(dirname "$0")"

buf_version=1.75.0
step() { printf '\n=== %s\n' "$*"; }
within() { timeout --kill-after=10 "$@"; }
work=$(mktemp -d)
trap 'rm -rf "$work" internal' EXIT

step "modules"
within 300 go mod download
within 300 go mod download -modfile=tools.mod
go mod tidy -diff

step "generated code"
buf=${BUF:-$PWD/../../target/ci/node_modules/.bin/buf}
if ! [ -x "$buf" ]; then
    within 300 npm install --prefix ../../target/ci --no-save --no-audit --no-fund --silent "@bufbuild/buf@$buf_version"
fi
within 300 "$buf" generate --output "$work"
diff -r "$work/unibusv1" unibusv1

step "examples in README.md"
# each is the body of a function, except the program at the beginning
mkdir -p internal/readme
awk '
    BEGIN {
        print "package readme"
        print "import (\"context\"; \"errors\"; \"fmt\"; \"log\"; \"os\"; \"os/signal\"; \"time\")"
        print "import unibus \"github.com/unibus-rs/unibus/clients/go\""
        print "var _ = errors.As; var _ = time.Now; var token string; var handler unibus.Handler"
        print "var tokens interface { Get(context.Context) (string, error) }"
        print "func charge(context.Context, []byte) error { return nil }"
    }
    /^```go/ { inside = 1; n = 0; next }
    /^```/ && inside {
        inside = 0
        whole = lines[1] ~ /^func/
        if (!whole) print "func _(ctx context.Context, client *unibus.Client, room *unibus.Room) error {"
        for (i = 1; i <= n; i++) print lines[i]
        if (!whole && lines[n] !~ /^return/) print "return nil }"; else if (!whole) print "}"
        next
    }
    inside { lines[++n] = $0 }
' README.md >internal/readme/readme.go
# what the text leaves unused is no fault there
go build -gcflags=-e ./internal/readme 2>&1 | grep -v -e 'declared and not used' -e '^#' >"$work/readme" || true
if [ -s "$work/readme" ]; then cat "$work/readme"; exit 1; fi
rm -r internal

step "format"
unformatted=$(gofmt -l .)
[ -z "$unformatted" ] || { echo "not formatted: $unformatted"; exit 1; }

step "lints"
go vet ./...
within 300 go tool -modfile=tools.mod staticcheck ./...

step "tests"
within 300 go test -race ./...

step "adapter and examples"
go build -o "$work/" ./adapter ./examples/quickstart ./examples/publisher
./build.sh
