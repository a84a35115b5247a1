"""A TCP proxy that does to its connections what networks do."""

import asyncio
import contextlib
import socket
import struct

from .matching import Failed

CHUNK = 64 * 1024
BAD_GATEWAY = b"HTTP/1.1 502 Bad Gateway\r\ncontent-type: text/html\r\ncontent-length: 11\r\nconnection: close\r\n\r\nBad Gateway"
MODES = {
    "pass": "bytes pass",
    "hold": "no byte passes, and none is lost: they go on in mode pass",
    "swallow": "every byte is taken and lost; a connection that lost bytes never passes any again",
    "half_open": "as swallow for the connections that are open now; new ones pass",
    "mute": "requests pass, answers are lost; a connection that lost bytes never passes any again",
    "refuse": "connections are refused, and the open ones are reset",
    "http502": "every connection is answered with HTTP 502, and the open ones are reset",
}


class Link:
    """One connection with its target."""

    def __init__(self, client: asyncio.StreamWriter, target: asyncio.StreamWriter) -> None:
        self.client = client
        self.target = target
        self.swallows = False  # both directions, for ever
        self.mutes = False  # answers, for ever

    def reset(self) -> None:
        for writer in (self.client, self.target):
            reset(writer)


def reset(writer: asyncio.StreamWriter) -> None:
    """Closes the connection with RST, as a crashed machine or a firewall does."""
    raw = writer.get_extra_info("socket")
    if raw is not None:
        with contextlib.suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class Proxy:
    """Listens on a port of loopback. A connection goes to the first target that takes it, beginning with another one each
    time."""

    def __init__(self, targets: list[int], port: int) -> None:
        self.targets = targets
        self.port = port
        self.mode = "pass"
        self.delay = 0.0
        self.connections = 0  # that were ever accepted
        self.passed = {"requests": 0, "answers": 0}  # bytes
        self.links: set[Link] = set()
        self.accepted: set[asyncio.Task[None]] = set()
        self.changed = asyncio.Event()
        self.server: asyncio.Server | None = None

    async def start(self) -> None:
        if self.server is None:
            self.server = await asyncio.start_server(self.accepting, "127.0.0.1", self.port)

    async def stop(self) -> None:
        if self.server is not None:
            self.server.close()
            self.server = None
        self.cut()

    async def close(self) -> None:
        """Stops, and waits until nothing of it runs."""
        await self.stop()
        for task in self.accepted:
            task.cancel()
        await asyncio.gather(*self.accepted, return_exceptions=True)

    def cut(self) -> None:
        """Resets all connections."""
        for link in list(self.links):
            link.reset()

    async def set(self, mode: str, delay_ms: float) -> None:
        if mode == "cut":
            self.cut()
            return
        self.delay = delay_ms / 1000
        if mode not in MODES:
            raise Failed(f"the proxy has no mode {mode}; modes: cut, {', '.join(MODES)}")
        if mode == "half_open":
            for link in self.links:
                link.swallows = True
            mode = "pass"
        self.mode = mode
        if mode == "refuse":
            await self.stop()
        else:
            await self.start()
        if mode == "http502":
            self.cut()
        self.changed.set()
        self.changed = asyncio.Event()

    def accepting(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self.accept(reader, client))
        self.accepted.add(task)
        task.add_done_callback(self.accepted.discard)

    async def accept(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self.mode == "http502":
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.TimeoutError):
                await asyncio.wait_for(reader.read(CHUNK), 5)
                client.write(BAD_GATEWAY)
                await client.drain()
            client.close()
            return
        opened = await self.connect()
        if opened is None:
            reset(client)
            return
        answers, target = opened
        if self.mode in ("refuse", "http502"):
            # it was accepted before the fault, and was no link yet that the fault could cut
            reset(client)
            reset(target)
            return
        link = Link(client, target)
        self.links.add(link)
        try:
            await asyncio.gather(self.pump(link, reader, target, False), self.pump(link, answers, client, True))
        except OSError:
            link.reset()
        finally:
            self.links.discard(link)
            client.close()
            target.close()

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        first = self.connections % len(self.targets)
        for port in self.targets[first:] + self.targets[:first]:
            with contextlib.suppress(OSError):
                return await asyncio.open_connection("127.0.0.1", port)
        return None

    async def pump(self, link: Link, source: asyncio.StreamReader, sink: asyncio.StreamWriter, answers: bool) -> None:
        while data := await source.read(CHUNK):
            if self.delay:
                await asyncio.sleep(self.delay)
            while self.mode == "hold":
                await self.changed.wait()
            if self.mode == "swallow":
                link.swallows = True
            if self.mode == "mute" and answers:
                link.mutes = True
            if not (link.swallows or (link.mutes and answers)):
                self.passed["answers" if answers else "requests"] += len(data)
                sink.write(data)
                await sink.drain()
        if not link.swallows and sink.can_write_eof():
            sink.write_eof()
