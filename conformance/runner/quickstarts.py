"""Runs the quick starts of docs/clients.md as printed, against a service on its default port."""

import asyncio
import base64
import os
import re
import signal
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from .matching import Failed
from .points import DOCUMENT
from .processes import Service
from .scenario import ROOT
from .steps.verbs import until
from .stubs import Stubs

README, README_LANGUAGE = ROOT / "README.md", "python"
ADDRESS = "127.0.0.1:50051"
ROOM, SUBSCRIBER = "orders", "billing"
LINES_MAX = 15  # of code: without blank lines, imports, and lines of brackets alone
SECONDS = 60.0
IMPORT = re.compile(r"^(package|import|from|use)\b|^[)}\];]*$")


@dataclass
class QuickStart:
    """The program of one language: its file, and the command that runs what `build.sh` made of it."""

    language: str
    file: str
    command: list[str]

    @property
    def folder(self) -> Path:
        return ROOT / "clients" / self.language

    def text(self) -> str:
        return (self.folder / self.file).read_text()


JAVA = 'exec java -XX:+UseSerialGC -cp "target/test-classes:target/classes:$(cat target/classpath)" Quickstart'
CARGO = ["cargo", "run", "--locked", "--quiet", "-p", "unibus-client", "--example", "quickstart"]
QUICK_STARTS = [
    QuickStart("go", "examples/quickstart/main.go", ["bin/quickstart"]),
    QuickStart("typescript", "examples/quickstart.ts", ["node", "build/examples/quickstart.js"]),
    QuickStart("python", "examples/quickstart.py", [".venv/bin/python", "examples/quickstart.py"]),
    QuickStart("java", "examples/Quickstart.java", ["bash", "-c", JAVA]),
    QuickStart("rust", "examples/quickstart.rs", CARGO),
]


def printed(language: str) -> str:
    """The block of this language in the section of quick starts."""
    section = DOCUMENT.read_text().split("\n## Quick starts\n")[1].split("\n## ")[0]
    found = re.findall(rf"^```{language}\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    if len(found) != 1:
        raise Failed(f"docs/clients.md has {len(found)} quick starts in {language}")
    return str(found[0])


def write_document() -> None:
    """Writes the files into the documents."""
    for start in QUICK_STARTS:
        text = DOCUMENT.read_text()
        old, new = f"```{start.language}\n{printed(start.language)}```\n", f"```{start.language}\n{start.text()}```\n"
        DOCUMENT.write_text(text.replace(old, new, 1))
        if start.language == README_LANGUAGE:
            README.write_text(README.read_text().replace(old, new, 1))


def check_text(start: QuickStart) -> None:
    """The documents print the file, and the program is short."""
    if printed(start.language) != start.text():
        raise Failed(f"the quick start in {start.language} in docs/clients.md differs from clients/{start.language}/{start.file}")
    if start.language == README_LANGUAGE and f"\n```{start.language}\n{start.text()}```\n" not in README.read_text():
        raise Failed(f"the quick start in README.md differs from clients/{start.language}/{start.file}")
    comment = re.compile(r'^(//|/\*|\*|#|""")')
    imports = re.sub(r"^import \($.*?^\)$", "", start.text(), flags=re.MULTILINE | re.DOTALL)
    lines = [line.strip() for line in imports.splitlines()]
    code = [line for line in lines if line and not comment.match(line) and not IMPORT.match(line)]
    if len(code) > LINES_MAX:
        raise Failed(f"the quick start in {start.language} has {len(code)} lines of code")


async def run_all(languages: list[str], program: str, nats_server: str) -> None:
    for start in QUICK_STARTS:
        if start.language in languages:
            began = time.monotonic()
            check_text(start)
            with tempfile.TemporaryDirectory(prefix="unibus-quickstart-") as folder:
                await run(start, Path(folder), program, nats_server)
            print(f"{start.language:<16}quick start {time.monotonic() - began:6.1f} s  ok", flush=True)


async def run(start: QuickStart, folder: Path, program: str, nats_server: str) -> None:
    """Handles messages, survives a kill of the service, ends on SIGINT, and has acknowledged what it handled."""
    service = Service(program, nats_server, folder, "service", {"listen": ADDRESS})
    output = folder / "output"
    await service.start()
    stubs = Stubs(ADDRESS)
    await stubs.call("CreateRoom", {"room_id": ROOM, "persist": True})
    with output.open("wb") as log:
        running = await asyncio.create_subprocess_exec(
            *start.command, cwd=start.folder, stdout=log, stderr=log, start_new_session=True
        )

    async def missing(number: int) -> str | None:
        if running.returncode is not None:
            return f"the program ended with {running.returncode}; printed:\n{output.read_text()}"
        return None if f"hello-{number}\n" in output.read_text() else f"message {number} is missing:\n{output.read_text()}"

    async def publish_and_see(number: int) -> None:
        payload = {"room_id": ROOM, "payload": base64.b64encode(f"hello-{number}".encode()).decode()}
        await stubs.call("Publish", payload)
        await until(lambda: missing(number), SECONDS)

    async def unacknowledged() -> str | None:
        listed = (await stubs.call("ListSubscribers", {"room_id": ROOM}))["subscribers"]
        found = [(one["subscriber"], one["position"]) for one in listed]
        return None if found == [(SUBSCRIBER, "2")] else f"it did not acknowledge: {found}"

    try:
        await publish_and_see(1)
        await service.do("restart")
        await publish_and_see(2)
        await until(unacknowledged, SECONDS)
        os.killpg(running.pid, signal.SIGINT)
        await asyncio.wait_for(running.wait(), SECONDS)
    finally:
        if running.returncode is None:
            os.killpg(running.pid, signal.SIGKILL)
            await running.wait()
        await stubs.close()
        await service.kill()
