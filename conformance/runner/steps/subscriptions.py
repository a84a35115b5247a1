"""What subscriptions report."""

import asyncio
import base64
import datetime
import hashlib
import itertools
import time
from typing import Any

from ..adapter import Line, SubscriptionLog
from ..matching import Failed, Fields, brief, difference, encoded
from ..world import World
from .verbs import WITHIN, until, verb

KINDS = ("message", "event", "ended", "done")


def expected_of(step: Fields) -> tuple[str, Any]:
    kind = next((kind for kind in KINDS if kind in step), None)
    if kind is None:
        raise Failed(f"the step needs one of {KINDS}")
    return kind, encoded(step[kind]) if kind == "message" else step[kind]


def matching_lines(world: World, log: SubscriptionLog, step: Fields) -> list[Line]:
    kind, expected = expected_of(step)
    since = world.marks[step.get("since", "begin")]
    return [
        line
        for line in log.lines
        if line.at >= since and kind in line.content and difference(expected, line.content[kind]) is None
    ]


def reported(log: SubscriptionLog) -> str:
    """The last lines, without messages that repeat."""
    shown = [line.content for line in log.lines if "event" in line.content or "ended" in line.content][-6:]
    handled = log.all("done")
    return f"{len(log.sequences())} messages, {len(handled)} handled, {brief(shown)}"


@verb
async def step_see(world: World, step: Fields) -> None:
    """`{see = "s", event = {type = "gap"}}`, or `message`, `done`, `ended`, or the number of `messages` or `handled` ones:
    waits until the subscription has reported it. `since = "x"`: after the mark `x`."""
    log, end = world.log_of(step["see"]), time.monotonic() + step.get("within", WITHIN)
    while True:
        grew = log.grew
        if "messages" in step or "handled" in step:
            begun, handled = len(log.sequences()), len(log.all("done"))
            if begun >= int(step.get("messages", 0)) and handled >= int(step.get("handled", 0)):
                return
        elif matching_lines(world, log, step):
            return
        try:
            await asyncio.wait_for(grew.wait(), end - time.monotonic())
        except TimeoutError:
            raise Failed(f"it was not reported in {step.get('within', WITHIN)} s; reported: {reported(log)}") from None


@verb
async def step_never(world: World, step: Fields) -> None:
    """`{never = "s", event = {...}, during = 2}`: the subscription has not reported it, and does not in the next seconds."""
    await asyncio.sleep(step.get("during", 0))
    log = world.log_of(step["never"])
    if found := matching_lines(world, log, step):
        raise Failed(f"it was reported: {brief(found[0].content)}; all: {reported(log)}")


@verb
async def step_count(world: World, step: Fields) -> None:
    """`{count = ["s", "t"], event = {...}, exactly = 2}`, or `at_most`: how often subscriptions reported it."""
    names = [step["count"]] if isinstance(step["count"], str) else step["count"]
    found = sum(len(matching_lines(world, world.log_of(name), step)) for name in names)
    if found != step.get("exactly", found) or found > step.get("at_most", found) or found < step.get("at_least", 0):
        raise Failed(f"it was reported {found} times")


def span(text: str) -> list[int]:
    """The numbers of "1..5, 8"."""
    numbers: list[int] = []
    for part in text.split(","):
        first, _, last = part.strip().partition("..")
        numbers += range(int(first), int(last or first) + 1)
    return numbers


@verb
async def step_delivered(world: World, step: Fields) -> None:
    """`{delivered = "s", exactly = "1..100"}`: each of these sequences came once, in this order, and nothing else did. With
    `swapped = 3`, for handlers that run at once, a message may come up to three places early or late. Several subscriptions:
    together they got each at least once, and each of them in order."""
    names = [step["delivered"]] if isinstance(step["delivered"], str) else step["delivered"]
    expected = span(step["exactly"])
    logs = [world.log_of(name) for name in names]
    if len(logs) == 1:
        seen = logs[0].sequences()
        if "swapped" in step and all(abs(one - other) <= step["swapped"] for one, other in zip(seen, expected, strict=False)):
            seen.sort()
        if seen != expected:
            wrong = [pair for pair in zip(seen, expected, strict=False) if pair[0] != pair[1]][:3]
            lost, extra = sorted(set(expected) - set(seen))[:10], sorted(set(seen) - set(expected))[:10]
            twice = len(seen) - len(set(seen))
            raise Failed(f"{len(seen)} came, lost {lost}, {twice} twice, extra {extra}, first differences {wrong}")
        return
    if any(log.sequences() != sorted(set(log.sequences())) for log in logs):
        raise Failed("a subscription was out of order, or had a message twice")
    together = {sequence for log in logs for sequence in log.sequences()}
    if together != set(expected):
        lost, extra = sorted(set(expected) - together)[:10], sorted(together - set(expected))[:10]
        raise Failed(f"together they lost {lost} and have {extra} in addition")


@verb
async def step_ascending(world: World, step: Fields) -> None:
    """`{ascending = "s"}`: each message came with a greater sequence than the one before it."""
    sequences = world.log_of(step["ascending"]).sequences()
    if sequences != sorted(set(sequences)):
        raise Failed(f"out of order or twice: {next(p for p in itertools.pairwise(sequences) if p[0] >= p[1])}")


