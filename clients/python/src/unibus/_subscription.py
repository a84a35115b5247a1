"""A subscription that goes on for ever: one Consume stream after the other (U15)."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from threading import Thread
from typing import TYPE_CHECKING

import grpc

from unibus._connection import Attempts, drive, settle, within
from unibus._errors import Outcome, UnibusError, error_from_rpc, error_from_status, failure
from unibus._progress import Credit, Progress, Watch
from unibus._retry import Backoff, now
from unibus._types import CaughtUp, Disconnected, Event, Message, Moved, Recreated, Start, message_of
from unibus.v1 import room_service_pb2 as pb
from unibus.v1 import subscription_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator

    from unibus._connection import Connection

    ConsumeCall = grpc.aio.StreamStreamCall[pb.ConsumeRequest, pb.ConsumeResponse]
    Outbox = asyncio.Queue[pb.ConsumeRequest | None]

Handler = Callable[[Message], "Awaitable[object] | None"]
EventHandler = Callable[[Event], "Awaitable[object] | None"]
STABLE = 10.0
"""A subscription that was open so long, in seconds, begins with the shortest pause again (U15)."""
NEW_LOG = frozenset({"CURSOR_EXPIRED", "POSITION_AFTER_END"})


CALLER: ContextVar[object] = ContextVar("caller", default=None)
"""The task or thread that waits for the current one, if the client made the current one."""


def current_caller() -> object:
    return CALLER.get() or asyncio.current_task()


def has_ended(caller: object) -> bool:
    return caller.done() if isinstance(caller, asyncio.Task) else isinstance(caller, Thread) and not caller.is_alive()


@dataclass(frozen=True, slots=True)
class Options:
    """See the parameters of `Room.subscribe`."""

    room_id: str
    subscriber: str
    start: Start
    until_caught_up: bool
    on_event: EventHandler | None
    read_ahead: int
    read_ahead_bytes: int
    ack_count: int
    ack_interval: float
    ack_timeout: float


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """A message that was read, and is not processed."""

    message: Message
    epoch: int


class Subscription:
    """The messages of a room, for ever. Made by `Room.subscribe`, and used once, in one of two ways:

    `await subscription.run(handler)` calls a handler for each message. `async with subscription:` together with
    `async for message in subscription:` iterates. Both end only with `close`, with a cancel, with `until_caught_up`, with a
    handler that fails (U21), or with a final outcome, which raises `UnibusError`.
    """

    def __init__(self, connection: Connection, options: Options) -> None:
        self._connection = connection
        self._options = options
        self._progress = Progress(bool(options.subscriber), options.start)
        self._credit = Credit(options.read_ahead, options.read_ahead_bytes)
        self._inbox: deque[Item | Event] = deque()
        self._ready = asyncio.Event()
        self._outbox: Outbox | None = None  # while the subscription is open
        self._pump: asyncio.Task[None] | None = None
        self._ended = False
        self._error: BaseException | None = None
        self._stopping = False
        self._shut = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._ack_backoff = Backoff()
        self._ack_from = 0.0  # no acknowledgement before this time
        self._current: Item | None = None  # of the iterator
        self._used = False
        self._handling = False  # whether `run` is used
        self._user: object = None  # the caller of the iterator or of `run`
        self._workers: set[asyncio.Task[None]] = set()  # those of `run` with a greater concurrency
        self._idle = asyncio.Event()  # no message is in the hands of the program
        self._idle.set()

    # --- the program's side

    async def __aenter__(self) -> Subscription:
        if self._used:
            raise RuntimeError("a subscription is used once: make another one with Room.subscribe")
        self._begin()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._idle.set()
        await self._finish()

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Message:
        """The next message. The one before it counts as processed (U19). After a cancel, such as a time limit, ask again."""
        self._begin()
        if self._current is not None:
            self._processed(self._current)
            self._current = None
            self._idle.set()
        try:
            item = await self._take()
        except Exception:
            await self._finish()
            raise
        if item is None:
            await self._finish()
            raise StopAsyncIteration
        self._current = item
        self._idle.clear()
        return item.message

    async def run(self, handler: Handler, *, concurrency: int = 1) -> None:
        """Calls the handler for each message, in order, with so many handlers at once (U23).

        A message counts as processed when its handler has returned. A handler that fails ends the subscription with its
        error, after the others have returned (U21). A cancel of this call cancels the handlers.
        """
        with self.handling():
            async with self:
                if concurrency <= 1:
                    async for message in self:
                        await settle(handler(message))
                else:
                    await self._run_concurrently(handler, concurrency)

    @contextmanager
    def handling(self) -> Iterator[None]:
        """What runs here is `run`: close waits for its handlers, unless one of them calls it."""
        self._handling = True
        try:
            yield
        finally:
            self._handling = False

    def is_inside(self) -> bool:
        """Whether a handler or an observer of this subscription waits for the current call."""
        return self._handling and (current_caller() is self._user or current_caller() in self._workers)

    async def _run_concurrently(self, handler: Handler, concurrency: int) -> None:
        workers = self._workers
        failed: list[BaseException] = []

        async def work(item: Item) -> None:
            try:
                await settle(handler(item.message))
            except BaseException as error:
                failed.append(error)
                self.request_stop()
                if not isinstance(error, Exception):
                    raise
            else:
                self._processed(item)

        self._idle.clear()
        try:
            while (item := await self._take()) is not None:
                task = asyncio.create_task(work(item))
                workers.add(task)
                task.add_done_callback(workers.discard)
                if len(workers) >= concurrency:
                    await asyncio.wait(workers, return_when=asyncio.FIRST_COMPLETED)
            if workers:
                await asyncio.wait(workers)
        except asyncio.CancelledError:
            for task in workers:
                task.cancel()
            raise
        finally:
            await asyncio.gather(*workers, return_exceptions=True)
            self._idle.set()
        if failed:
            raise failed[0]

    async def close(self) -> None:
        """Ends the subscription in order (U27): waits for running handlers, acknowledges, and ends the stream.

        An iterator whose program does not ask for the next message is waited for as long as for an acknowledgement, but not
        if its task has ended. In a
        handler, close only asks for the end, and the handler should return. It should not wait for another task that closes.
        """
        self.request_stop()
        if self.is_inside():
            return
        if self._handling:
            await self._idle.wait()
        elif current_caller() is not self._user:
            end = now() + self._options.ack_timeout
            while not self._idle.is_set() and not has_ended(self._user) and (left := end - now()) > 0:
                with suppress(TimeoutError):
                    await within(self._idle.wait(), min(left, 0.05))
        await self._finish()

    async def _finish(self) -> None:
        self.request_stop()
        async with self._shut:
            await self._shutdown()

    def _begin(self) -> None:
        self._used = True
        self._user = current_caller()
        if self._pump is None and not self._stopping:
            self._connection.owned.add(self)
            self._pump = asyncio.create_task(self._keep_open())

    def request_stop(self) -> None:
        """Begins no further message."""
        self._stopping = True
        self._ready.set()

    async def _take(self) -> Item | None:
        """The next message, after the events before it. None at the end."""
        while not self._stopping:
            while self._inbox and not self._stopping:
                entry = self._inbox.popleft()
                if isinstance(entry, Item):
                    self._progress.begin(entry.message.sequence, entry.message.cursor, entry.epoch)
                    return entry
                if self._options.on_event is not None:
                    await settle(self._options.on_event(entry))
            if self._stopping:
                break
            if self._ended:
                if self._error is not None:
                    raise self._error
                break
            self._ready.clear()
            await self._ready.wait()
        return None

    # --- acknowledgements and credit

    def _processed(self, item: Item) -> None:
        self._progress.finish(item.message.sequence, item.epoch)
        self._give_credit(len(item.message.payload))
        if self._options.subscriber:
            if self._progress.unacknowledged >= self._options.ack_count:
                self._acknowledge()
            elif self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(self._options.ack_interval, self._acknowledge)

    def _acknowledge(self, last: bool = False) -> None:
        """Sends what is to be acknowledged, if the subscription is open; otherwise `opened` will (U20).

        After a rejected acknowledgement it waits for the pause, unless this one is the last.
        """
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not last and (left := self._ack_from - now()) > 0:
            self._timer = asyncio.get_running_loop().call_later(left, self._acknowledge)
            return
        if self._outbox is not None and (sequence := self._progress.acknowledge()) is not None:
            self._outbox.put_nowait(pb.ConsumeRequest(ack=self._ack(sequence)))

    def _ack(self, sequence: int) -> pb.AcknowledgeRequest:
        return pb.AcknowledgeRequest(
            room_id=self._options.room_id,
            subscriber=self._options.subscriber,
            sequence=sequence,
            generation=self._progress.generation or None,
        )

    def _give_credit(self, size: int) -> None:
        self._credit.give(size)
        self._send_credit()

    def _send_credit(self) -> None:
        """Sends the credit that is due, if the subscription is open; otherwise `opened` will."""
        if self._outbox is not None and (credit := self._credit.due()) is not None:
            self._outbox.put_nowait(
                pb.ConsumeRequest(
                    credit=pb.ConsumeCredit(room_id=self._options.room_id, messages=credit[0], bytes=credit[1])
                )
            )

    async def _shutdown(self) -> None:
        """Confirms the last acknowledgement, for a bounded time, and ends the stream (U20, U27)."""
        pump, end = self._pump, now() + self._options.ack_timeout
        if pump is None:
            return
        try:
            self._acknowledge(last=True)
            if self._outbox is not None:
                self._outbox.put_nowait(pb.ConsumeRequest(close=pb.ConsumeClose(room_id=self._options.room_id)))
                self._outbox.put_nowait(None)
                await asyncio.wait({pump}, timeout=self._options.ack_timeout)
            sequence = self._progress.unconfirmed()
            taken_over = isinstance(self._error, UnibusError) and self._error.reason == "TAKEN_OVER"
            if sequence is not None and not taken_over and now() < end:
                with suppress(UnibusError):  # the messages come again
                    call = self._connection.stub.Acknowledge
                    await self._connection.call(call, self._ack(sequence), timeout=end - now())
                    self._progress.acked(sequence)
        finally:
            self._pump = None
            pump.cancel()
            if self._timer is not None:
                self._timer.cancel()
            self._connection.owned.discard(self)
            await asyncio.wait({pump})

    # --- the service's side

    async def _keep_open(self) -> None:
        attempts = Attempts(self._connection)
        try:
            while not self._stopping:
                error = await self._connect(attempts)
                if error is None or self._stopping:
                    break
                if error.reason == "ROOM_RECREATED" or (error.reason in NEW_LOG and self._progress.resumes()):
                    self._progress.recreated()
                    self._push(Recreated())
                    error.outcome = Outcome.AGAIN
                    pause = attempts.pause(error)
                else:
                    pause = attempts.pause(error)
                    self._push(Disconnected(error, pause))
                await self._connection.wait(pause)
                await self._connection.reachable()
        except UnibusError as final:
            self._error = final
            if self._options.subscriber:
                # they come again with the next subscription, or have gone to the one that took over
                self._inbox = deque(entry for entry in self._inbox if not isinstance(entry, Item))
        except Exception as defect:  # must not leave the program waiting
            self._error = defect
        finally:
            self._ended = True
            self._ready.set()

    def _push(self, entry: Item | Event) -> None:
        self._inbox.append(entry)
        self._ready.set()

    async def _connect(self, attempts: Attempts) -> UnibusError | None:
        """Runs one stream until it ends. Returns why, or None at an orderly end."""
        try:
            metadata = await attempts.credentials()
            with self._connection.in_use():
                return await self._open_stream(self._connection.stub.Consume(metadata=metadata), attempts)
        except UnibusError as error:
            return error

    async def _open_stream(self, call: ConsumeCall, attempts: Attempts) -> UnibusError | None:
        outbox: Outbox = asyncio.Queue()
        outbox.put_nowait(self._open_request())
        begun = now()
        watch = Watch(begun)

        def tick() -> UnibusError | None:
            verdict = watch.tick(now())
            if verdict == "ping":
                outbox.put_nowait(pb.ConsumeRequest(ping=pb.ConsumePing(nonce=1)))
            if verdict != "silent":
                return None
            return failure(grpc.StatusCode.DEADLINE_EXCEEDED, "the subscription was silent for too long")

        reader = asyncio.create_task(self._read(call, outbox, watch, attempts))
        writer = asyncio.create_task(_write(call, outbox))
        try:
            return await drive(call, reader, writer, tick, lambda: watch.interval)
        finally:
            if self._outbox is outbox and now() - begun >= STABLE:
                attempts.reset()
            self._outbox = None

    def _open_request(self) -> pb.ConsumeRequest:
        subscribe = pb.SubscribeRequest(
            room_id=self._options.room_id,
            subscriber=self._options.subscriber,
            ack_mode=subscription_pb2.ACK_MODE_EXPLICIT,
            start=self._progress.connect().proto,
            until_caught_up=self._options.until_caught_up,
        )
        messages, size = self._credit.open()
        return pb.ConsumeRequest(open=pb.ConsumeOpen(subscribe=subscribe, credit_messages=messages, credit_bytes=size))

    async def _read(self, call: ConsumeCall, outbox: Outbox, watch: Watch, attempts: Attempts) -> UnibusError | None:
        """Reads frames until the subscription ends."""
        try:
            async for frame in call:
                watch.frame(now())
                match frame.WhichOneof("frame"):
                    case "opened":
                        watch.opened(frame.opened.heartbeat_interval.ToNanoseconds() / 1e9)
                        self._opened(frame.opened, outbox)
                    case "message":
                        attempts.reset()
                        self._message(message_of(frame.message))
                    case "caught_up":
                        self._progress.reached(frame.caught_up.position)
                        self._push(CaughtUp(frame.caught_up.position))
                    case "heartbeat":
                        self._progress.reached(frame.heartbeat.position)
                    case "gap":
                        if (gap := self._progress.gap(frame.gap)) is not None:
                            self._push(gap)
                    case "acked":
                        self._ack_backoff.reset()
                        self._progress.acked(frame.acked.position)
                    case "rejected":
                        if (error := self._rejected(frame.rejected)) is not None:
                            return error
                    case "closed":
                        if frame.closed.code != grpc.StatusCode.OK.value[0]:
                            return error_from_status(frame.closed)
                        if not self._stopping:
                            return None if self._options.until_caught_up else self._ended_by_service()
        except grpc.aio.AioRpcError as error:
            return error_from_rpc(error)
        return None if self._stopping else self._ended_by_service()

    @staticmethod
    def _ended_by_service() -> UnibusError:
        return failure(grpc.StatusCode.UNAVAILABLE, "the service ended the subscription")

    def _opened(self, frame: subscription_pb2.Opened, outbox: Outbox) -> None:
        self._outbox = outbox
        events = self._progress.opened(frame)
        if any(isinstance(event, Moved) for event in events):
            dropped = [entry for entry in self._inbox if isinstance(entry, Item)]
            self._inbox = deque(entry for entry in self._inbox if not isinstance(entry, Item))
            for item in dropped:  # they lie before the new position, or come again
                self._give_credit(len(item.message.payload))
        for event in events:
            self._push(event)
        self._ack_from = 0.0
        self._acknowledge()
        self._send_credit()

    def _message(self, message: Message) -> None:
        self._credit.take(len(message.payload))
        if self._progress.message(message.sequence, message.cursor):
            self._push(Item(message, self._progress.epoch))
        else:
            self._give_credit(len(message.payload))

    def _rejected(self, frame: pb.ConsumeRejected) -> UnibusError | None:
        """A command was refused. Other outcomes than these are told by `closed` too, which decides."""
        error = error_from_status(frame.error)
        if frame.command == pb.CONSUME_COMMAND_ACK:
            if error.reason == "TAKEN_OVER":
                return error
            if error.outcome is Outcome.AGAIN:
                self._progress.rejected()
                self._ack_from = now() + self._ack_backoff.pause(error.retry_after)
                self._acknowledge()
        return None


async def _write(call: ConsumeCall, outbox: Outbox) -> None:
    while (request := await outbox.get()) is not None:
        await call.write(request)
    await call.done_writing()
