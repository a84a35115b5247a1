# shellcheck shell=bash
# Checks the Dockerfile and the packages and proxies of deploy/, for .ci/run, which reads this file. No container engine
# runs: what needs one is checked as far as tools allow, and docs/deploy.md says what was not run.

export PYTHONDONTWRITEBYTECODE=1
helm_version=v3.22.0
# shellcheck disable=SC2154 # .ci/run sets it
deploy_tools=$tools/deploy
unibus=${CARGO_TARGET_DIR:-$PWD/target}/debug/unibus
helm=$deploy_tools/helm-$helm_version/helm
nats_server=
nginx=$deploy_tools/debian/root/usr/sbin/nginx
deploy_python=$deploy_tools/python/bin/python3

# Unpacks Debian packages below "$1", without installing them.
unpack_debian() {
    local into=$1 downloads=$deploy_tools/debian
    shift
    mkdir -p "$downloads" "$into"
    (
        cd "$downloads" || exit
        # the lists of a new machine are empty or old
        within 120 apt-get -qq download "$@" 2>/dev/null || {
            within 120 apt-get -qq update
            within 120 apt-get -qq download "$@"
        }
        for package in "$@"; do dpkg -x "$package"_*.deb "$into"; done
    )
}

bring_debian_programs() {
    [ -x "$nginx" ] || unpack_debian "$deploy_tools/debian/root" nginx busybox-static
}

bring_package_tools() {
    step "tools for packages"
    mkdir -p "$deploy_tools"
    [ -x "$deploy_python" ] || python3 -m venv "$deploy_tools/python"
    within 300 "$deploy_python" -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
        --requirement .ci/deploy/requirements.txt
    bring_debian_programs
    # helm does not know its version when go builds it, so its folder tells
    [ -x "$helm" ] || GOBIN=${helm%/*} GOFLAGS=-mod=mod within 900 go install "helm.sh/helm/v3/cmd/helm@$helm_version"
    within 1200 cargo build --locked --bin unibus
    nats_server=$(.cargo/runner printenv UNIBUS_NATS_SERVER)
}

# The scripts, the Dockerfile, the compose file, the configuration of NATS, and the unit of systemd.
package_files() {
    step "the files of packages"
    local scripts
    mapfile -t scripts < <(git grep -lE '^#!/usr/bin/env bash|^#!/bin/(ba)?sh|^# shellcheck shell=bash')
    "$deploy_tools/python/bin/shellcheck" "${scripts[@]}"
    "$deploy_tools/python/bin/shellcheck" --shell=sh src/nats/embedded/guard.sh
    "$deploy_tools/python/bin/hadolint" Dockerfile
    "$deploy_tools/python/bin/check-jsonschema" --builtin-schema vendor.compose-spec deploy/compose.yaml
    within 60 "$deploy_python" .ci/deploy/files.py
    NATS_PASSWORD=secret NATS_OPERATOR_PASSWORD=secret "$nats_server" --config deploy/nats/nats.conf -t
    check_unit
}

# systemd-analyze wants the program of the unit to exist.
check_unit() {
    local unit=$deploy_tools/unibus.service
    sed "s|^ExecStart=.*|ExecStart=$unibus|" deploy/systemd/unibus.service >"$unit"
    systemd-analyze verify --man=no "$unit"
    # from 0 (confined) to 100 (exposed)
    systemd-analyze security --offline=true --threshold=20 --no-pager "$unit" | tail -n 1
}

package_chart() {
    step "the chart"
    within 300 "$deploy_python" .ci/deploy/chart.py "$helm"
}

package_image() {
    step "the image"
    within 300 "$deploy_python" .ci/deploy/image.py "$unibus" "$deploy_tools/debian/root/bin/busybox"
}

package_proxies() {
    step "nginx and envoy"
    within 400 "$deploy_python" .ci/deploy/proxies.py "$unibus" "$nats_server" \
        "nginx=$nginx" "envoy=$deploy_tools/python/bin/envoy"
}

# All of the above.
packages() {
    bring_package_tools
    package_files
    package_chart
    package_image
    package_proxies
}
