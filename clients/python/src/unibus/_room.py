"""The handle of a room."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from google.protobuf.field_mask_pb2 import FieldMask

from unibus._errors import UnibusError
from unibus._history import first_page, history
from unibus._publish import publish, publish_request
from unibus._publisher import Publisher
from unibus._subscription import EventHandler, Options, Subscription
from unibus._types import (
    Member,
    Message,
    Published,
    Retention,
    Role,
    RoomInfo,
    Start,
    Subscriber,
    Time,
    duration,
    member_of,
    retention_proto,
    room_of,
    subscriber_of,
)
from unibus.v1 import room_pb2
from unibus.v1 import room_service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping
    from datetime import timedelta

    from unibus._connection import Connection

EVERYTHING: Any = object()


class Room:
    """A room of the service. Made by `Client.room`, without a call.

    Each call is attempted until it succeeds, fails finally, or its time is up (U9). `timeout` bounds all attempts of one
    call in seconds. A call that fails raises `UnibusError`.
    """

    def __init__(self, connection: Connection, room_id: str) -> None:
        self.id = room_id
        self._connection = connection

    def __repr__(self) -> str:
        return f"Room({self.id!r})"

    # --- the room

    async def info(self, *, timeout: float | None = None) -> RoomInfo:
        """The settings of the room, and the state of its log."""
        call = self._connection.stub.GetRoom
        return room_of((await self._connection.call(call, pb.GetRoomRequest(room_id=self.id), timeout=timeout)).room)

    async def update(
        self,
        *,
        labels: Mapping[str, str] | None = None,
        retention: Retention | None = None,
        dedupe_window: timedelta | None = None,
        replicas: int | None = None,
        timeout: float | None = None,
    ) -> RoomInfo:
        """Changes the settings that are given, each as a whole. Only labels can change in an ephemeral room."""
        room = room_pb2.Room(room_id=self.id, labels=labels or {}, replicas=replicas or 0)
        if retention is not None:
            room.retention.CopyFrom(retention_proto(retention))
        if dedupe_window is not None:
            room.dedupe_window.CopyFrom(duration(dedupe_window))
        given = {"labels": labels, "retention": retention, "dedupe_window": dedupe_window, "replicas": replicas}
        paths = [name for name, value in given.items() if value is not None]
        if not paths:
            raise ValueError("nothing to change")
        request = pb.UpdateRoomRequest(room=room, update_mask=FieldMask(paths=paths))
        response = await self._connection.call(self._connection.stub.UpdateRoom, request, timeout=timeout)
        self._connection.policies.forget(self.id)
        return room_of(response.room)

    async def delete(self, *, timeout: float | None = None) -> None:
        """Deletes the room with its messages, subscribers and members."""
        request = pb.DeleteRoomRequest(room_id=self.id)
        with _done_before("ROOM_NOT_FOUND"):
            await self._connection.call(self._connection.stub.DeleteRoom, request, timeout=timeout)
        self._connection.policies.forget(self.id)

    async def purge(self, *, up_to: int = EVERYTHING, timeout: float | None = None) -> int:
        """Removes all messages, or those up to a sequence. Returns how many were removed.

        `up_to` cannot be None, so that a missing value does not remove everything. Without `up_to` the call is not
        repeated after an unknown outcome, since it would remove later messages too (U10).
        """
        if up_to is None:
            raise ValueError("give the sequence `up_to` which to purge, or leave it out to remove all messages")
        everything = up_to is EVERYTHING
        response = await self._connection.call(
            self._connection.stub.PurgeRoom,
            pb.PurgeRoomRequest(room_id=self.id, up_to_sequence=None if everything else up_to),
            timeout=timeout,
            repeat_unknown=not everything,
        )
        return response.purged

    async def delete_message(self, sequence: int, *, timeout: float | None = None) -> None:
        """Erases one stored message."""
        request = pb.DeleteMessageRequest(room_id=self.id, sequence=sequence)
        with _done_before("MESSAGE_NOT_FOUND"):
            await self._connection.call(self._connection.stub.DeleteMessage, request, timeout=timeout)

    # --- messages

    async def publish(
        self,
        payload: bytes,
        *,
        headers: Mapping[str, str] | None = None,
        message_id: str = "",
        expected_last_sequence: int | None = None,
        ttl: timedelta | None = None,
        timeout: float | None = None,
    ) -> Published:
        """Publishes a message, and returns when it is stored, or in an ephemeral room when it is sent.

        The client gives the message an id, and repeats it with this id after an unknown outcome, as long as the room
        remembers ids (U11). If the outcome is still unknown then, the error says so, and has the id.
        """
        request = publish_request(self.id, payload, headers, message_id, expected_last_sequence, ttl)
        return await publish(self._connection, request, timeout)

    def publisher(
        self,
        *,
        max_unanswered: int = 1024,
        max_unanswered_bytes: int = 4 * 1024 * 1024,
        close_timeout: float = 10.0,
    ) -> Publisher:
        """A publisher that does not wait for each message (U13). Use it with `async with`."""
        return Publisher(self._connection, self.id, max_unanswered, max_unanswered_bytes, close_timeout)

    def subscribe(
        self,
        subscriber: str = "",
        *,
        start: Start | None = None,
        until_caught_up: bool = False,
        on_event: EventHandler | None = None,
        read_ahead: int = 256,
        read_ahead_bytes: int = 4 * 1024 * 1024,
        ack_count: int = 100,
        ack_interval: float = 0.2,
        ack_timeout: float = 5.0,
    ) -> Subscription:
        """A subscription, for `run(handler)` or `async with ... async for`. It is opened when it is used.

        With the name of a durable `subscriber` the service keeps the position, and `start` counts only when the subscriber
        is new. Without a name the subscription begins at `start`, by default with the oldest message.
        """
        options = Options(
            room_id=self.id,
            subscriber=subscriber,
            start=start or Start.default(),
            until_caught_up=until_caught_up,
            on_event=on_event,
            read_ahead=read_ahead,
            read_ahead_bytes=read_ahead_bytes,
            ack_count=ack_count,
            ack_interval=ack_interval,
            ack_timeout=ack_timeout,
        )
        return Subscription(self._connection, options)

    def history(
        self,
        *,
        after: int | str | None = None,
        before: int | str | None = None,
        start: Time | None = None,
        end: Time | None = None,
        backwards: bool = False,
        page_size: int = 200,
    ) -> AsyncIterator[Message]:
        """Iterates over stored messages (U28): forwards from the oldest, or `backwards` from the newest.

        `after` (forwards) and `before` (backwards) are the sequence or the cursor of a message that is not included.
        `start` is the inclusive, `end` the exclusive bound of the time.
        """
        request = first_page(self.id, after, before, start, end, backwards, page_size)
        return history(self._connection, request, backwards, end)

    # --- members

    async def add_member(self, member: str, role: Role, *, visible_from: int = 0, timeout: float | None = None) -> Member:
        """Adds a member, or changes its role and the first message that it may read."""
        request = pb.AddMemberRequest(room_id=self.id, member_id=member, role=role.value, visible_from=visible_from)
        return member_of((await self._connection.call(self._connection.stub.AddMember, request, timeout=timeout)).member)

    async def remove_member(self, member: str, *, timeout: float | None = None) -> None:
        """Removes a member. Its open subscriptions end."""
        request = pb.RemoveMemberRequest(room_id=self.id, member_id=member)
        with _done_before("MEMBER_NOT_FOUND"):
            await self._connection.call(self._connection.stub.RemoveMember, request, timeout=timeout)

    async def members(self) -> AsyncIterator[Member]:
        """Iterates over the members, by ascending id."""
        request = pb.ListMembersRequest(room_id=self.id)
        async for page in self._connection.pages(self._connection.stub.ListMembers, request):
            for member in page.members:
                yield member_of(member)

    # --- durable subscribers

    async def subscribers(self) -> AsyncIterator[Subscriber]:
        """Iterates over the durable subscribers with their positions."""
        request = pb.ListSubscribersRequest(room_id=self.id)
        async for page in self._connection.pages(self._connection.stub.ListSubscribers, request):
            for subscriber in page.subscribers:
                yield subscriber_of(subscriber)

    async def seek_subscriber(self, subscriber: str, position: Start, *, timeout: float | None = None) -> int:
        """Moves a durable subscriber, forwards or back, and returns its position. An open subscription follows."""
        request = pb.SeekSubscriberRequest(room_id=self.id, subscriber=subscriber, position=position.proto)
        call = self._connection.stub.SeekSubscriber
        return (await self._connection.call(call, request, timeout=timeout)).position

    async def delete_subscriber(self, subscriber: str, *, timeout: float | None = None) -> None:
        """Deletes a durable subscriber with its position."""
        request = pb.DeleteSubscriberRequest(room_id=self.id, subscriber=subscriber)
        with _done_before("SUBSCRIBER_NOT_FOUND"):
            await self._connection.call(self._connection.stub.DeleteSubscriber, request, timeout=timeout)


@contextmanager
def _done_before(reason: str) -> Iterator[None]:
    """After an attempt with an unknown outcome this reason means that the attempt succeeded (U10)."""
    try:
        yield
    except UnibusError as error:
        if not (error.outcome_unknown and error.reason == reason):
            raise
