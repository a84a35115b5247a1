"""Many messages: by a client, and directly."""

import asyncio
import base64

from ..matching import Failed, Fields, brief, pattern
from ..world import Feed, World
from .verbs import WITHIN, verb

BATCH = 500
BATCH_BYTES = 4_000_000


def text(payload: str) -> str:
    return base64.b64encode(payload.encode()).decode()


@verb
async def step_feed(world: World, step: Fields) -> None:
    """`{feed = "f", by = "a", publisher = "p", messages = 100}`: the client `a` sends the payloads `f-1`, `f-2`, ... without
    waiting for their answers. With `per_second` it sends in the background, and without `messages` until `{fed = "f"}`."""
    feed = world.feeds[step["feed"]] = Feed(step["feed"])
    adapter = world.client(step["by"]).adapter
    pause = 1 / step["per_second"] if "per_second" in step else 0.0

    async def send() -> None:
        while not feed.stopped and len(feed.answers) < step.get("messages", 1_000_000):
            payload = text(feed.payload(len(feed.answers) + 1))
            feed.answers.append(adapter.send("publisher_send", {"publisher": step["publisher"], "payload": payload}))
            await asyncio.sleep(pause)

    if pause:
        world.tasks[f"feed {feed.name}"] = asyncio.create_task(send())
    else:
        await send()


@verb
async def step_fed(world: World, step: Fields) -> None:
    """`{fed = "f"}`: stops a feed, and waits until every message is answered with success. `answered = true` only looks."""
    feed = world.feeds[step["fed"]]
    if not step.get("goes_on"):
        feed.stopped = True
    waiting = [answer for answer in feed.answers if not answer.done()]
    if step.get("answered") and waiting:
        raise Failed(f"{len(waiting)} of {len(feed.answers)} messages are not answered")
    if waiting:
        _, late = await asyncio.wait(waiting, timeout=step.get("within", WITHIN))
        if late:
            raise Failed(f"{len(late)} of {len(feed.answers)} messages were not answered")
    failed = [(i, answer.result()) for i, answer in enumerate(feed.answers, 1) if "error" in answer.result()]
    if failed and not step.get("may_fail"):
        raise Failed(f"{len(failed)} of {len(feed.answers)} messages failed; the first: {brief(failed[0])}")
    if len(feed.answers) < step.get("at_least", 1):
        raise Failed(f"only {len(feed.answers)} messages were sent")
    world.variables[feed.name] = str(len(feed.answers))


@verb
async def step_stored(world: World, step: Fields) -> None:
    """`{stored = "f", room = "r"}`: the room holds exactly the messages of the feed, each once, under the sequences
    of their answers, and in their order unless `any_order` is set."""
    feed = world.feeds[step["stored"]]
    messages = await world.direct.messages(step["room"])
    seen = [(base64.b64decode(message["payload"]).decode(), message["sequence"]) for message in messages]
    numbers = range(1, len(feed.answers) + 1)
    answers = [answer.result()["ok"]["sequence"] for answer in feed.answers]
    expected = list(zip((feed.payload(i) for i in numbers), answers, strict=True))
    if seen == expected or (step.get("any_order") and sorted(seen) == sorted(expected)):
        return
    names = [payload for payload, _ in seen]
    wrong = {
        "lost": [feed.payload(i) for i in numbers if feed.payload(i) not in set(names)],
        "twice": sorted({name for name in names if names.count(name) > 1}) if len(names) < 20_000 else [],
        "first difference": next((pair for pair in zip(seen, expected, strict=False) if pair[0] != pair[1]), None),
    }
    raise Failed(f"{len(seen)} messages are stored, {len(expected)} were sent: {brief(wrong)}")


@verb
async def step_fill(world: World, step: Fields) -> None:
    """`{fill = "r", messages = 100}`: publishes `m-1`, `m-2`, ... by stubs. `size` gives all of them one payload of this size,
    `from` is the first number."""
    first = step.get("from", 1)
    if step.get("size", 0) > BATCH_BYTES:
        request = {"room_id": step["fill"], "payload": base64.b64encode(pattern(step["size"])).decode()}
        for _ in range(step["messages"]):
            await world.direct.call("Publish", request)
        return
    numbers = range(first, first + step["messages"])
    same = base64.b64encode(pattern(step["size"])).decode() if "size" in step else None
    batch = max(1, min(BATCH, BATCH_BYTES // step.get("size", 1)))
    messages = [{"payload": same or text(f"m-{number}")} for number in numbers]
    for begin in range(0, len(messages), batch):
        part = messages[begin : begin + batch]
        answer = await world.direct.call("PublishBatch", {"room_id": step["fill"], "messages": part})
        if failed := [result["error"] for result in answer["results"] if "error" in result]:
            raise Failed(f"{len(failed)} messages were refused: {brief(failed[0])}")
