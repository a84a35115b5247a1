"""A request to a NATS server, by the text protocol of NATS."""

import asyncio
import json
import secrets

from .matching import Failed, Fields


async def request(port: int, subject: str, body: bytes, seconds: float = 10) -> Fields:
    """The answer to one request, which is JSON."""
    return await asyncio.wait_for(exchange(port, subject, body), seconds)


async def exchange(port: int, subject: str, body: bytes) -> Fields:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        await reader.readline()  # INFO
        inbox = f"_INBOX.{secrets.token_hex(8)}"
        writer.write(b'CONNECT {"verbose":false,"pedantic":false,"lang":"conformance","version":"1"}\r\n')
        writer.write(f"SUB {inbox} 1\r\nPUB {subject} {inbox} {len(body)}\r\n".encode() + body + b"\r\n")
        while line := (await reader.readline()).decode().split():
            if line[0] == "PING":
                writer.write(b"PONG\r\n")
            elif line[0] == "MSG":
                return dict(json.loads(await reader.readexactly(int(line[-1]))))
            elif line[0] == "-ERR":
                raise Failed(f"NATS refused {subject}: {line}")
        raise Failed("NATS closed the connection")
    finally:
        writer.close()
