"""A publisher that pipelines messages over one stream, and keeps their order (U13, U14)."""

from __future__ import annotations

import asyncio
import copy
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc

from unibus._connection import MIB, Attempts, end_of, within
from unibus._errors import Outcome, UnibusError, error_from_rpc, error_from_status, failure
from unibus._publish import Policies, Policy, new_id, publish_request
from unibus._retry import now
from unibus._types import Published, published_of
from unibus.v1 import room_service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import timedelta
    from types import TracebackType
    from typing import Any

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


class Unanswered:
    """The messages without an answer, in the order of the program, and those of them that this stream must still send."""

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._entries: dict[int, Entry] = {}
        self._unsent: deque[Entry] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(list(self._entries.values()))

    def fits(self, size: int) -> bool:
        """Whether another message may be sent. One alone may be larger than the bound."""
        return not self._entries or (len(self._entries) < self._max_messages and self._bytes + size <= self._max_bytes)

    def add(self, entry: Entry) -> None:
        self._entries[entry.number] = entry
        self._unsent.append(entry)
        self._bytes += entry.size

    def get(self, number: int) -> Entry | None:
        return self._entries.get(number)

    def remove(self, entry: Entry) -> None:
        if self._entries.pop(entry.number, None) is not None:
            self._bytes -= entry.size

    def begin_stream(self) -> None:
        """A new stream sends everything again, in order, before later messages."""
        self._unsent = deque(self._entries.values())
        for entry in self._unsent:
            entry.sent = None

    def next_unsent(self) -> Entry | None:
        while self._unsent:
            entry = self._unsent.popleft()
            if entry.number in self._entries:
                return entry
        return None

    def oldest_sent(self) -> float | None:
        return next((entry.sent for entry in self._entries.values() if entry.sent is not None), None)


