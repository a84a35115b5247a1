"""Drives the client for the conformance suite: requests on standard input, answers and events on standard output."""

import asyncio
import base64
import hashlib
import json
import platform
import sys
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import grpc

import unibus
from examples.encryption import seal, unseal
from unibus import Start

Fields = dict[str, Any]


def emit(line: Fields) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def text_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def nanoseconds(text: str) -> int:
    whole, _, fraction = text.removesuffix("Z").partition(".")
    return int(datetime.fromisoformat(whole + "+00:00").timestamp()) * 10**9 + int(fraction.ljust(9, "0"))


def time_of(ns: int) -> str:
    return f"{datetime.fromtimestamp(ns // 10**9, timezone.utc):%Y-%m-%dT%H:%M:%S}.{ns % 10**9:09}Z"


def start_of(fields: Fields | None) -> Start | None:
    match fields:
        case {"all": _}:
            return Start.all()
        case {"new": _}:
            return Start.new()
        case {"after_sequence": sequence}:
            return Start.after(int(sequence))
        case {"after_cursor": cursor}:
            return Start.after_cursor(cursor)
        case {"since": time}:
            return Start.since(nanoseconds(time))
        case {"last": count}:
            return Start.last(int(count))
    return None


def error_of(error: BaseException) -> Fields:
    base: Fields = {"reason": "", "class": "final", "outcome_unknown": False, "cancelled": False, "message": str(error)}
    base |= {"metadata": {}, "fields": []}
    if isinstance(error, unibus.UnibusError):
        known = {"code": error.code.name, "reason": error.reason, "class": error.outcome.value, "message": error.message}
        return (
            base
            | known
            | {
                "outcome_unknown": error.outcome_unknown,
                "metadata": error.metadata | ({"message_id": error.message_id} if error.message_id else {}),
                "fields": list(error.fields),
            }
        )
    if isinstance(error, asyncio.CancelledError):
        return base | {"code": "CANCELLED", "cancelled": True}
    if isinstance(error, HandlerError):
        return base | {"code": "HANDLER"}
    return base | {"code": "INVALID_ARGUMENT" if isinstance(error, ValueError) else "ADAPTER", "message": repr(error)}


class HandlerError(Exception):
    pass


def event_of(event: unibus.Event) -> Fields:
    match event:
        case unibus.Opened(position, resumed):
            return {"type": "opened", "position": str(position), "resumed": resumed}
        case unibus.CaughtUp(position):
            return {"type": "caught_up", "position": str(position)}
        case unibus.Gap(first, last, reason, dropped):
            return {"type": "gap", "from": str(first), "to": str(last), "reason": reason, "dropped": str(dropped)}
        case unibus.Moved(position):
            return {"type": "moved", "position": str(position)}
        case unibus.Disconnected(error, pause):
            return {"type": "disconnected", "error": error_of(error), "pause_ms": round(pause * 1000)}
    return {"type": "recreated"}


