"""Drives the client for the conformance suite: requests on standard input, answers and events on standard output."""

import asyncio
import base64
import hashlib
import json
import platform
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import datetime, timedelta, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import unibus
from examples.encryption import seal, unseal
from unibus import Start

Fields = dict[str, Any]
client: unibus.Client
publishers: dict[str, unibus.Publisher] = {}
subscriptions: dict[str, tuple[unibus.Subscription, asyncio.Task[None]]] = {}


class HandlerError(Exception): ...


def emit(line: Fields) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def text_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def number(f: Fields, key: str) -> int | None:
    return int(f[key]) if key in f else None


def span(f: Fields, key: str) -> timedelta | None:
    return timedelta(milliseconds=int(f[key])) if key in f else None


def nanoseconds(text: str) -> int:
    whole, _, fraction = text.removesuffix("Z").partition(".")
    return int(datetime.fromisoformat(whole + "+00:00").timestamp()) * 10**9 + int(fraction.ljust(9, "0"))


def time_of(ns: int) -> str:
    return f"{datetime.fromtimestamp(ns // 10**9, timezone.utc):%Y-%m-%dT%H:%M:%S}.{ns % 10**9:09}Z"


STARTS: dict[str, Callable[[Any], Start]] = {
    "all": lambda _: Start.all(),
    "new": lambda _: Start.new(),
    "after_sequence": lambda value: Start.after(int(value)),
    "after_cursor": Start.after_cursor,
    "since": lambda value: Start.since(nanoseconds(value)),
    "last": lambda value: Start.last(int(value)),
}


def start_of(f: Fields) -> Start | None:
    return next((STARTS[key](value) for key, value in f.get("start", {}).items()), None)


def error_of(error: BaseException) -> Fields:
    base = {"reason": "", "class": "final", "outcome_unknown": False, "metadata": {}, "fields": [], "message": repr(error)}
    base["cancelled"] = isinstance(error, asyncio.CancelledError)
    if isinstance(error, unibus.UnibusError):
        given = {name: getattr(error, name) for name in ("reason", "outcome_unknown", "metadata", "fields", "message")}
        return base | given | {"code": error.code.name, "class": error.outcome.value, "message_id": error.message_id}
    codes = {HandlerError: "HANDLER", ValueError: "INVALID_ARGUMENT", asyncio.CancelledError: "CANCELLED"}
    return base | {"code": codes.get(type(error), "ADAPTER")}


def event_of(event: unibus.Event) -> Fields:
    match event:
        case unibus.Gap(first, last, reason, dropped):
            return {"type": "gap", "from": str(first), "to": str(last), "reason": reason, "dropped": str(dropped)}
        case unibus.Disconnected(error, pause):
            return {"type": "disconnected", "error": error_of(error), "pause_ms": round(pause * 1000)}
    name = type(event).__name__.replace("CaughtUp", "caught_up").lower()
    return {"type": name} | {key: str(value) if key == "position" else value for key, value in asdict(event).items()}


def published(answer: unibus.Published) -> Fields:
    return {"sequence": str(answer.sequence), "duplicate": answer.duplicate, "message_id": answer.message_id}


async def connect(f: Fields) -> None:
    global client  # noqa: PLW0603
    options = {
        name: f[key] / 1000 for name, key in (("attempt_timeout", "attempt_ms"), ("call_timeout", "total_ms")) if key in f
    }
    options |= {name: f[key] for name, key in (("ca", "ca"), ("certificate", "cert"), ("private_key", "key")) if key in f}
    token = (lambda: Path(f["token_file"]).read_text().strip()) if "token_file" in f else f.get("token")
    client = unibus.connect(f["address"], token=token, plaintext_token=f.get("plaintext_token", False), **options)


async def create_room(f: Fields) -> Fields:
    retention = unibus.Retention(max_messages=number(f, "max_messages"), max_age=span(f, "max_age_ms"))
    settings: Fields = {"dedupe_window": span(f, "dedupe_window_ms"), "retention": retention if f["persist"] else None}
    return {"room": (await client.create_room(f.get("room", ""), persist=f["persist"], **settings)).id}


