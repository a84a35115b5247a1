"""The values that the client takes and returns."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.empty_pb2 import Empty
from google.protobuf.timestamp_pb2 import Timestamp

from unibus.v1 import message_pb2, room_pb2, subscription_pb2
from unibus.v1 import room_service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Mapping

    from unibus._errors import UnibusError

_E = TypeVar("_E", bound=enum.IntEnum)
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
Time = datetime | int
"""A datetime with a time zone, or nanoseconds since 1970 (as of `time.time_ns`)."""


class Role(enum.IntEnum):
    """What a member may do. Each role may also do what the roles before it may do."""

    READER = pb.ROLE_READER
    WRITER = pb.ROLE_WRITER
    OWNER = pb.ROLE_OWNER


class Durability(enum.IntEnum):
    """What a published message survives: see docs/guarantees.md."""

    UNSPECIFIED = message_pb2.DURABILITY_UNSPECIFIED
    NONE = message_pb2.DURABILITY_NONE
    BUFFERED = message_pb2.DURABILITY_BUFFERED
    SYNCED = message_pb2.DURABILITY_SYNCED
    QUORUM = message_pb2.DURABILITY_QUORUM
    QUORUM_SYNCED = message_pb2.DURABILITY_QUORUM_SYNCED


@dataclass(frozen=True, slots=True)
class Message:
    """A message as a reader gets it."""

    sequence: int
    """The place in the log of the room: ascending, from 1. 0 in an ephemeral room."""
    payload: bytes
    headers: Mapping[str, str]
    message_id: str
    sender: str
    """The authenticated id of the sender. Empty if the service could not verify it."""
    cursor: str
    """The place in the log for `Start.after_cursor` and history. Empty in an ephemeral room."""
    published_at_ns: int
    """When the message was stored, in nanoseconds since 1970 (U29)."""

    @property
    def published_at(self) -> datetime:
        """When the message was stored, to the microsecond, which is all that a datetime can hold."""
        return datetime_of(self.published_at_ns)


@dataclass(frozen=True, slots=True)
class Published:
    """A message that is stored, or in an ephemeral room sent."""

    sequence: int
    duplicate: bool
    """Whether the message was stored by an earlier attempt or call with the same id."""
    message_id: str
    published_at_ns: int
    durability: Durability


@dataclass(frozen=True, slots=True)
class Retention:
    """Bounds on the stored messages of a room. None: no bound."""

    max_age: timedelta | None = None
    max_bytes: int | None = None
    max_messages: int | None = None
    max_message_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class RoomState:
    """What the log of a persisted room holds."""

    first_sequence: int
    last_sequence: int
    messages: int
    bytes: int


@dataclass(frozen=True, slots=True)
class RoomInfo:
    """The settings of a room, and in answers about one persisted room its state."""

    id: str
    persist: bool
    subject: str
    stream: str
    retention: Retention
    replicas: int
    allow_message_ttl: bool
    labels: Mapping[str, str]
    created_at_ns: int
    creator: str
    dedupe_window: timedelta
    """How long the room remembers the id of a message. Zero in an ephemeral room."""
    state: RoomState | None


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a room."""

    id: str
    role: Role
    visible_from: int
    """The sequence of the first message that the member may read. 0: all messages."""


@dataclass(frozen=True, slots=True)
class Subscriber:
    """A durable subscriber: a position that the service keeps under a name."""

    name: str
    position: int
    lag: int
    last_active_at_ns: int | None
    open: bool
    consumer: str


@dataclass(frozen=True, slots=True)
class Start:
    """Where a subscription begins: `Start.all()`, `Start.new()`, `Start.after(sequence)`, and so on."""

    proto: subscription_pb2.Start

    @classmethod
    def default(cls) -> Start:
        """`all` in a persisted room, and `new` in an ephemeral one."""
        return cls(subscription_pb2.Start())

    @classmethod
    def all(cls) -> Start:
        """From the oldest stored message."""
        return cls(subscription_pb2.Start(all=Empty()))

    @classmethod
    def new(cls) -> Start:
        """Only messages that are stored after the subscription was opened."""
        return cls(subscription_pb2.Start(new=Empty()))

    @classmethod
    def after(cls, sequence: int) -> Start:
        """After this sequence. 0: from the beginning."""
        return cls(subscription_pb2.Start(after_sequence=sequence))

    @classmethod
    def after_cursor(cls, cursor: str) -> Start:
        """After the message with this cursor."""
        return cls(subscription_pb2.Start(after_cursor=cursor))

    @classmethod
    def since(cls, time: Time) -> Start:
        """From the first message that was stored at or after this time."""
        return cls(subscription_pb2.Start(since=timestamp(time)))

    @classmethod
    def last(cls, count: int) -> Start:
        """With the newest messages: so many of them."""
        return cls(subscription_pb2.Start(last=count))


