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
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar

import unibus
from unibus._subscription import CALLER

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping

    from typing_extensions import Self

    from unibus import Message

__all__ = ["Client", "Publisher", "Room", "Subscription", "connect"]

Inner = TypeVar("Inner")
Inner_co = TypeVar("Inner_co", covariant=True)
P = ParamSpec("P")
T = TypeVar("T")
U = TypeVar("U")
CANCEL_TIMEOUT = 10.0
_END: Any = object()


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

        async def run() -> T:
            CALLER.set(caller)
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

    def future(self, answer: asyncio.Future[T]) -> Future[T]:
        """A future of this thread for one of the event loop."""
        copy: Future[T] = Future()

        def done(answer: asyncio.Future[T]) -> None:
            if not copy.set_running_or_notify_cancel():
                return
            error = answer.exception()
            if error is None:
                copy.set_result(answer.result())
            else:
                copy.set_exception(error)

        self._loop.call_soon_threadsafe(answer.add_done_callback, done)
        return copy

    def iterate(self, values: AsyncIterator[T]) -> Iterator[T]:
        while (value := self.call(anext(values, _END))) is not _END:
            yield value


class _Face(Protocol[Inner_co]):
    """Stands for an object that belongs to the event loop."""

    @property
    def _portal(self) -> _Portal: ...
    @property
    def _inner(self) -> Inner_co: ...


def _blocking(method: Callable[Concatenate[Inner, P], Awaitable[T]]) -> Callable[Concatenate[_Face[Inner], P], T]:
    """The method with the same parameters, which waits for its result."""

    @functools.wraps(method)
    def call(self: _Face[Inner], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._portal.call(method(self._inner, *args, **kwargs))

    return call


def _wrapping(
    method: Callable[Concatenate[Inner, P], Awaitable[T]], wrap: Callable[[_Portal, T], U]
) -> Callable[Concatenate[_Face[Inner], P], U]:
    """The method with the same parameters, which waits for its result and wraps it."""

    @functools.wraps(method)
    def call(self: _Face[Inner], /, *args: P.args, **kwargs: P.kwargs) -> U:
        return wrap(self._portal, self._portal.call(method(self._inner, *args, **kwargs)))

    return call


def _iterating(
    method: Callable[Concatenate[Inner, P], AsyncIterator[T]],
) -> Callable[Concatenate[_Face[Inner], P], Iterator[T]]:
    """The method with the same parameters, as an iterator that waits for each value."""

    @functools.wraps(method)
    def call(self: _Face[Inner], /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        return self._portal.iterate(method(self._inner, *args, **kwargs))

    return call


def _making(
    method: Callable[Concatenate[Inner, P], T], wrap: Callable[[_Portal, T], U]
) -> Callable[Concatenate[_Face[Inner], P], U]:
    """The method with the same parameters, whose result is wrapped. Functions that it takes run in other threads."""

    @functools.wraps(method)
    def call(self: _Face[Inner], /, *args: P.args, **kwargs: P.kwargs) -> U:
        kwargs.update(_in_threads(kwargs))
        return wrap(self._portal, method(self._inner, *args, **kwargs))

    return call


def _in_threads(options: Mapping[str, object]) -> dict[str, object]:
    """The options that are functions, so that they cannot block the event loop."""
    return {
        name: functools.partial(asyncio.to_thread, option)
        for name, option in options.items()
        if callable(option) and not inspect.iscoroutinefunction(option)
    }


class _Closing:
    """A context manager that closes."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    if TYPE_CHECKING:

        def close(self) -> None: ...


class Publisher(_Closing):
    """See `unibus.Publisher`. The futures of `send` are those of `concurrent.futures`."""

    def __init__(self, portal: _Portal, inner: unibus.Publisher) -> None:
        self._portal = portal
        self._inner = inner

    close = _blocking(unibus.Publisher.close)
    flush = _blocking(unibus.Publisher.flush)
    send = _wrapping(unibus.Publisher.send, _Portal.future)


class Subscription(_Closing):
    """See `unibus.Subscription`: iterate over it in a `with` block, or call `run`."""

    def __init__(self, portal: _Portal, inner: unibus.Subscription) -> None:
        self._portal = portal
        self._inner = inner

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
        with ThreadPoolExecutor(concurrency, "unibus-handler") as threads:

            async def in_thread(message: Message) -> None:
                context = contextvars.copy_context()  # so that the client knows what a handler calls
                await asyncio.get_running_loop().run_in_executor(threads, context.run, handler, message)

            self._portal.call(self._inner.run(in_thread, concurrency=concurrency))

    close = _blocking(unibus.Subscription.close)


class Room:
    """See `unibus.Room`."""

    def __init__(self, portal: _Portal, inner: unibus.Room) -> None:
        self._portal = portal
        self._inner = inner
        self.id = inner.id

    def __repr__(self) -> str:
        return repr(self._inner)

    info = _blocking(unibus.Room.info)
    update = _blocking(unibus.Room.update)
    delete = _blocking(unibus.Room.delete)
    purge = _blocking(unibus.Room.purge)
    delete_message = _blocking(unibus.Room.delete_message)
    publish = _blocking(unibus.Room.publish)
    history = _iterating(unibus.Room.history)
    add_member = _blocking(unibus.Room.add_member)
    remove_member = _blocking(unibus.Room.remove_member)
    members = _iterating(unibus.Room.members)
    subscribers = _iterating(unibus.Room.subscribers)
    seek_subscriber = _blocking(unibus.Room.seek_subscriber)
    delete_subscriber = _blocking(unibus.Room.delete_subscriber)

    publisher = _making(unibus.Room.publisher, Publisher)
    subscribe = _making(unibus.Room.subscribe, Subscription)


class Client(_Closing):
    """See `unibus.Client`. It may be used by several threads."""

    def __init__(self, portal: _Portal, inner: unibus.Client) -> None:
        self._portal = portal
        self._inner = inner

    def room(self, room_id: str) -> Room:
        return Room(self._portal, self._inner.room(room_id))

    close = _blocking(unibus.Client.close)
    rooms = _iterating(unibus.Client.rooms)
    create_room = _wrapping(unibus.Client.create_room, Room)


def _connecting(connect: Callable[P, unibus.Client]) -> Callable[P, Client]:
    @functools.wraps(connect)
    def call(*args: P.args, **kwargs: P.kwargs) -> Client:
        kwargs.update(_in_threads(kwargs))
        return Client(_Portal.shared(), connect(*args, **kwargs))

    return call


connect = _connecting(unibus.connect)
