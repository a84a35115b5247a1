"""Calls of the contract by generated stubs, with requests and responses as JSON."""

import asyncio
import importlib
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from google.protobuf import json_format
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from .matching import Failed, Fields
from .scenario import ROOT

RECEIVE_BYTES_MAX = 32 * 1024 * 1024
OPTIONS = [("grpc.max_receive_message_length", RECEIVE_BYTES_MAX), ("grpc.use_local_subchannel_pool", 1)]


def generate(folder: Path) -> None:
    """Generates the stubs, unless they are newer than the contract, and makes them importable."""
    sources = sorted((ROOT / "proto" / "unibus" / "v1").glob("*.proto"))
    made = folder / "unibus" / "v1" / "room_service_pb2_grpc.py"
    if not made.exists() or made.stat().st_mtime < max(source.stat().st_mtime for source in sources):
        folder.mkdir(parents=True, exist_ok=True)
        outputs = [f"--{kind}_out={folder}" for kind in ("python", "grpc_python")]
        names = [str(source.relative_to(ROOT / "proto")) for source in sources]
        command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'proto'}", *outputs, *names]
        subprocess.run(command, check=True, cwd=ROOT)
    sys.path.insert(0, str(folder))


def module(name: str) -> Any:
    return importlib.import_module(f"unibus.v1.{name}_pb2")


@dataclass
class Rpc:
    """A method of the contract."""

    name: str
    request: type[Message]
    response: type[Message]
    streams_requests: bool
    streams_responses: bool


def rpc(name: str) -> Rpc:
    service = module("room_service").DESCRIPTOR.services_by_name["RoomService"]
    method = service.methods_by_name.get(name)
    if method is None:
        raise Failed(f"the contract has no RPC {name}")
    messages = [getattr(module("room_service"), kind.name) for kind in (method.input_type, method.output_type)]
    return Rpc(name, messages[0], messages[1], method.client_streaming, method.server_streaming)


def to_json(message: Message) -> Fields:
    """64-bit numbers become strings, and fields have the names of the contract."""
    return json_format.MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def error_of(code: str, message: str, status: status_pb2.Status | None) -> Fields:
    """A failed call or an error inside a stream, in the form that the adapters use."""
    error: Fields = {"code": code, "message": message, "reason": "", "metadata": {}, "fields": [], "retry_ms": None}
    for detail in status.details if status else []:
        info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            error |= {"reason": info.reason, "domain": info.domain, "metadata": dict(info.metadata)}
        elif detail.Unpack(bad):
            error["fields"] = [violation.field for violation in bad.field_violations]
        elif detail.Unpack(retry):
            error["retry_ms"] = retry.retry_delay.ToMilliseconds()
    return error


def details_in(trailing: Fields) -> status_pb2.Status | None:
    details = trailing.get("grpc-status-details-bin")
    return status_pb2.Status.FromString(details) if isinstance(details, bytes) else None


def error_of_call(failed: grpc.aio.AioRpcError) -> Fields:
    trailing = dict(failed.trailing_metadata() or ())
    return error_of(failed.code().name, failed.details() or "", details_in(trailing))


class Stubs:
    """One channel to the service."""

    def __init__(self, address: str, token: str | None = None) -> None:
        self.channel = grpc.aio.insecure_channel(address, OPTIONS)
        self.metadata = [("authorization", f"Bearer {token}")] if token else []

    def method(self, called: Rpc) -> Any:
        kinds = ("stream" if called.streams_requests else "unary", "stream" if called.streams_responses else "unary")
        make = getattr(self.channel, "_".join(kinds))
        return make(
            f"/unibus.v1.RoomService/{called.name}",
            request_serializer=called.request.SerializeToString,
            response_deserializer=called.response.FromString,
        )

    async def answer(self, name: str, request: Fields, seconds: float = 20, token: str | None = None) -> Fields:
        """`{"ok": ...}` or `{"error": ...}`."""
        called = rpc(name)
        message = json_format.ParseDict(request, called.request())
        metadata = [("authorization", f"Bearer {token}")] if token else self.metadata
        try:
            response = await self.method(called)(message, timeout=seconds, metadata=metadata)
        except grpc.aio.AioRpcError as failed:
            return {"error": error_of_call(failed)}
        return {"ok": to_json(response)}

    async def call(self, name: str, request: Fields) -> Fields:
        """The response. The call is made again while the service is on its way back."""
        for _ in range(40):
            answer = await self.answer(name, request)
            if "ok" in answer:
                return dict(answer["ok"])
            if answer["error"]["code"] not in ("UNAVAILABLE", "DEADLINE_EXCEEDED"):
                break
            await asyncio.sleep(0.25)
        raise Failed(f"{name} failed: {answer['error']}")

    def open(self, name: str, requests: "Requests | Fields", token: str | None = None) -> "OpenCall":
        called = rpc(name)
        metadata = [("authorization", f"Bearer {token}")] if token else self.metadata
        if isinstance(requests, Requests):
            requests.kind = called.request
            return OpenCall(self.method(called)(requests.sent(), metadata=metadata), requests)
        message = json_format.ParseDict(requests, called.request())
        return OpenCall(self.method(called)(message, metadata=metadata), None)

    async def messages(self, room: str) -> list[Fields]:
        """All stored messages."""
        found: list[Fields] = []
        after = "0"
        while True:
            page = await self.call("History", {"room_id": room, "limit": 1000, "after_sequence": after})
            found += page["messages"]
            if not page["messages"] or not page["has_newer"]:
                return found
            after = page["messages"][-1]["sequence"]

    async def close(self) -> None:
        await self.channel.close(None)


class Requests:
    """The requests of an open call."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[Fields | None] = asyncio.Queue()
        self.kind: type[Message] = Message

    async def sent(self) -> AsyncIterator[Message]:
        while (request := await self.queue.get()) is not None:
            yield json_format.ParseDict(request, self.kind())


class OpenCall:
    """An open call whose responses are a stream."""

    def __init__(self, call: Any, requests: Requests | None) -> None:
        self.call = call
        self.requests = requests

    async def frame(self, seconds: float) -> Fields | None:
        """The next response, or None at the end."""
        try:
            read = await asyncio.wait_for(self.call.read(), seconds)
        except grpc.aio.AioRpcError:
            return None
        return to_json(read) if isinstance(read, Message) else None

    async def status(self, seconds: float) -> Fields:
        """How the stream ends, in the form of an error. Frames before the end are skipped."""
        async with asyncio.timeout(seconds):
            while await self.frame(seconds) is not None:
                pass
            code, message = await self.call.code(), await self.call.details()
            trailing = dict(await self.call.trailing_metadata() or ())
        return error_of(code.name, message or "", details_in(trailing))

    def cancel(self) -> None:
        self.call.cancel()