@dataclass(frozen=True, slots=True)
class Opened:
    """The subscription is open. The messages after `position` follow."""

    position: int
    resumed: bool
    """Whether a durable subscriber resumed, so that `start` was ignored."""


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """All messages that were stored when the subscription opened were delivered. Live messages follow."""

    position: int


@dataclass(frozen=True, slots=True)
class Gap:
    """Messages from `first` to `last` will not come. In an ephemeral room both are 0."""

    first: int
    last: int
    reason: str
    """EXPIRED, PURGED, DELETED, SLOW_READER or DISCONNECTED."""
    dropped: int = 0
    """With SLOW_READER the number of lost messages."""


@dataclass(frozen=True, slots=True)
class Moved:
    """SeekSubscriber moved the durable subscriber. The messages after `position` follow (U22)."""

    position: int


@dataclass(frozen=True, slots=True)
class Recreated:
    """The log of the room was deleted and created again. The messages of the new log follow, from its beginning (U26)."""


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The subscription broke. It is opened again after `pause` seconds."""

    error: UnibusError
    pause: float


Event = Opened | CaughtUp | Gap | Moved | Recreated | Disconnected
"""What a subscription tells beside its messages (U25)."""


def datetime_of(nanoseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=nanoseconds // 1000)


def timestamp(time: Time) -> Timestamp:
    if isinstance(time, datetime):
        if time.tzinfo is None:
            raise ValueError("a time needs a time zone, as in datetime.now(timezone.utc)")
        time = (time - _EPOCH) // timedelta(microseconds=1) * 1000
    seconds, nanos = divmod(time, 1_000_000_000)
    return Timestamp(seconds=seconds, nanos=nanos)


def duration(time: timedelta) -> Duration:
    seconds, microseconds = divmod(time // timedelta(microseconds=1), 1_000_000)
    return Duration(seconds=seconds, nanos=microseconds * 1000)


def timedelta_of(value: Duration) -> timedelta:
    return timedelta(seconds=value.seconds, microseconds=value.nanos // 1000)


def message_of(message: message_pb2.Message) -> Message:
    return Message(
        sequence=message.sequence,
        payload=message.payload,
        headers=dict(message.headers),
        message_id=message.message_id,
        sender=message.sender,
        cursor=message.cursor,
        published_at_ns=message.published_at.ToNanoseconds(),
    )


def published_of(response: pb.PublishResponse, message_id: str) -> Published:
    return Published(
        sequence=response.sequence,
        duplicate=response.duplicate,
        message_id=message_id,
        published_at_ns=response.published_at.ToNanoseconds(),
        durability=_known(Durability, response.durability, Durability.UNSPECIFIED),
    )


def retention_proto(retention: Retention) -> room_pb2.Retention:
    return room_pb2.Retention(
        max_age=None if retention.max_age is None else duration(retention.max_age),
        max_bytes=retention.max_bytes or 0,
        max_messages=retention.max_messages or 0,
        max_message_bytes=retention.max_message_bytes or 0,
    )


def room_of(room: room_pb2.Room) -> RoomInfo:
    bounds = room.retention
    state = room.state
    return RoomInfo(
        id=room.room_id,
        persist=room.persist,
        subject=room.subject,
        stream=room.stream,
        retention=Retention(
            max_age=timedelta_of(bounds.max_age) if bounds.HasField("max_age") else None,
            max_bytes=bounds.max_bytes or None,
            max_messages=bounds.max_messages or None,
            max_message_bytes=bounds.max_message_bytes or None,
        ),
        replicas=room.replicas,
        allow_message_ttl=room.allow_message_ttl,
        labels=dict(room.labels),
        created_at_ns=room.created_at.ToNanoseconds(),
        creator=room.creator,
        dedupe_window=timedelta_of(room.dedupe_window),
        state=RoomState(state.first_sequence, state.last_sequence, state.messages, state.bytes)
        if room.HasField("state")
        else None,
    )


def member_of(member: pb.Member) -> Member:
    return Member(member.member_id, _known(Role, member.role, Role.READER), member.visible_from)


def subscriber_of(subscriber: subscription_pb2.Subscriber) -> Subscriber:
    active = subscriber.last_active_at
    return Subscriber(
        name=subscriber.subscriber,
        position=subscriber.position,
        lag=subscriber.lag,
        last_active_at_ns=active.ToNanoseconds() if subscriber.HasField("last_active_at") else None,
        open=subscriber.open,
        consumer=subscriber.consumer,
    )


def gap_of(gap: subscription_pb2.Gap) -> Gap:
    reason = subscription_pb2.GapReason.Name(gap.reason) if gap.reason in subscription_pb2.GapReason.values() else ""
    return Gap(gap.from_sequence, gap.to_sequence, reason.removeprefix("GAP_REASON_"), gap.dropped)


def _known(kind: type[_E], value: int, otherwise: _E) -> _E:
    try:
        return kind(value)
    except ValueError:
        return otherwise  # of a newer service
