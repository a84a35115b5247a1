"""Publishes the lines of standard input, many at once, in order and each once."""

import asyncio
import sys

import unibus


async def main(address: str, room_id: str) -> None:
    async with unibus.connect(address) as client:
        room = await client.create_room(room_id)
        async with room.publisher() as publisher:
            answers = []
            while line := await asyncio.to_thread(sys.stdin.readline):
                answers.append(await publisher.send(line.rstrip("\n").encode()))
        for answer in answers:
            print((await answer).sequence)


asyncio.run(main(*sys.argv[1:]))
