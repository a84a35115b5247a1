"""Checks the files of deploy/ against each other and against the program: names of variables, versions, addresses.

    files.py
"""

import pathlib
import re
import sys
import tomllib

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]


def read(path):
    return (ROOT / path).read_text()


def variables():
    """The variables of the program: a test keeps this table true."""
    return set(re.findall(r"^\| `--[a-z-]+` \| `(UNIBUS_[A-Z_]+)` \|", read("docs/configuration.md"), re.MULTILINE))


def check_variables():
    known = variables()
    compose = yaml.safe_load(read("deploy/compose.yaml"))
    named = {
        "Dockerfile": re.findall(r"\b(UNIBUS_[A-Z_]+)=", read("Dockerfile")),
        "deploy/systemd/unibus.env": re.findall(r"^#?(UNIBUS_[A-Z_]+)=", read("deploy/systemd/unibus.env"), re.MULTILINE),
        "deploy/systemd/unibus.service": re.findall(r"\b(UNIBUS_[A-Z_]+)=", read("deploy/systemd/unibus.service")),
        "deploy/compose.yaml": compose["services"]["unibus-1"]["environment"],
    }
    # the cargo runner hands it to the second stage
    named["Dockerfile"] = [name for name in named["Dockerfile"] if name != "UNIBUS_NATS_SERVER"] + ["UNIBUS_NATS_SERVER"]
    for path, names in named.items():
        unknown = [name for name in names if name not in known]
        assert names and not unknown, f"{path}: the program does not know {unknown}"


def check_versions():
    version = tomllib.loads(read("Cargo.toml"))["package"]["version"]
    pinned = re.search(r"^pinned=(\S+)$", read(".cargo/runner"), re.MULTILINE)[1]
    compose = yaml.safe_load(read("deploy/compose.yaml"))["services"]
    chart = yaml.safe_load(read("deploy/helm/unibus/Chart.yaml"))
    found = {
        "deploy/compose.yaml, unibus": (compose["unibus-1"]["image"], f"unibus:{version}"),
        "deploy/compose.yaml, nats": (compose["nats-1"]["image"], f"nats:{pinned}-alpine"),
        "Chart.yaml, version": (chart["version"], version),
        "Chart.yaml, appVersion": (chart["appVersion"], version),
        "Dockerfile, VERSION": (re.search(r"^ARG VERSION=(\S+)$", read("Dockerfile"), re.MULTILINE)[1], version),
    }
    for place, (is_there, expected) in found.items():
        assert is_there == expected, f"{place} is {is_there}, not {expected}"


def check_compose():
    compose = yaml.safe_load(read("deploy/compose.yaml"))
    services = compose["services"]
    # docs/deploy.md says how to make these
    made = {"./keys/token.key.pub", "./tls"}
    for name, service in services.items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            is_volume = source in compose["volumes"]
            assert is_volume or source in made or (ROOT / "deploy" / source).exists(), f"{name}: {source} is missing"
        for other in service.get("depends_on", {}):
            # service_healthy waits for ever without a health check; that of unibus is in its Dockerfile
            assert "healthcheck" in services[other] or other.startswith("unibus"), f"{other} has no health check"
    nodes = [name for name in services if name.startswith("nats-")]
    for name in nodes:
        command = services[name]["command"]
        assert command[command.index("--name") + 1] == name, f"{name} has another name"
        routes = command[command.index("--routes") + 1].split(",")
        assert [re.search(r"@([^:]+):6222$", route)[1] for route in routes] == nodes, f"{name}: {routes}"
    for name in ["unibus-1", "unibus-2"]:
        urls = services[name]["environment"]["UNIBUS_NATS_URL"].split(",")
        assert urls == [f"nats://{node}:4222" for node in nodes], f"{name}: {urls}"
    port = re.search(r"UNIBUS_LISTEN=\S+:(\d+)", read("Dockerfile"))[1]
    for path, pattern in [
        ("deploy/nginx/unibus.conf", r"^ *server (\S+):(\d+) "),
        ("deploy/envoy/unibus.yaml", r"address: (unibus-\d), port_value: (\d+)"),
    ]:
        backends = re.findall(pattern, read(path), re.MULTILINE)
        assert backends == [("unibus-1", port), ("unibus-2", port)], f"{path}: {backends}"


def main():
    for check in [check_variables, check_versions, check_compose]:
        try:
            check()
        except AssertionError as problem:
            sys.exit(f"{check.__name__}: {problem}")


if __name__ == "__main__":
    main()
