"""What goes wrong: networks, processes, credentials."""

import asyncio
import json
import signal
from pathlib import Path

from .. import credentials, nats
from ..matching import Failed, Fields
from ..world import World
from .verbs import verb


@verb
async def step_proxy(world: World, step: Fields) -> None:
    """`{proxy = "cut"}`: resets the connections, or sets a mode of `runner/proxy.py`. `delay_ms` delays all bytes."""
    if world.proxy is None:
        raise Failed("the scenario has no proxy")
    await world.proxy.set(step["proxy"], step.get("delay_ms", 0))


@verb
async def step_passed(world: World, step: Fields) -> None:
    """`{passed = "answers", at_least = 1, at_most = 5000}`: bytes that the proxy has passed on."""
    if world.proxy is None:
        raise Failed("the scenario has no proxy")
    passed = world.proxy.passed[step["passed"]]
    if not step["at_least"] <= passed <= step["at_most"]:
        raise Failed(f"{passed} bytes have passed")


@verb
async def step_service(world: World, step: Fields) -> None:
    """`{service = "kill"}`: kill, start, restart (by a kill), terminate (a drain), freeze, thaw, kill_nats. `instance` chooses
    one of several, from 0."""
    await world.services[step.get("instance", 0)].do(step["service"])


@verb
async def step_client(world: World, step: Fields) -> None:
    """`{client = "a", do = "kill"}`: kill, start (and connect), freeze, thaw, end (its standard input)."""
    name, what = step["client"], step["do"]
    adapter = world.client(name).adapter
    if what == "kill":
        await adapter.kill()
    elif what == "start":
        await world.start_client(name)
    elif what in ("freeze", "thaw"):
        adapter.signal(signal.SIGSTOP if what == "freeze" else signal.SIGCONT)
    elif what == "end":
        status = await adapter.stop()
        if status != 0:
            raise Failed(f"the adapter ended with {status} after the end of its standard input")
    else:
        raise Failed(f"a client cannot {what}")


@verb
async def step_token(world: World, step: Fields) -> None:
    """`{token = "alice", file = "t", ttl = "4s"}`: writes a token into a file. `every` renews it so often in the background,
    until `{stop = FILE}`. `save = "x"` keeps it in a variable."""
    if world.tokens is None:
        raise Failed("the scenario needs setup.auth")
    tokens, sub, ttl = world.tokens, step["token"], step.get("ttl", "1h")

    async def write() -> None:
        token = await tokens.token(sub, ttl)
        if "save" in step:
            world.variables[step["save"]] = token
        if "file" in step:
            credentials.replace(Path(world.folder) / step["file"], token)

    async def renew() -> None:
        while True:
            await asyncio.sleep(step["every"])
            await write()

    await write()
    if "every" in step:
        world.tasks[step["file"]] = asyncio.create_task(renew())


@verb
async def step_native_purge(world: World, step: Fields) -> None:
    """`{native_purge = "UNIBUS_r", before = "9007199254740993"}`: a native program removes all messages before this sequence.
    The next message gets at least this sequence."""
    if world.nats is None:
        raise Failed("the scenario needs setup.nats")
    body = json.dumps({"seq": int(step["before"])}).encode()
    answer = await nats.request(world.nats.port, f"$JS.API.STREAM.PURGE.{step['native_purge']}", body)
    if "error" in answer:
        raise Failed(f"NATS did not purge: {answer['error']}")


@verb
async def step_native_delete(world: World, step: Fields) -> None:
    """`{native_delete = "UNIBUS_r"}`: a native program deletes the stream."""
    if world.nats is None:
        raise Failed("the scenario needs setup.nats")
    await nats.request(world.nats.port, f"$JS.API.STREAM.DELETE.{step['native_delete']}", b"")
