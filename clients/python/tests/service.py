"""A service for tests, which answers with what a test scripts."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

import unibus
from unibus.v1 import message_pb2, room_pb2, subscription_pb2
from unibus.v1 import room_service_pb2 as pb
from unibus.v1.room_service_pb2_grpc import RoomServiceServicer, add_RoomServiceServicer_to_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

Context = grpc.aio.ServicerContext[Any, Any]
Servicer: Any = RoomServiceServicer  # its types want every call to be there


class Service(Servicer):  # type: ignore[misc]
    """A persisted room whose subscriptions have three messages. `commands` are those of all subscriptions."""

    def __init__(self) -> None:
        self.commands: list[str] = []
        self.persist = True

    async def GetRoom(self, request: pb.GetRoomRequest, context: Context) -> pb.GetRoomResponse:
        return pb.GetRoomResponse(room=room_pb2.Room(room_id=request.room_id, persist=self.persist))

    async def Consume(
        self, requests: AsyncIterator[pb.ConsumeRequest], context: Context
    ) -> AsyncIterator[pb.ConsumeResponse]:
        yield opened()
        for sequence in (1, 2, 3):
            yield message(sequence)
        async for answer in self.answers(requests):
            yield answer

    async def answers(self, requests: AsyncIterator[pb.ConsumeRequest]) -> AsyncIterator[pb.ConsumeResponse]:
        """Confirms acknowledgements, until the client closes."""
        async for request in requests:
            command = request.WhichOneof("command") or ""
            self.commands.append(f"ack {request.ack.sequence}" if command == "ack" else command)
            if command == "ack":
                yield pb.ConsumeResponse(acked=pb.AcknowledgeResponse(position=request.ack.sequence))
            if command == "close":
                yield pb.ConsumeResponse(closed=status_pb2.Status())


@asynccontextmanager
async def serving(service: Service, **options: Any) -> AsyncIterator[unibus.Client]:
    """A client of the service."""
    server = grpc.aio.server()
    add_RoomServiceServicer_to_server(service, server)  # type: ignore[no-untyped-call,unused-ignore]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with unibus.connect(f"http://127.0.0.1:{port}", **options) as client:
            yield client
    finally:
        await server.stop(None)


def status(code: grpc.StatusCode, reason: str = "", retry: float | None = None) -> status_pb2.Status:
    made = status_pb2.Status(code=code.value[0])
    if reason:
        made.details.add().Pack(error_details_pb2.ErrorInfo(reason=reason, domain="unibus.v1"))
    if retry is not None:
        delay = Duration()
        delay.FromNanoseconds(round(retry * 1e9))
        made.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    return made


async def refuse(context: Context, code: grpc.StatusCode, reason: str = "", retry: float | None = None) -> None:
    await context.abort_with_status(cast("Any", rpc_status.to_status(status(code, reason, retry))))


def opened(position: int = 0, resumed: bool = True, heartbeat: int = 10) -> pb.ConsumeResponse:
    frame = subscription_pb2.Opened(position=position, resumed=resumed, first_sequence=1, generation=1)
    frame.heartbeat_interval.seconds = heartbeat
    return pb.ConsumeResponse(opened=frame)


def message(sequence: int, payload: bytes = b"") -> pb.ConsumeResponse:
    return pb.ConsumeResponse(message=message_pb2.Message(sequence=sequence, payload=payload, cursor=f"c{sequence}"))