class Adapter:
    def __init__(self) -> None:
        self.client: unibus.Client
        self.publishers: dict[str, unibus.Publisher] = {}
        self.subscriptions: dict[str, tuple[unibus.Subscription, asyncio.Task[None]]] = {}

    async def hello(self, _: Fields) -> Fields:
        library = f"unibus-client {unibus.__version__}, grpcio {grpc.__version__}, protobuf {version('protobuf')}"
        return {"language": "python", "runtime": platform.python_version(), "library": library}

    async def connect(self, f: Fields) -> None:
        token = f.get("token")
        if path := f.get("token_file"):
            token = lambda: Path(path).read_text().strip()  # noqa: E731
        times = {name: f[key] / 1000 for name, key in TIMES.items() if key in f}
        files: Any = {"ca": f.get("ca"), "certificate": f.get("cert"), "private_key": f.get("key")}
        plaintext = f.get("plaintext_token", False)
        self.client = unibus.connect(f["address"], token=token, plaintext_token=plaintext, **files, **times)

    async def create_room(self, f: Fields) -> Fields:
        age, window = f.get("max_age_ms"), f.get("dedupe_window_ms")
        retention = unibus.Retention(
            max_messages=int(f["max_messages"]) if "max_messages" in f else None,
            max_age=None if age is None else timedelta(milliseconds=int(age)),
        )
        room = await self.client.create_room(
            f.get("room", ""),
            persist=f["persist"],
            dedupe_window=None if window is None else timedelta(milliseconds=int(window)),
            retention=retention if f["persist"] else None,
        )
        return {"room": room.id}

    async def get_room(self, f: Fields) -> Fields:
        info = await self.client.room(f["room"]).info()
        state = info.state or unibus.RoomState(0, 0, 0, 0)
        window = info.dedupe_window // timedelta(milliseconds=1)
        numbers = {"first_sequence": state.first_sequence, "last_sequence": state.last_sequence, "messages": state.messages}
        return {"persist": info.persist, "dedupe_window_ms": window} | {name: str(n) for name, n in numbers.items()}

    async def delete_room(self, f: Fields) -> None:
        await self.client.room(f["room"]).delete()

    async def purge_room(self, f: Fields) -> None:
        await self.client.room(f["room"]).purge(up_to=int(f["up_to"]) if "up_to" in f else None)

    async def delete_message(self, f: Fields) -> None:
        await self.client.room(f["room"]).delete_message(int(f["sequence"]))

    async def publish(self, f: Fields) -> Fields:
        expected = f.get("expected_last_sequence")
        return published(
            await self.client.room(f["room"]).publish(
                base64.b64decode(f["payload"]),
                headers=f.get("headers"),
                message_id=f.get("message_id", ""),
                expected_last_sequence=None if expected is None else int(expected),
                timeout=f["timeout_ms"] / 1000 if "timeout_ms" in f else None,
            )
        )

    async def publisher_open(self, f: Fields) -> None:
        window = {"max_unanswered": f["window"]} if "window" in f else {}
        self.publishers[f["publisher"]] = self.client.room(f["room"]).publisher(**window)

    async def publisher_send(self, f: Fields) -> Fields:
        payload = base64.b64decode(f["payload"])
        return published(await (await self.publishers[f["publisher"]].send(payload, message_id=f.get("message_id", ""))))

    async def publisher_flush(self, f: Fields) -> None:
        await self.publishers[f["publisher"]].flush()

    async def publisher_close(self, f: Fields) -> None:
        await self.publishers.pop(f["publisher"]).close()

    async def subscribe(self, f: Fields) -> None:
        name = f["sub"]
        subscription = self.client.room(f["room"]).subscribe(
            f.get("subscriber", ""),
            start=start_of(f.get("start")),
            until_caught_up=f.get("until_caught_up", False),
            on_event=lambda event: emit({"sub": name, "event": event_of(event)}),
            read_ahead=f.get("prefetch", 256),
        )
        self.subscriptions[name] = subscription, asyncio.create_task(consume(subscription, f))

    async def unsubscribe(self, f: Fields) -> None:
        subscription, task = self.subscriptions.pop(f["sub"])
        await subscription.close()
        await task

    async def cancel(self, f: Fields) -> None:
        self.subscriptions.pop(f["sub"])[1].cancel()

    async def history(self, f: Fields) -> Fields:
        backwards = f["direction"] == "backwards"
        place = {key.split("_")[0]: int(f[key]) for key in ("after_sequence", "before_sequence") if key in f}
        times = {key.split("_")[0]: nanoseconds(f[key]) for key in ("start_time", "end_time") if key in f}
        messages = self.client.room(f["room"]).history(
            **place, **times, backwards=backwards, page_size=f.get("page_size", 200)
        )
        digest, sequences = hashlib.sha256(), list[int]()
        async for message in messages:
            digest.update(f"{message.sequence}\n".encode() + message.payload)
            sequences.append(message.sequence)
            if len(sequences) == int(f.get("max", 0)):
                break
        ordered = sequences == sorted(set(sequences), reverse=backwards)
        ends = {"first": str(sequences[0]), "last": str(sequences[-1])} if sequences else {"first": "0", "last": "0"}
        return {"count": str(len(sequences)), "ordered": ordered, "digest": digest.hexdigest()} | ends

    async def add_member(self, f: Fields) -> None:
        await self.client.room(f["room"]).add_member(f["member"], unibus.Role[f["role"].upper()])

    async def remove_member(self, f: Fields) -> None:
        await self.client.room(f["room"]).remove_member(f["member"])

    async def list_members(self, f: Fields) -> Fields:
        found = [member async for member in self.client.room(f["room"]).members()]
        return {"members": [{"member": member.id, "role": member.role.name.lower()} for member in found]}

    async def seek(self, f: Fields) -> Fields:
        start = start_of(f["start"]) or Start.default()
        return {"position": str(await self.client.room(f["room"]).seek_subscriber(f["subscriber"], start))}

    async def list_subscribers(self, f: Fields) -> Fields:
        found = [one async for one in self.client.room(f["room"]).subscribers()]
        listed = [{"subscriber": s.name, "position": str(s.position), "lag": str(s.lag), "open": s.open} for s in found]
        return {"subscribers": listed}

    async def seal(self, f: Fields) -> Fields:
        payload = base64.b64decode(f["payload"])
        return {"sealed": text_of(seal(base64.b64decode(f["key"]), f["room"], f["sender"], payload))}

    async def open(self, f: Fields) -> Fields:
        sealed = base64.b64decode(f["sealed"])
        return {"payload": text_of(unseal(base64.b64decode(f["key"]), f["room"], f["sender"], sealed))}

    async def close(self, _: Fields) -> None:
        if hasattr(self, "client"):
            await self.client.close()


