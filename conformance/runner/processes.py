"""The service, nats-servers and adapters as processes."""

import asyncio
import contextlib
import os
import random
import re
import signal
import socket
from collections.abc import Callable
from pathlib import Path

from .matching import Failed, Fields

START_SECONDS = 30.0
ORPHANS_SECONDS = 10.0


# Below the ports that the kernel gives to outgoing connections, so that none of those takes a port before its server does.
PORTS = range(22_000, 32_000)
given_ports: set[int] = set()


def free_port() -> int:
    """A port that nothing uses, and that was not given before."""
    while True:
        port = random.choice(PORTS)
        if port in given_ports:
            continue
        with contextlib.suppress(OSError), socket.socket() as one:
            one.bind(("127.0.0.1", port))
            given_ports.add(port)
            return port


def children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def descendants(pid: int) -> list[int]:
    below = children(pid)
    return below + [further for child in below for further in descendants(child)]


def program_of(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def signal_to(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


class Process:
    """A program whose output goes to a file."""

    def __init__(self, command: list[str], log: Path, environment: Fields | None = None) -> None:
        self.command = command
        self.log = log
        self.environment = {**os.environ, **(environment or {})}
        self.running: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        # appended, since a process that is started again keeps its log
        with self.log.open("ab") as log:
            self.running = await asyncio.create_subprocess_exec(
                *self.command, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment
            )

    @property
    def pid(self) -> int:
        if self.running is None:
            raise Failed(f"{self.log.stem} is not running")
        return self.running.pid

    @property
    def is_running(self) -> bool:
        return self.running is not None and self.running.returncode is None

    async def kill(self) -> None:
        if self.running is not None:
            below = {pid: program_of(pid) for pid in descendants(self.pid)}
            with contextlib.suppress(ProcessLookupError):
                self.running.kill()
            await self.running.wait()
            self.running = None
            end = asyncio.get_running_loop().time() + ORPHANS_SECONDS
            while any(program_of(pid) == name for pid, name in below.items()):
                if asyncio.get_running_loop().time() > end:
                    raise Failed(f"{self.log.stem} left processes behind: {below}")
                await asyncio.sleep(0.02)

    def send(self, number: signal.Signals) -> None:
        signal_to(self.pid, number)

    async def wait(self, seconds: float) -> int:
        if self.running is None:
            raise Failed(f"{self.log.stem} is not running")
        status = await asyncio.wait_for(self.running.wait(), seconds)
        self.running = None
        return status

    async def until_logged(self, text: str, begin: int = 0) -> re.Match[str]:
        """Waits for a line of the log after its first `begin` bytes."""
        end = asyncio.get_running_loop().time() + START_SECONDS
        while asyncio.get_running_loop().time() < end:
            printed = self.log.read_bytes()[begin:].decode(errors="replace")
            if found := re.search(text, printed):
                return found
            if not self.is_running:
                raise Failed(f"{self.log.stem} ended; printed:\n{printed[-2000:]}")
            await asyncio.sleep(0.02)
        raise Failed(f"{self.log.stem} did not start within {START_SECONDS} s")


class NatsServer(Process):
    """An external nats-server with JetStream."""

    def __init__(self, program: str, folder: Path, settings: Fields) -> None:
        self.port = free_port()
        self.url = f"nats://127.0.0.1:{self.port}"
        lines = [f"listen: 127.0.0.1:{self.port}", f"jetstream {{ store_dir: {folder / 'nats'} }}"]
        lines += [f"{name}: {value}" for name, value in settings.items()]
        configuration = folder / "nats.conf"
        configuration.write_text("\n".join(lines) + "\n")
        super().__init__([program, "--config", str(configuration)], folder / "nats.log")

    async def start(self) -> None:
        begin = self.log.stat().st_size if self.log.exists() else 0
        await super().start()
        await self.until_logged("Server is ready", begin)


class Service(Process):
    """An instance of unibus. It keeps its ports and its data over restarts."""

    def __init__(self, program: str, nats_server: str, folder: Path, name: str, flags: Fields) -> None:
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        given = {
            "listen": self.address,
            "admin-listen": f"127.0.0.1:{free_port()}",
            "data-dir": folder / f"{name}-data",
            "heartbeat-interval": "1s",
            "log": "info,unibus=debug",
            **flags,
        }
        command = [program]
        for flag, value in given.items():
            command += [f"--{flag}"] if value is True else [f"--{flag}", str(value)]
        super().__init__(command, folder / f"{name}.log", {"UNIBUS_NATS_SERVER": nats_server, "NO_COLOR": "1"})

    async def start(self) -> None:
        begin = self.log.stat().st_size if self.log.exists() else 0
        await super().start()
        await self.until_logged(r"unibus::server: listening", begin)

    async def do(self, what: str) -> None:
        """One of the faults that a scenario names."""
        actions: dict[str, Callable[[], None]] = {
            "freeze": lambda: self.send(signal.SIGSTOP),
            "thaw": lambda: self.send(signal.SIGCONT),
            "kill_nats": self.kill_nats,
        }
        if what in actions:
            actions[what]()
        elif what == "start":
            await self.start()
        elif what == "kill":
            await self.kill()
        elif what == "restart":
            await self.kill()
            await self.start()
        elif what == "terminate":
            self.send(signal.SIGTERM)
            if status := await self.wait(30):
                raise Failed(f"the service ended with {status} after SIGTERM")
        else:
            raise Failed(f"a service cannot {what}")

    def kill_nats(self) -> None:
        for below in descendants(self.pid):
            if program_of(below) == "nats-server":
                signal_to(below, signal.SIGKILL)
