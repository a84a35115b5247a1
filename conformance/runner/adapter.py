"""An adapter: the program that drives one client by lines of JSON on standard input and output."""

import asyncio
import contextlib
import json
import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

from .matching import Failed, Fields, brief
from .processes import signal_to

LINE_BYTES_MAX = 64 * 1024 * 1024
STOP_SECONDS = 5.0


@dataclass
class Line:
    """One line of a subscription."""

    at: float
    content: Fields


@dataclass
class SubscriptionLog:
    """What a subscription reported."""

    lines: list[Line] = field(default_factory=list)
    grew: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, content: Fields) -> None:
        self.lines.append(Line(time.monotonic(), content))
        self.grew.set()
        self.grew = asyncio.Event()

    def all(self, kind: str) -> list[Fields | str]:
        """The messages, events, or handled sequences, in their order."""
        return [line.content[kind] for line in self.lines if kind in line.content]

    def sequences(self) -> list[int]:
        return [int(line.content["message"]["sequence"]) for line in self.lines if "message" in line.content]


class Adapter:
    """A running adapter."""

    def __init__(self, program: Path, language: str, log: Path, subscriptions: dict[str, SubscriptionLog]) -> None:
        self.program = program
        self.language = language
        self.log = log
        self.subscriptions = subscriptions
        self.running: asyncio.subprocess.Process | None = None
        self.reading: asyncio.Task[None] | None = None
        self.waiting: dict[int, asyncio.Future[Fields]] = {}
        self.next_id = 0

    async def start(self) -> None:
        environment = {**os.environ, "NO_COLOR": "1"}
        with self.log.with_suffix(".err").open("ab") as errors:
            self.running = await asyncio.create_subprocess_exec(
                str(self.program),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                limit=LINE_BYTES_MAX,
                env=environment,
                start_new_session=True,
            )
        self.reading = asyncio.create_task(self.read())

    async def read(self) -> None:
        assert self.running is not None and self.running.stdout is not None
        with self.log.open("a") as log:
            while line := await self.running.stdout.readline():
                log.write(f"{time.monotonic():.3f} < {line.decode(errors='replace')[:2000].rstrip()}\n")
                log.flush()
                try:
                    content = json.loads(line)
                except ValueError:
                    content = {"id": 0, "error": {"code": "ADAPTER", "message": f"no JSON: {line[:200]!r}"}}
                if "sub" in content:
                    self.subscriptions.setdefault(content["sub"], SubscriptionLog()).add(content)
                elif (answer := self.waiting.pop(content.get("id", 0), None)) and not answer.done():
                    answer.set_result(content)
        for answer in self.waiting.values():
            if not answer.done():
                answer.set_exception(Failed("the adapter ended"))

    def send(self, op: str, fields: Fields) -> asyncio.Future[Fields]:
        """Sends a request. The future has the whole answer."""
        if self.running is None or self.running.stdin is None:
            raise Failed("the adapter is not running")
        self.next_id += 1
        request = {"id": self.next_id, "op": op, **fields}
        answer: asyncio.Future[Fields] = asyncio.get_running_loop().create_future()
        self.waiting[self.next_id] = answer
        # an answer that nobody waits for any more is no fault
        answer.add_done_callback(lambda done: done.cancelled() or done.exception())
        text = json.dumps(request)
        with self.log.open("a") as log:
            log.write(f"{time.monotonic():.3f} > {text[:2000]}\n")
        self.running.stdin.write(text.encode() + b"\n")
        return answer

    async def call(self, op: str, fields: Fields, seconds: float = 30) -> Fields:
        """The answer's `ok`."""
        answer = await asyncio.wait_for(self.send(op, fields), seconds)
        if "error" in answer:
            raise Failed(f"{op} failed: {brief(answer['error'])}")
        ok = answer.get("ok")
        return ok if isinstance(ok, dict) else {}

    def signal(self, number: signal.Signals) -> None:
        if self.running is not None:
            with contextlib.suppress(ProcessLookupError):
                # the adapter and what a launcher has started
                os.killpg(self.running.pid, number)

    async def kill(self) -> None:
        if self.running is not None:
            self.signal(signal.SIGKILL)
            signal_to(self.running.pid, signal.SIGKILL)
            await self.running.wait()
            if self.reading is not None:
                await self.reading
            self.running = None

    async def stop(self) -> int | None:
        """Ends its standard input, which must end the adapter with status 0."""
        if self.running is None or self.running.stdin is None:
            return None
        self.running.stdin.close()
        try:
            return await asyncio.wait_for(self.running.wait(), STOP_SECONDS)
        except TimeoutError:
            return None
        finally:
            await self.kill()