TIMES = {"attempt_timeout": "attempt_ms", "call_timeout": "total_ms"}
Operation = Callable[[Fields], Awaitable[Fields | None]]


def published(answer: unibus.Published) -> Fields:
    return {"sequence": str(answer.sequence), "duplicate": answer.duplicate, "message_id": answer.message_id}


async def consume(subscription: unibus.Subscription, f: Fields) -> None:
    async def handle(m: unibus.Message) -> None:
        message = {
            "sequence": str(m.sequence),
            "payload": text_of(m.payload),
            "headers": dict(m.headers),
            "cursor": m.cursor,
        }
        message |= {"message_id": m.message_id, "sender": m.sender, "published_at": time_of(m.published_at_ns)}
        emit({"sub": f["sub"], "message": message})
        if "handler_ms" in f:
            await asyncio.sleep(f["handler_ms"] / 1000)
        if str(m.sequence) == str(f.get("fail_at", "")):
            raise HandlerError("the handler fails")
        emit({"sub": f["sub"], "done": str(m.sequence)})

    try:
        if f.get("iterator"):
            async with subscription:
                async for message in subscription:
                    await handle(message)
        else:
            await subscription.run(handle, concurrency=f.get("concurrency", 1))
    except BaseException as error:
        emit({"sub": f["sub"], "ended": {"error": error_of(error)}})
    else:
        emit({"sub": f["sub"], "ended": {}})


async def answer(adapter: Adapter, request: Fields) -> None:
    try:
        operation: Operation = getattr(adapter, request["op"])
        emit({"id": request["id"], "ok": await operation(request) or {}})
    except BaseException as error:
        emit({"id": request["id"], "error": error_of(error)})


async def main() -> None:
    adapter, tasks, reader = Adapter(), set[asyncio.Task[None]](), asyncio.StreamReader(limit=2**26)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        task = asyncio.create_task(answer(adapter, json.loads(line)))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await adapter.close({})


asyncio.run(main())
