"""Requests to adapters, and their answers."""

import asyncio
import time

from ..matching import Failed, Fields, brief, difference, encoded
from ..world import World
from .verbs import WITHIN, verb

OWN = {"call", "op", "ok", "error", "within", "later", "save", "at_least", "at_most"}


def check(answer: Fields, step: Fields) -> None:
    """The answer is `ok`, or `error`, with the expected fields."""
    if "error" in step:
        if "error" not in answer:
            raise Failed(f"it succeeded: {brief(answer)}")
        reason = difference(step["error"], answer["error"])
    else:
        if "error" in answer:
            raise Failed(f"it failed: {brief(answer['error'])}")
        reason = difference(encoded(step["ok"]) if "ok" in step else {}, answer.get("ok") or {})
    if reason:
        raise Failed(f"{reason}; the answer is {brief(answer)}")


async def finish(world: World, step: Fields, future: asyncio.Future[Fields]) -> None:
    began = time.monotonic()
    answer = await asyncio.wait_for(asyncio.shield(future), step.get("within", WITHIN))
    took = time.monotonic() - began
    check(answer, step)
    if took < step.get("at_least", 0) or took > step.get("at_most", took):
        raise Failed(f"it took {took:.2f} s")
    # save = {variable = "field of the answer"}
    for variable, path in step.get("save", {}).items():
        world.variables[variable] = (answer.get("ok") or answer.get("error") or {})[path]


@verb
async def step_call(world: World, step: Fields) -> None:
    """`{call = "a", op = "publish", ..., ok = {...}}`: a request to the client `a`. With `later = "x"` the step does not wait,
    and `{answer = "x", ok = {...}}` waits."""
    fields = {key: value for key, value in step.items() if key not in OWN}
    client = world.client(step["call"])
    if step["op"] == "connect":
        fields = await world.connection(fields)
    future = client.adapter.send(step["op"], encoded(fields))
    if "later" in step:
        world.answers[step["later"]] = future
    else:
        await finish(world, step, future)


@verb
async def step_answer(world: World, step: Fields) -> None:
    """`{answer = "x", ok = {...}}` or `error`: the answer to a request that was sent before."""
    await finish(world, step, world.answers.pop(step["answer"]))


@verb
async def step_unanswered(world: World, step: Fields) -> None:
    """`{unanswered = "x"}`: the request has no answer yet."""
    future = world.answers[step["unanswered"]]
    if future.done():
        raise Failed(f"it has an answer: {brief(future.result())}")


@verb
async def step_refused(world: World, step: Fields) -> None:
    """`{refused = "a", token = "..."}`: with these fields `connect` fails, or the next call does: `op`, by default `get_room`."""
    adapter = world.client(step["refused"]).adapter
    fields = {key: value for key, value in step.items() if key not in ("refused", "op", "room")}
    answer = await asyncio.wait_for(adapter.send("connect", await world.connection(fields)), WITHIN)
    if "ok" in answer:
        call = adapter.send(step.get("op", "get_room"), {"room": step.get("room", "none")})
        answer = await asyncio.wait_for(call, WITHIN)
    error = answer.get("error")
    if error is None or error.get("code") in ("ADAPTER", "NOT_FOUND"):
        raise Failed(f"it was not refused: {brief(answer)}")


@verb
async def step_distinct(_: World, step: Fields) -> None:
    """`{distinct = ["$one", "$two"], at_least = 22}`: texts that differ, of at least so many characters."""
    texts = step["distinct"]
    if len(set(texts)) != len(texts) or any(len(text) < step["at_least"] for text in texts):
        raise Failed(f"they are {texts}")
