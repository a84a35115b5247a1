"""The client: one connection to the service."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from contextvars import Context
from typing import TYPE_CHECKING

from unibus._connection import MIB, Connection, Pem, TokenSupplier
from unibus._publish import new_id
from unibus._publisher import Publisher
from unibus._room import Room
from unibus._subscription import CALLER, Subscription, current_caller
from unibus._types import Retention, RoomInfo, duration, retention_proto, room_of
from unibus.v1 import room_service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from datetime import timedelta


def connect(
    address: str,
    *,
    ca: Pem | None = None,
    certificate: Pem | None = None,
    private_key: Pem | None = None,
    token: str | TokenSupplier | None = None,
    plaintext_token: bool = False,
    attempt_timeout: float = 10.0,
    call_timeout: float = 60.0,
    publish_timeout: float | None = None,
    receive_limit: int = 16 * MIB,
) -> Client:
    """Makes a client for a service. It connects when the first call needs it, and again whenever it must.

    `https://host:port` uses TLS with the authorities of the system, or with `ca`; `certificate` and `private_key` are those
    of the client (U5). `http://host:port` is plaintext, and takes a token only for a loopback address, and only if
    `plaintext_token` is set. `token` is a token, or a function, also an async one, that is called for each attempt of each
    call (U8). Times are in seconds: of one attempt, of all attempts of a call (U9), and of all attempts of a publish, which
    is at most what the room's `dedupe_window` allows (U11). `receive_limit` bounds a received message in bytes (U7).

    Raises ValueError if the arguments do not fit each other.
    """
    return Client(
        Connection(
            address,
            ca=ca,
            certificate=certificate,
            private_key=private_key,
            token=token,
            plaintext_token=plaintext_token,
            attempt_timeout=attempt_timeout,
            call_timeout=call_timeout,
            publish_timeout=publish_timeout,
            receive_limit=receive_limit,
        )
    )


class Client(AbstractAsyncContextManager["Client"]):
    """A connection to a service. Use it with `async with`, or call `close`. It belongs to one event loop."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._closing: asyncio.Task[None] | None = None

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes all subscriptions, then the publishers, which handlers may use to the end, then the connection (U27).

        From inside a handler, close only asks for the end: the client is closed when the handler has returned.
        """
        owned = self._connection.owned
        if inside := [one for one in owned if isinstance(one, Subscription) and one.is_inside()]:
            for subscription in inside:
                subscription.request_stop()
            if self._closing is None:
                self._closing = Context().run(asyncio.create_task, self.close())
            return
        caller = CALLER.set(current_caller())
        try:
            for kind in (Subscription, Publisher):
                await asyncio.gather(*(one.close() for one in list(owned) if isinstance(one, kind)), return_exceptions=True)
            await self._connection.close()
            await asyncio.gather(*(one.close() for one in list(owned)), return_exceptions=True)  # opened meanwhile
        finally:
            CALLER.reset(caller)
            await self._connection.close()

    def room(self, room_id: str) -> Room:
        """The handle of a room, without a call."""
        return Room(self._connection, room_id)

    async def create_room(
        self,
        room_id: str = "",
        *,
        persist: bool = True,
        dedupe_window: timedelta | None = None,
        retention: Retention | None = None,
        replicas: int = 0,
        labels: Mapping[str, str] | None = None,
        subject: str = "",
        allow_message_ttl: bool = False,
        timeout: float | None = None,
    ) -> Room:
        """Creates a room, or returns the one that exists with the same settings.

        Without a `room_id` the client makes one, so that the call can be repeated (U10).
        """
        request = pb.CreateRoomRequest(
            room_id=room_id or new_id(),
            persist=persist,
            subject=subject,
            retention=None if retention is None else retention_proto(retention),
            replicas=replicas,
            allow_message_ttl=allow_message_ttl,
            labels=labels or {},
            dedupe_window=None if dedupe_window is None else duration(dedupe_window),
        )
        response = await self._connection.call(self._connection.stub.CreateRoom, request, timeout=timeout)
        self._connection.policies.forget(response.room.room_id)
        return self.room(response.room.room_id)

    async def rooms(self) -> AsyncIterator[RoomInfo]:
        """Iterates over the rooms of which the caller is a member, by ascending id."""
        async for page in self._connection.pages(self._connection.stub.ListRooms, pb.ListRoomsRequest()):
            for room in page.rooms:
                yield room_of(room)
