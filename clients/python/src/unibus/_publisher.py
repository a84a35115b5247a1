"""A publisher that pipelines messages over one stream, and keeps their order (U13, U14)."""

from __future__ import annotations

import asyncio
import copy
from collections import deque
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc

from unibus._connection import MIB, Attempts, closed_error, drive, within
from unibus._errors import Outcome, UnibusError, error_from_rpc, error_from_status, failure, timed_out
from unibus._publish import Policies, Policy, new_id, publish_request
from unibus._retry import now
from unibus._types import Published, published_of
from unibus.v1 import room_service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import timedelta

    from unibus._connection import Connection

STREAM_MESSAGE_MAX = 64 * MIB
TICK = 1.0
FROZEN = 5.0


@dataclass(slots=True, eq=False)
class Entry:
    """A message that is not answered yet."""

    number: int
    request: pb.PublishRequest
    own_id: bool
    begun: float
    """When it was first sent. Before that, when the program gave it."""
    result: asyncio.Future[Published]
    tried: bool = False
    sent: float | None = None
    """When it was sent over the stream that is open now."""
    unknown: bool = False
    """Whether it may be stored."""

    @property
    def size(self) -> int:
        return len(self.request.payload)


class Unanswered(dict[int, Entry]):
    """The messages without an answer by number, in the order of the program, and those that this stream must still send."""

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        super().__init__()
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._unsent: deque[Entry] = deque()
        self._bytes = 0

    def entries(self) -> list[Entry]:
        return list(self.values())

    def fits(self, size: int) -> bool:
        """Whether another message may be sent. One alone may be larger than the bound."""
        return not self or (len(self) < self._max_messages and self._bytes + size <= self._max_bytes)

    def add(self, entry: Entry) -> None:
        self[entry.number] = entry
        self._unsent.append(entry)
        self._bytes += entry.size

    def remove(self, entry: Entry) -> None:
        if self.pop(entry.number, None) is not None:
            self._bytes -= entry.size

    def begin_stream(self) -> None:
        """A new stream sends everything again, in order, before later messages."""
        self._unsent = deque(self.values())
        for entry in self._unsent:
            entry.sent = None

    def next_unsent(self) -> Entry | None:
        while self._unsent:
            entry = self._unsent.popleft()
            if entry.number in self:
                return entry
        return None

    def oldest_sent(self) -> float | None:
        return next((entry.sent for entry in self.values() if entry.sent is not None), None)