async def get_room(room: unibus.Room, _: Fields) -> Fields:
    info = await room.info()
    state = info.state or unibus.RoomState(0, 0, 0, 0)
    numbers = {name: str(getattr(state, name)) for name in ("first_sequence", "last_sequence", "messages")}
    return {"persist": info.persist, "dedupe_window_ms": info.dedupe_window // timedelta(milliseconds=1)} | numbers


async def publish(room: unibus.Room, f: Fields) -> Fields:
    options: Fields = {name: f[name] for name in ("headers", "message_id") if name in f}
    options |= {"timeout": f["timeout_ms"] / 1000} if "timeout_ms" in f else {}
    expected = number(f, "expected_last_sequence")
    return published(await room.publish(base64.b64decode(f["payload"]), expected_last_sequence=expected, **options))


async def publisher_open(room: unibus.Room, f: Fields) -> None:
    publishers[f["publisher"]] = room.publisher(max_unanswered=f.get("window", 1024))


async def publisher_send(f: Fields) -> Fields:
    answer = await publishers[f["publisher"]].send(base64.b64decode(f["payload"]), message_id=f.get("message_id", ""))
    return published(await answer)


async def subscribe(room: unibus.Room, f: Fields) -> None:
    subscription = room.subscribe(
        f.get("subscriber", ""),
        start=start_of(f),
        until_caught_up=f.get("until_caught_up", False),
        on_event=lambda event: emit({"sub": f["sub"], "event": event_of(event)}),
        read_ahead=f.get("prefetch", 256),
    )
    subscriptions[f["sub"]] = subscription, asyncio.create_task(consume(subscription, f))


async def consume(subscription: unibus.Subscription, f: Fields) -> None:
    async def handle(m: unibus.Message) -> None:
        message = asdict(m) | {"sequence": str(m.sequence), "payload": text_of(m.payload)}
        message["published_at"] = time_of(message.pop("published_at_ns"))
        emit({"sub": f["sub"], "message": message})
        await asyncio.sleep(f.get("handler_ms", 0) / 1000)
        if str(m.sequence) == str(f.get("fail_at", "")):
            raise HandlerError
        emit({"sub": f["sub"], "done": str(m.sequence)})

    try:
        if f.get("iterator"):
            async with subscription:
                async for message in subscription:
                    await handle(message)
        else:
            await subscription.run(handle, concurrency=f.get("concurrency", 1))
        emit({"sub": f["sub"], "ended": {}})
    except BaseException as error:
        emit({"sub": f["sub"], "ended": {"error": error_of(error)}})


async def unsubscribe(f: Fields) -> None:
    subscription, task = subscriptions.pop(f["sub"])
    await subscription.close()
    await task


async def cancel(f: Fields) -> None:
    subscriptions.pop(f["sub"])[1].cancel()


async def history(room: unibus.Room, f: Fields) -> Fields:
    backwards = f["direction"] == "backwards"
    place = {key.split("_")[0]: int(f[key]) for key in ("after_sequence", "before_sequence") if key in f}
    place |= {key.split("_")[0]: nanoseconds(f[key]) for key in ("start_time", "end_time") if key in f}
    digest, sequences = hashlib.sha256(), list[int]()
    async for message in room.history(**place, backwards=backwards, page_size=f.get("page_size", 200)):
        digest.update(f"{message.sequence}\n".encode() + message.payload)
        sequences.append(message.sequence)
        if len(sequences) == number(f, "max"):
            break
    ordered = sequences == sorted(set(sequences), reverse=backwards)
    first, last = (str(sequences[0]), str(sequences[-1])) if sequences else ("0", "0")
    return {"count": str(len(sequences)), "first": first, "last": last, "ordered": ordered, "digest": digest.hexdigest()}


async def list_members(room: unibus.Room, _: Fields) -> Fields:
    return {"members": [{"member": member.id, "role": member.role.name.lower()} async for member in room.members()]}


async def list_subscribers(room: unibus.Room, _: Fields) -> Fields:
    found = [asdict(one) async for one in room.subscribers()]
    return {
        "subscribers": [
            one | {"subscriber": one["name"], "position": str(one["position"]), "lag": str(one["lag"])} for one in found
        ]
    }


async def seek(room: unibus.Room, f: Fields) -> Fields:
    return {"position": str(await room.seek_subscriber(f["subscriber"], start_of(f) or Start.all()))}


async def hello(_: Fields) -> Fields:
    return {"language": "python", "runtime": platform.python_version(), "library": f"grpcio {version('grpcio')}"}


async def sealing(f: Fields) -> Fields:
    if f["op"] == "seal":
        return {"sealed": text_of(seal(base64.b64decode(f["key"]), f["room"], f["sender"], base64.b64decode(f["payload"])))}
    return {"payload": text_of(unseal(base64.b64decode(f["key"]), f["room"], f["sender"], base64.b64decode(f["sealed"])))}


ROOM_CALLS: dict[str, Callable[[unibus.Room, Fields], Awaitable[object]]] = {
    "get_room": get_room,
    "delete_room": lambda room, _: room.delete(),
    "purge_room": lambda room, f: room.purge(**({"up_to": int(f["up_to"])} if "up_to" in f else {})),
    "delete_message": lambda room, f: room.delete_message(int(f["sequence"])),
    "publish": publish,
    "publisher_open": publisher_open,
    "subscribe": subscribe,
    "history": history,
    "add_member": lambda room, f: room.add_member(f["member"], unibus.Role[f["role"].upper()]),
    "remove_member": lambda room, f: room.remove_member(f["member"]),
    "list_members": list_members,
    "list_subscribers": list_subscribers,
    "seek": seek,
}
CALLS: dict[str, Callable[[Fields], Awaitable[object]]] = {
    "hello": hello,
    "connect": connect,
    "create_room": create_room,
    "publisher_send": publisher_send,
    "publisher_flush": lambda f: publishers[f["publisher"]].flush(),
    "publisher_close": lambda f: publishers.pop(f["publisher"]).close(),
    "unsubscribe": unsubscribe,
    "cancel": cancel,
    "seal": sealing,
    "open": sealing,
    "close": lambda _: client.close(),
}


async def answer(f: Fields) -> None:
    try:
        name = f["op"]
        ok = await (ROOM_CALLS[name](client.room(f["room"]), f) if name in ROOM_CALLS else CALLS[name](f))
        emit({"id": f["id"], "ok": ok if isinstance(ok, dict) else {}})
    except BaseException as error:
        emit({"id": f["id"], "error": error_of(error)})


async def main() -> None:
    tasks, reader = set[asyncio.Task[None]](), asyncio.StreamReader(limit=2**26)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        task = asyncio.create_task(answer(json.loads(line)))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    if "client" in globals():
        await client.close()


asyncio.run(main())
