"""Subscribes for ever, resumes after the last acknowledgement, and acknowledges what is handled."""

import asyncio
import sys

import unibus


async def handle(message: unibus.Message) -> None:
    print(message.sequence, message.payload.decode())


async def main(address: str, room: str, subscriber: str) -> None:
    async with unibus.connect(address) as client:
        await client.room(room).subscribe(subscriber).run(handle)


asyncio.run(main(*sys.argv[1:]))
