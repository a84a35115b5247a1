"""Calls of the contract without a client."""

from ..matching import Failed, Fields, brief, difference
from ..stubs import Requests
from ..world import World
from .calls import check
from .verbs import WITHIN, verb


@verb
async def step_stub(world: World, step: Fields) -> None:
    """`{stub = "CreateRoom", request = {...}, ok = {...}}` or `error`: one call. `save = {variable = "path.in.the.response"}`."""
    answer = await world.direct.answer(step["stub"], step.get("request", {}), step.get("within", WITHIN), step.get("token"))
    if "error" in step:
        check(answer, step)
        return
    if "error" in answer:
        raise Failed(f"it failed: {brief(answer['error'])}")
    if reason := difference(step.get("ok", {}), answer["ok"]):
        raise Failed(f"{reason}; the response is {brief(answer['ok'])}")
    for variable, path in step.get("save", {}).items():
        world.variables[variable] = at(answer["ok"], path)


def at(value: object, path: str) -> object:
    for part in path.split("."):
        value = value[int(part)] if isinstance(value, list) else value[part]  # type: ignore[index]
    return value


@verb
async def step_open(world: World, step: Fields) -> None:
    """`{open = "c", rpc = "Consume"}`: opens a call whose responses are a stream. `request` is the request of a call with one;
    otherwise `{send = "c", request = {...}}` sends requests."""
    requests = step.get("request") if "request" in step else Requests()
    assert requests is not None
    world.calls[step["open"]] = world.direct.open(step["rpc"], requests, step.get("token"))


@verb
async def step_send(world: World, step: Fields) -> None:
    requests = world.calls[step["send"]].requests
    if requests is None:
        raise Failed("the call has one request")
    for _ in range(step.get("times", 1)):
        requests.queue.put_nowait(step["request"])


@verb
async def step_half_close(world: World, step: Fields) -> None:
    """`{half_close = "c"}`: no further request follows."""
    requests = world.calls[step["half_close"]].requests
    if requests is None:
        raise Failed("the call has one request")
    requests.queue.put_nowait(None)


@verb
async def step_frame(world: World, step: Fields) -> None:
    """`{frame = "c", is = {opened = {position = "0"}}}`: the next response. Heartbeats are skipped, unless they are expected.
    `save` as for `stub`."""
    call = world.calls[step["frame"]]
    while True:
        frame = await call.frame(step.get("within", WITHIN))
        if frame is None:
            raise Failed(f"the stream has ended: {brief(await call.status(1))}")
        inner = frame.get("consume", frame)
        if "heartbeat" not in inner or "heartbeat" in step["is"]:
            break
    if reason := difference(step["is"], frame):
        raise Failed(f"{reason}; the frame is {brief(frame)}")
    for variable, path in step.get("save", {}).items():
        world.variables[variable] = at(frame, path)


@verb
async def step_status(world: World, step: Fields) -> None:
    """`{status = "c", is = {code = "OK"}}`: how the stream ends."""
    status = await world.calls[step["status"]].status(step.get("within", WITHIN))
    if reason := difference(step["is"], status):
        raise Failed(f"{reason}; it is {brief(status)}")


@verb
async def step_cancel(world: World, step: Fields) -> None:
    world.calls[step["cancel"]].cancel()
