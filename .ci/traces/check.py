#!/usr/bin/env python3
"""Shows one trace that links a publisher in Go, the service, and a subscriber in Python.

    check.py UNIBUS NATS_SERVER TOOLS

TOOLS is a folder with the programs `collector` and `publisher`. A nats-server, the collector and the service run on free
ports of loopback. The publisher and the subscriber are instrumented as an application would be. The spans are read from
what the collector prints.
"""

import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time

import grpc_tools.protoc

ROOT = pathlib.Path(__file__).resolve().parents[2]
HERE = pathlib.Path(__file__).resolve().parent
SOON = 60
ROOM = "tea"
COLLECTOR = """
receivers: {{otlp: {{protocols: {{grpc: {{endpoint: "{address}"}}}}}}}}
exporters: {{debug: {{verbosity: detailed, sampling_initial: 1000000}}}}
service:
  telemetry: {{metrics: {{level: none}}}}
  pipelines: {{traces: {{receivers: [otlp], exporters: [debug]}}}}
"""


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def until(what, answers):
    end = time.monotonic() + SOON
    while True:
        found = answers()
        if found:
            return found
        assert time.monotonic() < end, f"{what}: not within {SOON} s"
        time.sleep(0.1)


def listens(port):
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


def generate(directory):
    """The modules of the contract, made from proto/."""
    files = sorted(str(path.relative_to(ROOT / "proto")) for path in (ROOT / "proto").rglob("*.proto"))
    include = pathlib.Path(grpc_tools.protoc.__file__).parent / "_proto"
    command = ["protoc", f"-I{ROOT / 'proto'}", f"-I{include}", f"--python_out={directory}"]
    assert grpc_tools.protoc.main([*command, f"--grpc_python_out={directory}", *files]) == 0, "protoc failed"


def spans(text):
    """The spans that the collector has printed, each with the name of its service."""
    found, service = [], None
    for line in text.splitlines():
        if match := re.search(r"-> service\.name: Str\((.*)\)", line):
            service = match[1]
        elif re.search(r"Span #\d+$", line):
            found.append({"service": service})
        elif found and (match := re.match(r"\s+(Trace ID|Parent ID|ID|Name)\s*: ?(.*)$", line)):
            found[-1].setdefault(match[1], match[2])
    return found


def tree(trace, parent="", depth=0):
    """The lines of a trace, each part below its whole."""
    known = {span["ID"] for span in trace}
    below = [span for span in trace if span["Parent ID"] == parent or (not depth and span["Parent ID"] not in known)]
    for span in below:
        yield f"{'  ' * depth}{span['Name']} ({span['service']})"
        yield from tree(trace, span["ID"], depth + 1)


EXPECTED = """
publish tea (go-publisher)
  unibus.v1.RoomService/Publish (go-publisher)
    unibus.v1.RoomService/Publish (unibus)
      publish queue (unibus)
      jetstream PUBLISH (unibus)
  receive tea (python-subscriber)
""".strip()


def run(unibus, nats_server, tools, directory, processes):
    def start(name, command, **options):
        with open(directory / f"{name}.log", "wb") as log:
            output = {"stdout": log, "stderr": log} | options
            processes[name] = subprocess.Popen(command, stdin=subprocess.DEVNULL, cwd=directory, **output)
        return processes[name]

    nats, collector, main, admin = (free_port() for _ in range(4))
    to_collector, to_unibus = f"127.0.0.1:{collector}", f"127.0.0.1:{main}"
    (directory / "collector.yaml").write_text(COLLECTOR.format(address=to_collector))
    start("nats", [nats_server, "-a", "127.0.0.1", "-p", str(nats), "-js", "-sd", directory / "store"])
    start("collector", [tools / "collector", "--config", "file:collector.yaml"])
    until("nats-server", lambda: listens(nats))
    until("the collector", lambda: listens(collector))
    flags = ["--listen", to_unibus, "--admin-listen", f"127.0.0.1:{admin}", "--nats-url", f"nats://127.0.0.1:{nats}"]
    # a log that is nearly off does not matter to traces
    service = start("unibus", [unibus, *flags, "--otlp-endpoint", f"http://{to_collector}", "--log", "warn"])
    until("the service", lambda: listens(main))
    create = [unibus, "room", "create", ROOM, "--server", f"http://{to_unibus}"]
    subprocess.run(create, check=True, stdout=subprocess.DEVNULL, timeout=SOON)

    generate(directory)
    reads = [sys.executable, HERE / "subscriber.py", directory, to_unibus, to_collector, ROOM]
    subscriber = start("subscriber", reads, stdout=subprocess.PIPE, text=True)
    assert subscriber.stdout.readline() == "ready\n", "the subscriber did not start"
    publishes = [tools / "publisher", to_unibus, to_collector, ROOM]
    published = subprocess.run(publishes, check=True, capture_output=True, text=True, timeout=SOON)
    id_of_trace = published.stdout.strip()
    assert subscriber.wait(SOON) == 0, "the subscriber failed"
    # the last spans are sent when the service stops
    service.send_signal(signal.SIGTERM)
    assert service.wait(SOON) == 0, "the service did not stop well"

    def whole():
        found = spans((directory / "collector.log").read_text())
        return [span for span in found if span.get("Trace ID") == id_of_trace]

    until("the spans", lambda: len(whole()) >= len(EXPECTED.splitlines()))
    shown = "\n".join(tree(whole()))
    print(f"trace {id_of_trace}\n{shown}")
    lines = lambda text: sorted(text.splitlines())
    assert lines(shown) == lines(EXPECTED), f"expected:\n{EXPECTED}"


def main():
    # the programs run in a directory of their own
    unibus, nats_server, tools = (pathlib.Path(given).resolve() for given in sys.argv[1:])
    processes = {}
    with tempfile.TemporaryDirectory() as directory:
        try:
            run(unibus, nats_server, tools, pathlib.Path(directory), processes)
        except (AssertionError, subprocess.SubprocessError) as failure:
            for name in processes:
                log = pathlib.Path(directory, f"{name}.log").read_text(errors="replace")
                print(f"--- {name}", *log.splitlines()[-20:], sep="\n")
            print(getattr(failure, "stderr", None) or "")
            sys.exit(f"failed: {failure}")
        finally:
            for process in processes.values():
                process.kill()
                process.wait()


main()
