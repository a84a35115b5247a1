"""The client for programs without asyncio. The names and parameters are those of `unibus`, and the calls block.

All clients of a process share one event loop in a thread of its own. Ctrl-C ends the call that blocks: the client cancels it
first, so that a subscription acknowledges what was handled. A process must not fork after the first `connect`.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import unibus
from unibus._connection import MIB

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
    from datetime import timedelta
    from types import TracebackType

    from typing_extensions import Self

    from unibus import Event, Member, Message, Published, Retention, Role, RoomInfo, Start, Subscriber
    from unibus._connection import Pem
    from unibus._types import Time

__all__ = ["Client", "Publisher", "Room", "Subscription", "connect"]

T = TypeVar("T")
CANCEL_TIMEOUT = 10.0
_END: Any = object()


class _Portal:
    """Runs coroutines in the event loop of another thread."""

    _lock = threading.Lock()
    _shared: _Portal | None = None

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="unibus", daemon=True).start()

    @classmethod
    def shared(cls) -> _Portal:
        with cls._lock:
            if cls._shared is None:
                cls._shared = cls()
            return cls._shared

    def call(self, work: Awaitable[T]) -> T:
        """The result of the work. If an exception such as KeyboardInterrupt comes meanwhile, the work is cancelled."""
        ended = threading.Event()

        async def run() -> T:
            try:
                return await work
            finally:
                ended.set()

        future = asyncio.run_coroutine_threadsafe(run(), self._loop)
        try:
            return future.result()
        except BaseException:
            if future.cancel():
                ended.wait(CANCEL_TIMEOUT)
            raise

    def post(self, work: Callable[[], object]) -> None:
        self._loop.call_soon_threadsafe(work)

    def iterate(self, values: AsyncIterator[T]) -> Iterator[T]:
        while (value := self.call(anext(values, _END))) is not _END:
            yield value


class _Closing:
    """A context manager that closes."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        raise NotImplementedError


def connect(
    address: str,
    *,
    ca: Pem | None = None,
    certificate: Pem | None = None,
    private_key: Pem | None = None,
    token: str | Callable[[], str] | None = None,
    plaintext_token: bool = False,
    attempt_timeout: float = 10.0,
    call_timeout: float = 60.0,
    publish_timeout: float | None = None,
    receive_limit: int = 16 * MIB,
) -> Client:
    """See `unibus.connect`. A function for tokens runs in another thread."""
    client = unibus.connect(
        address,
        ca=ca,
        certificate=certificate,
        private_key=private_key,
        token=(lambda: asyncio.to_thread(token)) if callable(token) else token,
        plaintext_token=plaintext_token,
        attempt_timeout=attempt_timeout,
        call_timeout=call_timeout,
        publish_timeout=publish_timeout,
        receive_limit=receive_limit,
    )
    return Client(_Portal.shared(), client)