@verb
async def step_payloads(world: World, step: Fields) -> None:
    """`{payloads = "s", of = "f"}`: the subscription got exactly the messages of the feed, each once, and in their order
    unless `any_order` is set."""
    feed = world.feeds[step["of"]]
    messages = world.log_of(step["payloads"]).all("message")
    seen = [base64.b64decode(message["payload"]).decode() for message in messages if isinstance(message, dict)]
    expected = [feed.payload(number) for number in range(1, len(feed.answers) + 1)]
    if seen != expected and not (step.get("any_order") and sorted(seen) == sorted(expected)):
        lost = [payload for payload in expected if payload not in set(seen)][:5]
        first = next((pair for pair in zip(seen, expected, strict=False) if pair[0] != pair[1]), None)
        raise Failed(f"{len(seen)} of {len(expected)} came, lost {lost}, first difference {first}")


def concurrency(log: SubscriptionLog) -> int:
    running = most = 0
    for line in log.lines:
        running += ("message" in line.content) - ("done" in line.content)
        most = max(most, running)
    return most


@verb
async def step_concurrency(world: World, step: Fields) -> None:
    """`{concurrency = "s", exactly = 4}`: at most, and at times, so many handlers ran at once."""
    most = concurrency(world.log_of(step["concurrency"]))
    if most != step["exactly"]:
        raise Failed(f"{most} handlers ran at once")


@verb
async def step_before(world: World, step: Fields) -> None:
    """`{before = "s", first = {message = {...}}, then = {event = {...}}}`: the subscription reported the one before the other."""
    log = world.log_of(step["before"])
    first, second = (matching_lines(world, log, step[name]) for name in ("first", "then"))
    if not first or not second or first[0].at > second[0].at:
        raise Failed(f"it reported them otherwise: {reported(log)}")


@verb
async def step_cancelled(world: World, step: Fields) -> None:
    """`{cancelled = "s"}`: the subscription ended by a cancel: without an error, or with one that says so."""
    ends = world.log_of(step["cancelled"]).all("ended")
    errors = [end.get("error") for end in ends if isinstance(end, dict)]
    if len(errors) != 1 or (errors[0] and not errors[0].get("cancelled")):
        raise Failed(f"it ended with {brief(ends)}")


@verb
async def step_same_times(world: World, step: Fields) -> None:
    """`{same_times = "s", room = "r"}`: the subscription got `published_at` with all digits that the service has."""
    stored = {one["sequence"]: nanoseconds(one["published_at"]) for one in await world.direct.messages(step["room"])}
    for message in world.log_of(step["same_times"]).all("message"):
        if isinstance(message, dict) and stored[message["sequence"]] != nanoseconds(message["published_at"]):
            raise Failed(f"message {message['sequence']} has {message['published_at']}, not {stored[message['sequence']]} ns")


def nanoseconds(text: str) -> int:
    """Since 1970, of a time in UTC as RFC 3339 has it."""
    whole, _, fraction = text.removesuffix("Z").removesuffix("+00:00").partition(".")
    seconds = datetime.datetime.fromisoformat(whole).replace(tzinfo=datetime.UTC).timestamp()
    return int(seconds) * 1_000_000_000 + int(fraction.ljust(9, "0") or 0)


async def position_of(world: World, room: str, subscriber: str) -> int | None:
    listed = (await world.direct.call("ListSubscribers", {"room_id": room}))["subscribers"]
    found = [one for one in listed if one["subscriber"] == subscriber]
    return int(found[0]["position"]) if found else None


@verb
async def step_position(world: World, step: Fields) -> None:
    """`{position = "5", room = "r", subscriber = "s", within = 2}`: the position that the service keeps. `during = 2`: it is
    this one now, and stays so."""
    room, subscriber, expected = step["room"], step["subscriber"], step["position"]

    async def wrong() -> str | None:
        return difference(str(expected), await position_of(world, room, subscriber), "the position")

    await until(wrong, step.get("within", 0))
    end = time.monotonic() + step.get("during", 0)
    while time.monotonic() < end:
        if reason := await wrong():
            raise Failed(reason)
        await asyncio.sleep(0.1)


@verb
async def step_watermark(world: World, step: Fields) -> None:
    """`{watermark = "s", room = "r", subscriber = "x", until = 50}`: until the handlers of so many messages have returned, the
    position never passes a message whose handler has not returned."""
    log = world.log_of(step["watermark"])
    end = time.monotonic() + step.get("within", WITHIN)
    checked = 0
    while len(log.all("done")) < step["until"]:
        if time.monotonic() > end:
            raise Failed(f"only {len(log.all('done'))} were handled")
        position = await position_of(world, step["room"], step["subscriber"]) or 0
        # a line of the adapter may come after the acknowledgement that it allowed
        await asyncio.sleep(0.1)
        done = {int(str(sequence)) for sequence in log.all("done")}
        unfinished = [sequence for sequence in range(1, position + 1) if sequence not in done]
        if unfinished:
            raise Failed(f"the position is {position} while the handler of {unfinished[0]} runs")
        checked += position > 0
    if not checked:
        raise Failed("the position did not move")


def digest(messages: list[Fields]) -> str:
    """What an adapter's `history` says for these messages."""
    whole = hashlib.sha256()
    for message in messages:
        whole.update(f"{message['sequence']}\n".encode() + base64.b64decode(message["payload"]))
    return whole.hexdigest()


@verb
async def step_digests(world: World, step: Fields) -> None:
    """`{digests = "r"}`: sets the variables `forwards` and `backwards` to the digests of the room's messages."""
    messages = await world.direct.messages(step["digests"])
    world.variables |= {"forwards": digest(messages), "backwards": digest(messages[::-1])}