class Publisher(AbstractAsyncContextManager["Publisher"]):
    """Publishes to one room without waiting for each message. Made by `Room.publisher`."""

    def __init__(
        self, connection: Connection, room_id: str, max_unanswered: int, max_unanswered_bytes: int, close_timeout: float
    ) -> None:
        self._connection = connection
        self._room_id = room_id
        self._close_timeout = close_timeout
        self._unanswered = Unanswered(max_unanswered, max_unanswered_bytes)
        self._numbers = 0
        self._gate = asyncio.Lock()  # is fair, so that messages are taken in the order of the calls
        self._freed = asyncio.Event()
        self._more = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._policy: Policy | None = None  # None until the first stream
        self._restart: UnibusError | None = None  # why this stream is to end
        self._ending: float | None = None  # when it was decided
        self._last: UnibusError | None = None  # the newest end of a stream

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def send(
        self,
        payload: bytes,
        *,
        headers: Mapping[str, str] | None = None,
        message_id: str = "",
        expected_last_sequence: int | None = None,
        ttl: timedelta | None = None,
    ) -> asyncio.Future[Published]:
        """Takes a message, and returns a future for its outcome. Waits while too many messages are unanswered.

        The future fails with `UnibusError` if the message is refused, or if its outcome is still unknown when the room may
        forget its id (U11).
        """
        request = publish_request(self._room_id, payload, headers, message_id, expected_last_sequence, ttl)
        if request.ByteSize() + 64 > STREAM_MESSAGE_MAX:
            message = "the message is larger than a stream of messages allows"
            raise UnibusError(grpc.StatusCode.INVALID_ARGUMENT, message, reason="PAYLOAD_TOO_LARGE")
        async with self._gate:
            while not self._unanswered.fits(len(payload)):
                self._freed.clear()
                await self._freed.wait()
            if self._closed or self._connection.closed:
                raise closed_error("the publisher is closed")
            self._numbers += 1
            result: asyncio.Future[Published] = asyncio.get_running_loop().create_future()
            self._unanswered.add(Entry(self._numbers, request, not message_id, now(), result))
            self._more.set()
            if self._task is None:
                self._connection.owned.add(self)
                self._task = asyncio.create_task(self._run())
        return result

    async def flush(self) -> None:
        """Waits until every message that was sent so far is answered. Their futures have the outcomes."""
        results = [entry.result for entry in self._unanswered.entries()]
        if results:
            await asyncio.wait(results)

    async def close(self) -> None:
        """Flushes, for at most `close_timeout` seconds. Messages that are then unanswered fail.

        The outcome of those that were sent is unknown.
        """
        self._closed = True
        try:
            await within(self.flush(), self._close_timeout)
        except TimeoutError:
            pass
        finally:
            if self._task is not None:
                self._task.cancel()
            for entry in self._unanswered.entries():
                entry.unknown |= entry.sent is not None
                self._fail(entry, failure(grpc.StatusCode.DEADLINE_EXCEEDED, "the publisher was closed before the answer"))
            self._connection.owned.discard(self)
        if self._task is not None:
            await asyncio.wait({self._task})

    async def _run(self) -> None:
        """Opens one stream after the other, as long as there are messages to send."""
        attempts = Attempts(self._connection)
        while True:
            while not self._unanswered:
                self._more.clear()
                await self._more.wait()
            left = self._latest(next(iter(self._unanswered.values()))) - now()
            try:
                self._policy = await self._policies.get(self._room_id, left)
                error = await self._stream(attempts, self._policy.persist)
            except UnibusError as thrown:
                error = thrown
                if left < self._connection.attempt_timeout and timed_out(error) and self._last is not None:
                    error = self._last  # this attempt was cut short, so the one before tells more
            except Exception as defect:  # must not leave futures without an outcome
                error = failure(grpc.StatusCode.INTERNAL, f"a defect of the client: {defect!r}")
            if not self._unanswered:
                continue
            self._after(error)
            try:
                pause = attempts.pause(error)
                self._last = error
            except UnibusError as final:
                self._last = None
                for entry in self._unanswered.entries():
                    self._fail(entry, final)
                attempts = Attempts(self._connection)
                continue
            end = now() + pause
            while self._unanswered and not self._connection.closed and (left := end - now()) > 0:
                for entry in self._unanswered.entries():
                    if self._too_late(entry, left):
                        self._fail(entry, error)
                await self._connection.wait(min(left, TICK))
            await self._connection.reachable()

    @property
    def _policies(self) -> Policies:
        return self._connection.policies

    def _after(self, error: UnibusError) -> None:
        """Notes what the end of a stream means for the messages that it had sent."""
        if error is self._restart:  # the service answers everything before the end, so that this does nothing
            error = failure(grpc.StatusCode.UNAVAILABLE, "the service ended the stream")
        for entry in self._unanswered.entries():
            if entry.sent is not None and error.outcome_unknown:
                entry.unknown = True
                if not entry.request.message_id:
                    self._fail(entry, error)  # an ephemeral room would get it twice (U12)
            entry.sent = None

    def _latest(self, entry: Entry) -> float:
        """When the last attempt may begin. The room may forget the id before a later one ends (U11)."""
        limit = 0.0 if self._policy is None else self._policy.begin_within
        return entry.begun + (limit if entry.tried else max(limit, self._connection.call_timeout))

    def _too_late(self, entry: Entry, pause: float = 0.0) -> bool:
        return now() + pause > self._latest(entry)

    async def _stream(self, attempts: Attempts, persist: bool) -> UnibusError:
        """Runs one stream until it ends. Returns why."""
        metadata = await attempts.credentials()
        self._restart = self._ending = None
        self._unanswered.begin_stream()
        ticked = awake = now()

        def waits_since() -> float | None:
            since = self._unanswered.oldest_sent() or self._ending
            return None if since is None else max(since, awake)

        def interval() -> float:
            """So that an attempt does not take longer than its time."""
            since = waits_since()
            return TICK if since is None else min(TICK, max(0.01, since + self._connection.attempt_timeout - now()))

        def tick() -> UnibusError | None:
            nonlocal ticked, awake
            if now() - ticked > FROZEN:
                awake = now()  # this process was frozen, and could not read
            ticked = now()
            since = waits_since()
            if since is None or ticked - since <= self._connection.attempt_timeout:
                return None
            return failure(grpc.StatusCode.DEADLINE_EXCEEDED, "the service did not answer a message in time")

        with self._connection.in_use():
            call = self._connection.stub.PublishStream(metadata=metadata)
            writer = asyncio.create_task(self._write(call, persist))
            reader = asyncio.create_task(self._read(call, attempts))
            error = await drive(call, reader, writer, tick, interval)
        return error or failure(grpc.StatusCode.UNAVAILABLE, "the service ended the stream")

    async def _write(
        self, call: grpc.aio.StreamStreamCall[pb.PublishStreamRequest, pb.PublishStreamResponse], persist: bool
    ) -> None:
        while self._restart is None:
            entry = self._unanswered.next_unsent()
            if entry is None:
                self._more.clear()
                await self._more.wait()
                continue
            if entry.tried and self._last is not None and self._too_late(entry):
                self._fail(entry, self._last)
                continue
            if entry.own_id and persist != bool(entry.request.message_id):  # is new, or the room was created again
                entry.request.message_id = new_id() if persist else ""
            entry.sent = now()
            if not entry.tried:
                entry.tried, entry.begun = True, entry.sent
            request = pb.PublishStreamRequest(correlation_id=entry.number, publish=entry.request, acks=pb.PUBLISH_ACKS_EACH)
            await call.write(request)
        await call.done_writing()  # the answers to what was sent come before the end

    async def _read(
        self, call: grpc.aio.StreamStreamCall[pb.PublishStreamRequest, pb.PublishStreamResponse], attempts: Attempts
    ) -> UnibusError | None:
        try:
            async for response in call:
                entry = self._unanswered.get(response.correlation_id)
                if entry is None:
                    continue
                if response.HasField("error"):
                    self._refused(entry, error_from_status(response.error))
                else:
                    attempts.reset()
                    if response.result.sequence and not entry.request.message_id:  # the room was created again
                        self._policies.forget(self._room_id)
                        self._end_stream(failure(grpc.StatusCode.UNAVAILABLE, "the room is persisted now"))
                    self._finish(entry, published_of(response.result, entry.request.message_id))
        except grpc.aio.AioRpcError as error:
            return error_from_rpc(error)
        return self._restart

    def _refused(self, entry: Entry, error: UnibusError) -> None:
        """One message failed. It is sent again over the next stream if that may help, and then all later ones after it."""
        entry.unknown |= error.outcome_unknown
        stale = self._policies.learn(self._room_id, error) and entry.own_id and bool(entry.request.message_id)
        if stale:
            error.outcome = Outcome.AGAIN  # nothing was done: the room is ephemeral now
        if error.outcome is Outcome.FINAL or (entry.unknown and not entry.request.message_id):
            self._fail(entry, error)
            return
        entry.sent = None
        self._end_stream(error)

    def _end_stream(self, error: UnibusError) -> None:
        """Sends no more over this stream. The next one follows after the longest pause that the service asked for.

        A refused token counts more than a pause, so that it is not sent again (U8).
        """
        self._ending = now()

        def weight(of: UnibusError) -> tuple[bool, float]:
            return of.outcome is Outcome.NEW_TOKEN, of.retry_after or 0.0

        if self._restart is None or weight(error) > weight(self._restart):
            self._restart = error
        self._more.set()

    def _fail(self, entry: Entry, error: UnibusError) -> None:
        own = copy.copy(error)
        own.outcome_unknown = entry.unknown
        own.message_id = entry.request.message_id
        self._finish(entry, own)

    def _finish(self, entry: Entry, outcome: Published | UnibusError) -> None:
        self._unanswered.remove(entry)
        self._freed.set()
        if entry.result.done():
            return  # the program cancelled it
        if isinstance(outcome, UnibusError):
            entry.result.set_exception(outcome)
        else:
            entry.result.set_result(outcome)