class Client(_Closing):
    """See `unibus.Client`. It may be used by several threads."""

    def __init__(self, portal: _Portal, client: unibus.Client) -> None:
        self._portal = portal
        self._client = client

    def close(self) -> None:
        self._portal.call(self._client.close())

    def room(self, room_id: str) -> Room:
        return Room(self._portal, self._client.room(room_id))

    def create_room(
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
        created = self._client.create_room(
            room_id,
            persist=persist,
            dedupe_window=dedupe_window,
            retention=retention,
            replicas=replicas,
            labels=labels,
            subject=subject,
            allow_message_ttl=allow_message_ttl,
            timeout=timeout,
        )
        return Room(self._portal, self._portal.call(created))

    def rooms(self) -> Iterator[RoomInfo]:
        return self._portal.iterate(self._client.rooms())


class Room:
    """See `unibus.Room`."""

    def __init__(self, portal: _Portal, room: unibus.Room) -> None:
        self._portal = portal
        self._room = room
        self.id = room.id

    def __repr__(self) -> str:
        return repr(self._room)

    def info(self, *, timeout: float | None = None) -> RoomInfo:
        return self._portal.call(self._room.info(timeout=timeout))

    def update(
        self,
        *,
        labels: Mapping[str, str] | None = None,
        retention: Retention | None = None,
        dedupe_window: timedelta | None = None,
        replicas: int | None = None,
        timeout: float | None = None,
    ) -> RoomInfo:
        changed = self._room.update(
            labels=labels, retention=retention, dedupe_window=dedupe_window, replicas=replicas, timeout=timeout
        )
        return self._portal.call(changed)

    def delete(self, *, timeout: float | None = None) -> None:
        self._portal.call(self._room.delete(timeout=timeout))

    def purge(self, *, up_to: int | None = None, timeout: float | None = None) -> int:
        return self._portal.call(self._room.purge(up_to=up_to, timeout=timeout))

    def delete_message(self, sequence: int, *, timeout: float | None = None) -> None:
        self._portal.call(self._room.delete_message(sequence, timeout=timeout))

    def publish(
        self,
        payload: bytes,
        *,
        headers: Mapping[str, str] | None = None,
        message_id: str = "",
        expected_last_sequence: int | None = None,
        ttl: timedelta | None = None,
        timeout: float | None = None,
    ) -> Published:
        published = self._room.publish(
            payload,
            headers=headers,
            message_id=message_id,
            expected_last_sequence=expected_last_sequence,
            ttl=ttl,
            timeout=timeout,
        )
        return self._portal.call(published)

    def publisher(
        self, *, max_unanswered: int = 1024, max_unanswered_bytes: int = 4 * MIB, close_timeout: float = 10.0
    ) -> Publisher:
        made = self._room.publisher(
            max_unanswered=max_unanswered, max_unanswered_bytes=max_unanswered_bytes, close_timeout=close_timeout
        )
        return Publisher(self._portal, made)

    def subscribe(
        self,
        subscriber: str = "",
        *,
        start: Start | None = None,
        until_caught_up: bool = False,
        on_event: Callable[[Event], object] | None = None,
        read_ahead: int = 256,
        read_ahead_bytes: int = 4 * MIB,
        ack_count: int = 100,
        ack_interval: float = 0.2,
        ack_timeout: float = 5.0,
    ) -> Subscription:
        """See `unibus.Room.subscribe`. `on_event` runs in another thread."""
        made = self._room.subscribe(
            subscriber,
            start=start,
            until_caught_up=until_caught_up,
            on_event=None if on_event is None else lambda event: asyncio.to_thread(on_event, event),
            read_ahead=read_ahead,
            read_ahead_bytes=read_ahead_bytes,
            ack_count=ack_count,
            ack_interval=ack_interval,
            ack_timeout=ack_timeout,
        )
        return Subscription(self._portal, made)

    def history(
        self,
        *,
        after: int | str | None = None,
        before: int | str | None = None,
        start: Time | None = None,
        end: Time | None = None,
        backwards: bool = False,
        page_size: int = 200,
    ) -> Iterator[Message]:
        messages = self._room.history(
            after=after, before=before, start=start, end=end, backwards=backwards, page_size=page_size
        )
        return self._portal.iterate(messages)

    def add_member(self, member: str, role: Role, *, visible_from: int = 0, timeout: float | None = None) -> Member:
        return self._portal.call(self._room.add_member(member, role, visible_from=visible_from, timeout=timeout))

    def remove_member(self, member: str, *, timeout: float | None = None) -> None:
        self._portal.call(self._room.remove_member(member, timeout=timeout))

    def members(self) -> Iterator[Member]:
        return self._portal.iterate(self._room.members())

    def subscribers(self) -> Iterator[Subscriber]:
        return self._portal.iterate(self._room.subscribers())

    def seek_subscriber(self, subscriber: str, position: Start, *, timeout: float | None = None) -> int:
        return self._portal.call(self._room.seek_subscriber(subscriber, position, timeout=timeout))

    def delete_subscriber(self, subscriber: str, *, timeout: float | None = None) -> None:
        self._portal.call(self._room.delete_subscriber(subscriber, timeout=timeout))


class Publisher(_Closing):
    """See `unibus.Publisher`."""

    def __init__(self, portal: _Portal, publisher: unibus.Publisher) -> None:
        self._portal = portal
        self._publisher = publisher

    def close(self) -> None:
        self._portal.call(self._publisher.close())

    def flush(self) -> None:
        self._portal.call(self._publisher.flush())

    def send(
        self,
        payload: bytes,
        *,
        headers: Mapping[str, str] | None = None,
        message_id: str = "",
        expected_last_sequence: int | None = None,
        ttl: timedelta | None = None,
    ) -> Future[Published]:
        async def send() -> Future[Published]:
            answer = await self._publisher.send(
                payload, headers=headers, message_id=message_id, expected_last_sequence=expected_last_sequence, ttl=ttl
            )
            copy: Future[Published] = Future()
            answer.add_done_callback(lambda done: _copy(done, copy))
            return copy

        return self._portal.call(send())


def _copy(answer: asyncio.Future[Published], copy: Future[Published]) -> None:
    if not copy.set_running_or_notify_cancel():
        return
    error = answer.exception()
    if error is None:
        copy.set_result(answer.result())
    else:
        copy.set_exception(error)


class Subscription(_Closing):
    """See `unibus.Subscription`: iterate over it in a `with` block, or call `run`."""

    def __init__(self, portal: _Portal, subscription: unibus.Subscription) -> None:
        self._portal = portal
        self._subscription = subscription
        self._mine = threading.local()  # whether this thread iterates, or runs a handler

    def __enter__(self) -> Self:
        async def begin() -> None:
            await self._subscription.__aenter__()

        self._portal.call(begin())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._portal.call(self._subscription.__aexit__(kind, error, trace))

    def __iter__(self) -> Iterator[Message]:
        return self

    def __next__(self) -> Message:
        message = self._portal.call(anext(self._subscription, _END))
        if message is _END:
            raise StopIteration
        self._mine.iterates = True
        return message

    def run(self, handler: Callable[[Message], object], *, concurrency: int = 1) -> None:
        """Calls the handler for each message: in this thread, or with a greater concurrency in so many others."""

        def handle(message: Message) -> None:
            self._mine.handles = True
            try:
                handler(message)
            finally:
                self._mine.handles = False

        if concurrency <= 1:
            self._subscription.handling = True  # close waits for the handler
            with self:
                for message in self:
                    handle(message)
            return
        with ThreadPoolExecutor(concurrency, "unibus-handler") as threads:

            async def in_thread(message: Message) -> None:
                await asyncio.get_running_loop().run_in_executor(threads, handle, message)

            self._portal.call(self._subscription.run(in_thread, concurrency=concurrency))

    def close(self) -> None:
        """See `unibus.Subscription.close`."""
        if getattr(self._mine, "handles", False):
            self._portal.post(self._subscription.request_stop)
        elif getattr(self._mine, "iterates", False):
            self._portal.call(self._subscription.__aexit__(None, None, None))
        else:
            self._portal.call(self._subscription.close())
