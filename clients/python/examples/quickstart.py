"""Subscribes for ever, resumes after the last acknowledgement, and acknowledges what is handled. Ctrl-C ends it."""

import asyncio
import contextlib

import unibus


async def handle(message: unibus.Message) -> None:
    print(message.sequence, message.payload.decode(), flush=True)


async def main() -> None:
    async with unibus.connect("http://127.0.0.1:50051") as client:
        await client.room("orders").subscribe("billing").run(handle)


with contextlib.suppress(KeyboardInterrupt):
    asyncio.run(main())
