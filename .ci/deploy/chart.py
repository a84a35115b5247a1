"""Lints the Helm chart, renders it with each file of ci/, and checks what it renders.

    chart.py HELM

Kubernetes' own kinds are checked against its schemas, unknown fields included. A value that cannot work must be refused.
"""

import pathlib
import re
import subprocess
import sys

import kubernetes_validate
import yaml

from files import ROOT, variables

CHART = ROOT / "deploy/helm/unibus"
KUBERNETES = "1.34"
# helm that go builds takes an old version for the default
VERSION = ["--kube-version", f"{KUBERNETES}.0"]
# The kinds of the Prometheus operator, with the fields that it requires; their schemas are in no package.
OPERATOR = {"ServiceMonitor": ["selector", "endpoints"], "PrometheusRule": ["groups"]}
EXPECTED = {
    "default-values": ["Deployment", "NetworkPolicy", "PodDisruptionBudget", "Service", "Service"],
    "full-values": [
        "Deployment", "HorizontalPodAutoscaler", "NetworkPolicy", "PodDisruptionBudget", "Service", "Service", "ServiceMonitor",
    ],
    "password-values": ["Deployment", "Service", "Service"],
}
# What is refused, and a word of the message.
REFUSED = [
    ([], "/nats/url"),
    (["nats.url=http://nats:4222"], "pattern"),
    (["nats.url=nats://nats:4222"], "auth.keysSecret"),
    (["nats.url=nats://nats:4222", "auth.mode=maybe"], "/auth/mode"),
    (["nats.url=nats://nats:4222", "auth.keysSecret=a", "nats.registryReplicas=2"], "registryReplicas"),
    (["nats.url=nats://nats:4222", "auth.keysSecret=a", "replicas=3"], "replicas"),
    (["nats.url=nats://nats:4222", "tls.clientCaSecret=a"], "tls.secret"),
    (["nats.url=nats://nats:4222", "auth.keysSecret=a", "nats.credentialsSecret=a", "nats.passwordSecret=b"], "not both"),
    (["nats.url=nats://nats:4222", "auth.keysSecret=a", "nats.tlsClient=true"], "nats.tlsSecret"),
]


def helm(program, *arguments):
    return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60)


def render(program, *arguments):
    return helm(program, "template", "rooms", str(CHART), "--namespace", "rooms", *VERSION, *arguments)


def check_object(kind, manifest, known):
    if manifest["apiVersion"].startswith("monitoring.coreos.com/"):
        missing = [field for field in OPERATOR[kind] if field not in manifest["spec"]]
        assert not missing, f"{kind} has no {missing}"
        return
    kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
    if kind == "Deployment":
        container = manifest["spec"]["template"]["spec"]["containers"][0]
        names = [variable["name"] for variable in container["env"] if variable["name"].startswith("UNIBUS_")]
        unknown = [name for name in names if name not in known]
        assert len(names) >= 8 and not unknown, f"the program does not know {unknown}"
        assert len(names) == len(set(names)), f"variables occur twice in {names}"
        values = " ".join(str(variable.get("value", "")) for variable in container["env"])
        mounted = [mount["mountPath"] for mount in container.get("volumeMounts", [])]
        for path in re.findall(r"(/etc/unibus/[a-z-]+)/", values):
            assert path in mounted, f"{path} is not mounted"


def main():
    program = sys.argv[1]
    known = variables()
    files = sorted((CHART / "ci").glob("*.yaml"))
    assert sorted(EXPECTED) == [path.stem for path in files], "files of ci/"
    for path in files:
        linted = helm(program, "lint", "--strict", *VERSION, str(CHART), "--values", str(path))
        assert linted.returncode == 0, f"{path.name}: {linted.stdout}{linted.stderr}"
        rendered = render(program, "--values", str(path))
        assert rendered.returncode == 0, f"{path.name}: {rendered.stderr}"
        manifests = [manifest for manifest in yaml.safe_load_all(rendered.stdout) if manifest]
        assert sorted(one["kind"] for one in manifests) == EXPECTED[path.stem], f"{path.name}: other kinds"
        for manifest in manifests:
            try:
                check_object(manifest["kind"], manifest, known)
            except (AssertionError, kubernetes_validate.ValidationError) as problem:
                sys.exit(f"{path.name}, {manifest['kind']}: {str(problem).splitlines()[0]}")
    for values, word in REFUSED:
        sets = [argument for value in values for argument in ("--set", value)]
        rendered = render(program, *sets)
        assert rendered.returncode != 0 and word in rendered.stderr, f"{values}: {rendered.stderr}"
    if (CHART / "files/alerts.yml").exists():
        values = ["--values", str(CHART / "ci/default-values.yaml"), "--set", "metrics.prometheusRule.enabled=true"]
        rendered = render(program, *values)
        rules = [one for one in yaml.safe_load_all(rendered.stdout) if one and one["kind"] == "PrometheusRule"]
        alerts = yaml.safe_load((CHART / "files/alerts.yml").read_text())
        assert rules and rules[0]["spec"] == alerts, f"the rules are not those of the file: {rendered.stderr}"
    print(f"{len(files)} renderings are valid, {len(REFUSED)} mistakes are refused")


if __name__ == "__main__":
    main()