class Publisher:
    """Publishes to one room without waiting for each message. Made by `Room.publisher`."""

    def __init__(
        self,
        connection: Connection,
        policies: Policies,
        owned: set[Any],
        room_id: str,
        *,
        max_unanswered: int,
        max_unanswered_bytes: int,
        close_timeout: float,
    ) -> None:
        self._connection = connection
        self._policies = policies
        self._owned = owned
        self._room_id = room_id
        self._close_timeout = close_timeout
        self._unanswered = Unanswered(max_unanswered, max_unanswered_bytes)
        self._numbers = 0
        self._gate = asyncio.Lock()  # is fair, so that messages are taken in the order of the calls
        self._freed = asyncio.Event()
        self._more = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._restart: UnibusError | None = None
        self._last: UnibusError | None = None  # the newest end of a stream

    async def __aenter__(self) -> Publisher:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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
        """Takes a message, and returns a future for its outcome.

        Waits while too many messages are unanswered, and for the settings of the room before the first message. The future
        fails with `UnibusError` if the message is refused, or if its outcome is still unknown when the room may forget its
        id (U11).
        """
        request = publish_request(self._room_id, payload, headers, message_id, expected_last_sequence, ttl)
        if request.ByteSize() + 64 > STREAM_MESSAGE_MAX:
            message = "the message is larger than a stream of messages allows"
            raise UnibusError(grpc.StatusCode.INVALID_ARGUMENT, message, reason="PAYLOAD_TOO_LARGE")
        async with self._gate:
            self._check_open()
            policy = await self._policies.get(self._room_id)
            while not self._unanswered.fits(len(payload)):
                self._freed.clear()
                await self._freed.wait()
            self._check_open()
            if not message_id and policy.persist:
                request.message_id = new_id()
            self._numbers += 1
            result: asyncio.Future[Published] = asyncio.get_running_loop().create_future()
            self._unanswered.add(Entry(self._numbers, request, not message_id, now(), result))
            self._more.set()
            if self._task is None:
                self._owned.add(self)
                self._task = asyncio.create_task(self._run())
        return result

    def _check_open(self) -> None:
        if self._closed or self._connection.closed:
            raise UnibusError(grpc.StatusCode.CANCELLED, "the publisher is closed", outcome=Outcome.FINAL)

    async def flush(self) -> None:
        """Waits until every message that was sent so far is answered. Their futures have the outcomes."""
        results = [entry.result for entry in self._unanswered]
        if results:
            await asyncio.wait(results)

    async def close(self) -> None:
        """Flushes, for at most `close_timeout` seconds. Messages that are then unanswered fail with an unknown outcome."""
        self._closed = True
        try:
            await within(self.flush(), self._close_timeout)
        except TimeoutError:
            pass
        finally:
            if self._task is not None:
                self._task.cancel()
            for entry in self._unanswered:
                entry.unknown = True
                self._fail(entry, failure(grpc.StatusCode.DEADLINE_EXCEEDED, "the publisher was closed before the answer"))
            self._owned.discard(self)
        if self._task is not None:
            await asyncio.wait({self._task})

    async def _run(self) -> None:
        """Opens one stream after the other, as long as there are messages to send."""
        attempts = Attempts(self._connection)
        while True:
            while not self._unanswered:
                self._more.clear()
                await self._more.wait()
            try:
                policy = await self._policies.get(self._room_id)
                error = await self._stream(attempts, policy)
            except UnibusError as thrown:
                error = thrown
            except Exception as defect:  # must not leave futures without an outcome
                error = failure(grpc.StatusCode.INTERNAL, f"a defect of the client: {defect!r}")
            if not self._unanswered:
                continue
            error = error or failure(grpc.StatusCode.UNAVAILABLE, "the service ended the stream")
            self._last = error
            self._after(error)
            try:
                pause = attempts.pause(error)
            except UnibusError as final:
                for entry in self._unanswered:
                    self._fail(entry, final)
                attempts = Attempts(self._connection)
                continue
            for entry in self._unanswered:
                if self._too_late(entry):
                    self._fail(entry, error)
            await asyncio.sleep(pause)
            await self._connection.reachable()

    def _after(self, error: UnibusError) -> None:
        """Notes what the end of a stream means for the messages that it had sent."""
        if error is self._restart or not error.outcome_unknown:
            return
        for entry in self._unanswered:
            if entry.sent is not None:
                entry.unknown = True
                if not entry.request.message_id:
                    self._fail(entry, error)  # an ephemeral room would get it twice (U12)

    def _too_late(self, entry: Entry) -> bool:
        """Whether the room may forget the id of the message before another attempt ends (U11)."""
        policy = self._policies.known(self._room_id)
        if policy is None or self._last is None:
            return False
        limit = policy.begin_within(self._connection.attempt_timeout, self._policies.publish_timeout)
        return now() > entry.begun + (limit if entry.tried else max(limit, self._connection.call_timeout))

    async def _stream(self, attempts: Attempts, policy: Policy) -> UnibusError | None:
        """Runs one stream until it ends. Returns why."""
        metadata = await attempts.credentials()
        for entry in self._unanswered:
            if entry.own_id and policy.persist != bool(entry.request.message_id):
                entry.request.message_id = new_id() if policy.persist else ""  # the room was created again
        self._restart = None
        self._unanswered.begin_stream()
        call = self._connection.stub.PublishStream(metadata=metadata)
        writer = asyncio.create_task(self._write(call))
        reader = asyncio.create_task(self._read(call, attempts))
        ticked = awake = now()
        try:
            while not reader.done():
                await asyncio.wait({reader}, timeout=TICK)
                if now() - ticked > FROZEN:
                    awake = now()  # this process was frozen, and could not read
                ticked = now()
                sent = self._unanswered.oldest_sent()
                if sent is not None and ticked - max(sent, awake) > self._connection.attempt_timeout:
                    return failure(grpc.StatusCode.DEADLINE_EXCEEDED, "the service did not answer a message in time")
            return end_of(reader)
        finally:
            writer.cancel()
            reader.cancel()
            call.cancel()
            await asyncio.gather(writer, reader, return_exceptions=True)

    async def _write(self, call: grpc.aio.StreamStreamCall[pb.PublishStreamRequest, pb.PublishStreamResponse]) -> None:
        while self._restart is None:
            entry = self._unanswered.next_unsent()
            if entry is None:
                self._more.clear()
                await self._more.wait()
                continue
            if self._last is not None and self._too_late(entry):
                self._fail(entry, self._last)
                continue
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
                    if response.result.sequence and not entry.request.message_id:
                        self._policies.forget(self._room_id)  # the room was created again, as a persisted one
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
        if self._restart is None or (error.retry_after or 0) > (self._restart.retry_after or 0):
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
