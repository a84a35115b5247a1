"""The command line."""

import argparse
import asyncio
import datetime
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from . import quickstarts, stubs
from .matching import Failed, Fields
from .points import problems
from .scenario import ROOT, Scenario, load_all
from .steps import verb_of
from .suite import Options, Suite
from .world import Programs

LANGUAGES = ["go", "typescript", "python", "java", "rust"]
# the transport of browsers, in Node
ALL = [*LANGUAGES, "typescript-web"]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
WORK = ROOT / "target" / "conformance"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="conformance/run", description="Runs the conformance scenarios.")
    add = parser.add_argument
    add("--language", action="append", help="a client; may be repeated; default: all")
    add("--scenario", action="append", metavar="NAME", help="a scenario, or the begin of its name; may be repeated; default: all")
    add("--part", choices=["client", "server"], help="only the scenarios of clients, or of the contract alone")
    add("--bounded", action="store_true", help="the shorter run of CI")
    add("--repeat", type=int, default=1, metavar="N", help="runs each scenario N times")
    add("--jobs", type=int, default=8, metavar="N", help="scenarios at the same time (default: 8)")
    add("--json", type=Path, metavar="FILE", help="writes the results")
    add("--update-readme", action="store_true", help="writes the matrix into conformance/README.md")
    add("--service", metavar="BINARY", help="the unibus program (default: the one of cargo build)")
    add("--nats-server", metavar="BINARY", help="the nats-server program (default: the one that cargo run takes)")
    add("--server", metavar="HOST:PORT", help="a running server without authorisation; implies --part server")
    add("--adapters", type=Path, metavar="DIR", help="the adapters (default: conformance/adapters)")
    add("--no-build", action="store_true", help="does not run clients/LANGUAGE/build.sh")
    add("--keep", action="store_true", help="also keeps the logs of scenarios that pass")
    add("--list", action="store_true", help="prints the scenarios with their goals")
    add("--quick-starts", action="store_true", help="runs the quick starts of docs/clients.md instead")
    add("--write-quick-starts", action="store_true", help="writes the quick starts of the clients into docs/clients.md")
    add("--check", action="store_true", help="checks the scenarios: their steps, and that they cite all points")
    return parser.parse_args()


def unreadable(scenarios: list[Scenario]) -> list[str]:
    """Steps without a verb."""

    def below(steps: list[Fields]) -> Iterator[Fields]:
        for step in steps:
            yield step
            yield from below(step.get("steps", []))
            for turn in step.get("turns", []):
                yield from below(turn)

    found = []
    for scenario in scenarios:
        for step in below(scenario.steps):
            try:
                verb_of(step)
            except Failed as failed:
                found.append(f"{scenario.name}: {failed}")
    return found


def chosen(given: argparse.Namespace) -> list[Scenario]:
    scenarios = load_all()
    part = "server" if given.server else given.part
    scenarios = [one for one in scenarios if part in (None, one.part)]
    if given.server:
        scenarios = [one for one in scenarios if not one.needs_own_server]
    if given.bounded:
        scenarios = [one for one in scenarios if one.bounded]
    names = given.scenario or [""]
    found = [one for one in scenarios if any(one.name.startswith(name) for name in names)]
    return found or sys.exit(f"no scenario is named {names}")


def nats_server(given: argparse.Namespace) -> str:
    """As the cargo runner finds it, which may bring it."""
    if given.nats_server:
        return str(given.nats_server)
    command = [str(ROOT / ".cargo" / "runner"), "printenv", "UNIBUS_NATS_SERVER"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True)
    return printed.stdout.strip()


def build(languages: list[str]) -> None:
    for language in dict.fromkeys(language.removesuffix("-web") for language in languages):
        subprocess.run([str(ROOT / "clients" / language / "build.sh")], check=True, stdout=sys.stderr)


def run_quick_starts(given: argparse.Namespace) -> None:
    languages = given.language or LANGUAGES
    if not given.no_build:
        build(languages)
    stubs.generate(WORK / "stubs")
    try:
        # a shell starts what runs in its background with SIGINT ignored, and programs inherit that
        signal.signal(signal.SIGINT, signal.default_int_handler)
        asyncio.run(quickstarts.run_all(languages, str(service_program(given)), nats_server(given)))
    except Failed as failed:
        sys.exit(str(failed))


def service_program(given: argparse.Namespace) -> Path:
    program = Path(given.service or TARGET / "debug" / "unibus").resolve()
    if shutil.which(program) is None:
        sys.exit(f"{program} does not exist: run cargo build --bin unibus")
    return program


def main() -> None:
    # as Ctrl-C, so that everything that was started is stopped
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))
    given = arguments()
    if given.check:
        sys.exit("\n".join(problems(load_all()) + unreadable(load_all())) or 0)
    scenarios = chosen(given)
    if given.list:
        for one in scenarios:
            print(f"{one.name:<34}{one.goal}")
        return
    if given.write_quick_starts:
        quickstarts.write_document()
        return
    if given.quick_starts:
        run_quick_starts(given)
        return
    languages = [] if all(one.part == "server" for one in scenarios) else given.language or ALL
    adapters = (given.adapters or ROOT / "conformance" / "adapters").resolve()
    if given.adapters is None and not given.no_build:
        build(languages)
    stubs.generate(WORK / "stubs")
    if given.server:
        programs = Programs("", "", adapters, given.server)
    else:
        programs = Programs(str(service_program(given)), nats_server(given), adapters)
    logs = WORK / "logs" / datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S-%f")
    logs.mkdir(parents=True)
    options = Options(languages, given.bounded, given.repeat, given.jobs, logs, given.keep)
    report = asyncio.run(Suite(programs, options).run(scenarios))
    print(f"\n{report.text()}\n\n{len(report.results)} results in {report.seconds:.0f} s")
    if given.json:
        report.write_json(given.json)
    if given.update_readme:
        report.update_readme({one.name: one for one in scenarios})
    for result in report.failed:
        print(f"\n{result.language} {result.scenario}: {result.failures[0]}\n  logs: {result.logs[0]}")
    sys.exit(1 if report.failed else 0)


if __name__ == "__main__":
    main()
