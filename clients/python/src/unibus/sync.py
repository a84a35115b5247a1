"""The client for programs without asyncio. The names and parameters are those of `unibus`, and the calls block.

All clients of a process share one event loop in a thread of its own. Ctrl-C ends the call that blocks: the client cancels it
first, so that a subscription acknowledges what was handled. A process must not fork after the first `connect`.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar

import unibus
from unibus._subscription import CALLER

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
    from concurrent.futures import Future

    from typing_extensions import Self

    from unibus import Message

__all__ = ["Client", "Publisher", "Room", "Subscription", "connect"]

Inner = TypeVar("Inner")
P = ParamSpec("P")
T = TypeVar("T")
U = TypeVar("U")
CANCEL_TIMEOUT = 10.0
_END: Any = object()


class _EndedError(Exception):
    """A function of the program raised SystemExit, or another exception that would end the event loop of all clients."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(repr(cause))
        self.cause = cause


async def _called(start: Callable[[Callable[[], None]], object], function: Callable[..., T], *args: object) -> T:
    """The result of the function, which runs where `start` takes it: not in the thread of the event loop."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()
    context = contextvars.copy_context()  # with CALLER

    def work() -> None:
        try:
            settle = functools.partial(answer.set_result, context.run(function, *args))
        except BaseException as error:
            taken = isinstance(error, Exception) and not isinstance(error, StopIteration)  # a future takes no other
            settle = functools.partial(answer.set_exception, error if taken else _EndedError(error))
        loop.call_soon_threadsafe(lambda: None if answer.done() else settle())

    start(work)
    return await answer


def _thread(work: Callable[[], None]) -> None:
    """Runs the work in a thread of its own, so that one that hangs holds up no other, and not the end of the program."""
    threading.Thread(target=work, name="unibus-call", daemon=True).start()


class _Threads:
    """Threads for handlers. Unlike an executor of Python they go on when the main thread has ended."""

    def __init__(self, count: int) -> None:
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._threads = [threading.Thread(target=self._run, name="unibus-handler", daemon=True) for _ in range(count)]
        self.start = self._work.put

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for _thread in self._threads:
            self._work.put(None)
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            work()


class _Portal:
    """Runs coroutines in the event loop of another thread."""

    _lock = threading.Lock()
    _shared: _Portal | None = None

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="unibus", daemon=True)
        self._thread.start()

    @classmethod
    def shared(cls) -> _Portal:
        with cls._lock:
            if cls._shared is None:
                cls._shared = cls()
            return cls._shared

    def call(self, work: Awaitable[T]) -> T:
        """The result of the work. If an exception such as KeyboardInterrupt comes meanwhile, the work is cancelled."""
        caller = threading.current_thread()
        if caller is self._thread:
            if inspect.iscoroutine(work):
                work.close()
            raise RuntimeError("a callback of a future must not block: do the call in another thread")
        ended = threading.Event()
        tasks: list[asyncio.Task[T]] = []

        async def run() -> T:
            CALLER.set(CALLER.get() or caller)
            return await work

        def begin() -> None:
            tasks.append(self._loop.create_task(run()))
            tasks[0].add_done_callback(lambda _: ended.set())

        def cancel() -> None:
            tasks[0].cancel()

        self._loop.call_soon_threadsafe(begin)
        try:
            ended.wait()
        except BaseException:
            self._loop.call_soon_threadsafe(cancel)  # after begin
            ended.wait(CANCEL_TIMEOUT)
            raise
        try:
            return tasks[0].result()
        except _EndedError as ended_by:
            raise ended_by.cause from None

    def future(self, work: Awaitable[asyncio.Future[T]]) -> Future[T]:
        """A future of this thread for one of the event loop, which is the result of the work."""
        answer = self.call(work)

        async def result() -> T:
            return await answer

        return asyncio.run_coroutine_threadsafe(result(), self._loop)

    def iterate(self, values: AsyncIterator[T]) -> Iterator[T]:
        while (value := self.call(anext(values, _END))) is not _END:
            yield value


class _Face(Generic[Inner]):
    """Stands for an object that belongs to the event loop."""

    def __init__(self, portal: _Portal, inner: Inner) -> None:
        self._portal = portal
        self._inner = inner


def _delegate(
    method: Callable[Concatenate[Inner, P], T], convert: Callable[[_Portal, T], U]
) -> Callable[Concatenate[_Face[Inner], P], U]:
    """The method with the same parameters, whose result is converted."""

    @functools.wraps(method)
    def call(self: _Face[Inner], /, *args: P.args, **kwargs: P.kwargs) -> U:
        kwargs.update(_in_threads(kwargs))
        return convert(self._portal, method(self._inner, *args, **kwargs))

    return call


def _in_threads(options: Mapping[str, object]) -> dict[str, object]:
    """The options that are functions, so that they cannot block the event loop."""
    return {
        name: functools.partial(_called, _thread, option)
        for name, option in options.items()
        if callable(option) and not inspect.iscoroutinefunction(option)
    }


class Publisher(_Face[unibus.Publisher]):
    """See `unibus.Publisher`. The futures of `send` are those of `concurrent.futures`."""

    close = _delegate(unibus.Publisher.close, _Portal.call)
    flush = _delegate(unibus.Publisher.flush, _Portal.call)
    send = _delegate(unibus.Publisher.send, _Portal.future)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Subscription(_Face[unibus.Subscription]):
    """See `unibus.Subscription`: iterate over it in a `with` block, or call `run`."""

    def __enter__(self) -> Self:
        async def begin() -> None:
            await self._inner.__aenter__()

        self._portal.call(begin())
        return self

    def __exit__(self, *_: object) -> None:
        self._portal.call(self._inner.__aexit__())

    def __iter__(self) -> Iterator[Message]:
        return self

    def __next__(self) -> Message:
        message = self._portal.call(anext(self._inner, _END))
        if message is _END:
            raise StopIteration
        return message

    def run(self, handler: Callable[[Message], object], *, concurrency: int = 1) -> None:
        """Calls the handler for each message: in this thread, or with a greater concurrency in so many others."""

        if concurrency <= 1:
            with self._inner.handling(), self:
                for message in self:
                    handler(message)
            return
        with _Threads(concurrency) as threads:

            async def in_thread(message: Message) -> None:
                await _called(threads.start, handler, message)

            self._portal.call(self._inner.run(in_thread, concurrency=concurrency))

    close = _delegate(unibus.Subscription.close, _Portal.call)


class Room(_Face[unibus.Room]):
    """See `unibus.Room`."""

    @property
    def id(self) -> str:
        return self._inner.id

    def __repr__(self) -> str:
        return repr(self._inner)

    info = _delegate(unibus.Room.info, _Portal.call)
    update = _delegate(unibus.Room.update, _Portal.call)
    delete = _delegate(unibus.Room.delete, _Portal.call)
    purge = _delegate(unibus.Room.purge, _Portal.call)
    delete_message = _delegate(unibus.Room.delete_message, _Portal.call)
    publish = _delegate(unibus.Room.publish, _Portal.call)
    history = _delegate(unibus.Room.history, _Portal.iterate)
    add_member = _delegate(unibus.Room.add_member, _Portal.call)
    remove_member = _delegate(unibus.Room.remove_member, _Portal.call)
    members = _delegate(unibus.Room.members, _Portal.iterate)
    subscribers = _delegate(unibus.Room.subscribers, _Portal.iterate)
    seek_subscriber = _delegate(unibus.Room.seek_subscriber, _Portal.call)
    delete_subscriber = _delegate(unibus.Room.delete_subscriber, _Portal.call)

    publisher = _delegate(unibus.Room.publisher, Publisher)
    subscribe = _delegate(unibus.Room.subscribe, Subscription)


class Client(_Face[unibus.Client]):
    """See `unibus.Client`. It may be used by several threads."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def room(self, room_id: str) -> Room:
        return Room(self._portal, self._inner.room(room_id))

    close = _delegate(unibus.Client.close, _Portal.call)
    rooms = _delegate(unibus.Client.rooms, _Portal.iterate)
    create_room = _delegate(unibus.Client.create_room, lambda portal, work: Room(portal, portal.call(work)))


def _connecting(connect: Callable[P, unibus.Client]) -> Callable[P, Client]:
    @functools.wraps(connect)
    def call(*args: P.args, **kwargs: P.kwargs) -> Client:
        kwargs.update(_in_threads(kwargs))
        return Client(_Portal.shared(), connect(*args, **kwargs))

    return call


connect = _connecting(unibus.connect)
