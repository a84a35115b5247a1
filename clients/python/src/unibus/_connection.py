"""The channel to the service, tokens, and calls that are attempted until they succeed."""

from __future__ import annotations

import asyncio
import binascii
import contextlib
import inspect
import ipaddress
import math
import os
import re
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

import grpc

from unibus._errors import Outcome, UnibusError, error_from_rpc, failure, timed_out
from unibus._publish import Policies
from unibus._retry import MAX_PAUSE, Backoff, now
from unibus.v1.room_service_pb2_grpc import RoomServiceStub

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator

    from unibus.v1.room_service_pb2_grpc import RoomServiceAsyncStub

Req = TypeVar("Req")
Res = TypeVar("Res")
T = TypeVar("T")
Pem = bytes | str | os.PathLike[str]
"""A PEM text as bytes, or the path of a PEM file."""
TokenSupplier = Callable[[], "str | Awaitable[str]"]
"""A function, also an async one, that returns a token. It is called for each attempt of each call (U8)."""
Metadata = tuple[tuple[str, str], ...]

VERSION = "0.1.0"
MIB = 1024 * 1024
LONGEST = 10.0**7
"""The longest time in seconds that gRPC gets for a call: it does not take an infinite one."""
RENEW_AFTER = 5.0
"""The time in seconds after which a channel to a name that cannot connect is made again (U4)."""


@dataclass(eq=False, repr=False)
class Connection:
    """One HTTP/2 connection to the service. It is made when the first call needs it, and made again when it breaks.

    The fields are the parameters of `unibus.connect`.
    """

    address: str
    ca: Pem | None = None
    certificate: Pem | None = None
    private_key: Pem | None = None
    token: str | TokenSupplier | None = None
    plaintext_token: bool = False
    attempt_timeout: float = 10.0
    call_timeout: float = 60.0
    publish_timeout: float | None = None
    receive_limit: int = 16 * MIB

    def __post_init__(self) -> None:
        self._target, self._host, secure = parse_address(self.address)
        self._credentials: grpc.ChannelCredentials | None = None
        self._channel: grpc.aio.Channel | None = None
        self._stub: RoomServiceAsyncStub | None = None
        self._names: WeakKeyDictionary[Any, str] = WeakKeyDictionary()  # of the calls of all stubs
        self._active = 0  # calls and streams that are open
        self._failing: float | None = None  # since when the channel cannot connect
        self.closed = False
        self._closing = asyncio.Event()
        self.owned: set[Any] = set()  # the open subscriptions and publishers
        self.policies = Policies(self)
        if secure:
            if (self.certificate is None) != (self.private_key is None):
                raise ValueError("a client certificate needs its private key, and a private key its certificate")
            roots = system_roots() if self.ca is None else read_pem(self.ca)
            key, chain = (None if pem is None else read_pem(pem) for pem in (self.private_key, self.certificate))
            check_certificates([pem for pem in (None if self.ca is None else roots, chain) if pem is not None], key)
            if not (isinstance(self.certificate, bytes | None) or isinstance(self.private_key, bytes | None)):
                check_pair(self.certificate, self.private_key)
            self._credentials = grpc.ssl_channel_credentials(roots, key, chain)
        elif self.ca is not None or self.certificate is not None or self.private_key is not None:
            raise ValueError("certificates need an https address")
        elif self.token is not None and not (self.plaintext_token and is_loopback(self._host)):
            raise ValueError("a token is sent over plaintext only to a loopback address, and only with plaintext_token=True")
        if self.token is not None and not callable(self.token):
            self.token = checked_token(self.token)

    @property
    def stub(self) -> RoomServiceAsyncStub:
        """The generated stub. Raises if the client was closed."""
        if self.closed:
            raise closed_error()
        if self._stub is None:
            self._loop = asyncio.get_running_loop()
            self._stub = self._connect()
        elif self._loop is not asyncio.get_running_loop():
            raise RuntimeError("a client belongs to one event loop, and this is another one")
        return self._stub

    def _connect(self) -> RoomServiceAsyncStub:
        stub: RoomServiceAsyncStub = RoomServiceStub(self._open())
        self._names.update({method: name for name, method in vars(stub).items()})
        return stub

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """The channel has an open call or stream meanwhile, so that it is not made again."""
        self._active += 1
        try:
            yield
        finally:
            self._active -= 1

    def _open(self) -> grpc.aio.Channel:
        options: list[tuple[str, int | str]] = [
            ("grpc.primary_user_agent", f"unibus-python/{VERSION}"),
            ("grpc.max_receive_message_length", self.receive_limit),  # U7
            ("grpc.keepalive_time_ms", 20_000),  # U6
            ("grpc.keepalive_timeout_ms", 10_000),
            ("grpc.http2.ping_timeout_ms", 10_000),  # the time for the answer is in truth this one
            ("grpc.http2.max_pings_without_data", 0),  # otherwise only two pings go out while nothing is sent
            ("grpc.initial_reconnect_backoff_ms", 100),  # U4; gRPC adds up to a fifth
            ("grpc.max_reconnect_backoff_ms", 1_600),
            ("grpc.min_reconnect_backoff_ms", 5_000),  # despite its name the time that one connection may take
            ("grpc.dns_min_time_between_resolutions_ms", 2_000),
            ("grpc.use_local_subchannel_pool", 1),
        ]
        if is_loopback(self._host):
            options.append(("grpc.enable_http_proxy", 0))
        if self._credentials is None:
            self._channel = grpc.aio.insecure_channel(self._target, options=options)
        else:
            self._channel = grpc.aio.secure_channel(self._target, self._credentials, options=options)
        return self._channel

    async def close(self) -> None:
        """Ends all calls and closes the connection."""
        self.closed = True
        self._closing.set()
        if self._channel is not None:
            await self._channel.close()

    async def next_token(self, timeout: float) -> str | None:
        """The token for the next attempt (U8)."""
        supplier = self.token
        if not callable(supplier):
            return supplier

        async def supply() -> str:
            return checked_token(await settle(supplier()))

        try:
            return await within(supply(), timeout, self._closing)
        except Exception as cause:
            code = grpc.StatusCode.DEADLINE_EXCEEDED if isinstance(cause, TimeoutError) else grpc.StatusCode.UNAVAILABLE
            raise failure(code, f"the supplier of tokens failed: {cause!r}", outcome_unknown=False) from cause

    async def wait(self, pause: float) -> None:
        """Waits before the next attempt, but no longer than until the client is closed."""
        with contextlib.suppress(TimeoutError):
            await within(self._closing.wait(), pause)

    async def reachable(self, longest: float = MAX_PAUSE) -> None:
        """Waits while gRPC pauses between two connections, so that the next attempt is a real one (U4).

        After a name did not resolve, gRPC asks for it again after pauses of up to two minutes, and has no option for that.
        A new channel asks at once.
        """
        if self._channel is not None and not self.closed:
            channel = self._channel
            state = channel.get_state(try_to_connect=True)
            if state is not grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                self._failing = None
                return
            self._failing = self._failing or now()
            if not is_address(self._host) and now() - self._failing >= RENEW_AFTER and self._active == 0:
                self._stub, self._failing = self._connect(), None
                await channel.close()
            else:
                with contextlib.suppress(Exception):  # whatever it is, the next attempt shows it
                    await within(channel.wait_for_state_change(state), min(longest, MAX_PAUSE), self._closing)

    async def call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Req, Res],
        request: Req,
        *,
        timeout: float | None = None,
        total: float | None = None,
        begin_within: float = math.inf,
        repeat_unknown: bool = True,
    ) -> Res:
        """Attempts a call until it succeeds, fails finally, or its time is up (U9).

        All attempts together take at most `total` and `timeout`, and none begins later than `begin_within`.
        """
        attempts = Attempts(self)
        begin = now()
        end = begin + min(self.call_timeout if total is None else total, math.inf if timeout is None else timeout)
        latest = min(end, begin + begin_within)
        last: UnibusError | None = None
        while True:
            limit = min(self.attempt_timeout, max(0.001, end - now()))
            outcome = await self._attempt(method, request, attempts, limit)
            if not isinstance(outcome, UnibusError):
                return outcome
            if last is not None:
                outcome.outcome_unknown |= last.outcome_unknown
                if limit < self.attempt_timeout and timed_out(outcome):
                    last.outcome_unknown = outcome.outcome_unknown
                    raise last  # this attempt was cut short, so the one before tells more
            last = outcome
            if last.outcome_unknown and not repeat_unknown:
                raise last
            pause = attempts.pause(last)
            if now() + pause >= latest:
                raise last
            await self.wait(pause)
            await self.reachable(latest - now())
            if now() >= latest:
                raise last

    async def pages(self, method: grpc.aio.UnaryUnaryMultiCallable[Req, Any], request: Any) -> AsyncIterator[Any]:
        """The pages of a list. Each page is a call."""
        while True:
            page = await self.call(method, request)
            yield page
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def _attempt(
        self, method: grpc.aio.UnaryUnaryMultiCallable[Req, Res], request: Req, attempts: Attempts, timeout: float
    ) -> Res | UnibusError:
        """One attempt. An error is returned and not raised, since its traceback would keep the call of gRPC alive."""
        end = now() + timeout
        try:
            metadata = () if self.closed else await attempts.credentials(timeout)
            if self.closed:
                return closed_error()
            if method in self._names:
                method = getattr(self.stub, self._names[method])  # the channel may be another one now
            with self.in_use():
                return await method(request, timeout=min(LONGEST, max(0.001, end - now())), metadata=metadata)
        except UnibusError as error:
            return error
        except grpc.aio.AioRpcError as error:
            return error_from_rpc(error)
        except asyncio.CancelledError:
            # close() cancels the calls of the channel; that must not look like a cancel of this task
            if self.closed and not being_cancelled():
                return closed_error(outcome_unknown=True)
            raise


class Attempts:
    """The attempts of one call or stream: their pauses (U4) and tokens (U8)."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._backoff = Backoff()
        self._token: str | None = None
        self._refused: UnibusError | None = None

    async def credentials(self, timeout: float | None = None) -> Metadata:
        """The metadata for the next attempt. Raises the last error if the supplier repeats a refused token."""
        token = await self._connection.next_token(self._connection.attempt_timeout if timeout is None else timeout)
        if self._refused is not None and token == self._token:
            self._refused.outcome = Outcome.FINAL
            raise self._refused
        self._token, self._refused = token, None
        return () if token is None else (("authorization", f"Bearer {token}"),)

    def pause(self, error: UnibusError) -> float:
        """The pause after an outcome. Raises it if it is final."""
        if error.outcome is Outcome.NEW_TOKEN:
            if not callable(self._connection.token):
                error.outcome = Outcome.FINAL
            self._refused = error
        if error.outcome is Outcome.FINAL:
            raise error
        return self._backoff.pause(error.retry_after)

    def reset(self) -> None:
        self._backoff.reset()


async def settle(result: Any) -> Any:
    """The result of a function of the program, which may be an async one."""
    return await result if inspect.isawaitable(result) else result


async def within(work: Coroutine[object, object, T], seconds: float, closing: asyncio.Event | None = None) -> T:
    """The result of the work, or TimeoutError: after this time, or when the client is closed.

    Unlike asyncio.wait_for before 3.12 it never loses a cancel (U3).
    """
    task = asyncio.ensure_future(work)
    waits: set[asyncio.Future[Any]] = {task} if closing is None else {task, asyncio.ensure_future(closing.wait())}
    try:
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            if not wait.done():
                wait.cancel()
    if not task.done():
        raise TimeoutError(f"no result in {seconds} s")
    if task.cancelled():
        raise RuntimeError("the work was cancelled")  # not by the program, which cancels the task that waits here (U3)
    if (error := task.exception()) is not None and not isinstance(error, Exception):
        raise RuntimeError(f"the work ended with {error!r}") from error
    return task.result()


async def drive(
    call: grpc.aio.StreamStreamCall[Any, Any],
    reader: asyncio.Task[UnibusError | None],
    writer: asyncio.Task[None],
    tick: Callable[[], UnibusError | None],
    interval: Callable[[], float],
) -> UnibusError | None:
    """Runs a stream until its reader ends, or until a tick gives up. Returns why it ended."""
    try:
        while not reader.done():
            await asyncio.wait({reader}, timeout=interval())
            if not reader.done() and (gave_up := tick()) is not None:
                return gave_up
        if reader.cancelled():
            return closed_error(outcome_unknown=True)  # nobody else cancels it
        error = reader.exception()
        return reader.result() if error is None else failure(grpc.StatusCode.UNKNOWN, repr(error))
    finally:
        reader.cancel()
        writer.cancel()
        call.cancel()
        await asyncio.gather(reader, writer, return_exceptions=True)


def being_cancelled() -> bool:
    """Whether somebody cancels the current task. Python 3.10 cannot tell, and then the answer is no."""
    cancelling = getattr(asyncio.current_task(), "cancelling", None)
    return cancelling is not None and cancelling() > 0


def closed_error(message: str = "the client is closed", *, outcome_unknown: bool = False) -> UnibusError:
    return UnibusError(grpc.StatusCode.CANCELLED, message, outcome=Outcome.FINAL, outcome_unknown=outcome_unknown)


def parse_address(address: str) -> tuple[str, str, bool]:
    """The gRPC target, the host, and whether TLS is used (U5)."""
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"the address must be https://host:port or http://host:port, not {address!r}")
    if parts.path not in ("", "/") or parts.query or parts.fragment or parts.username is not None:
        raise ValueError(f"the address must have a host and a port only, not {address!r}")
    secure = parts.scheme == "https"
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"dns:///{host}:{parts.port or (443 if secure else 80)}", parts.hostname, secure


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_address(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return bool(ipaddress.ip_address(host))
    return False


def checked_token(token: str) -> str:
    """The token without white space around it, such as the line feed at the end of a file."""
    token = token.strip()
    if not token or not token.isascii() or not token.isprintable():
        raise ValueError("a token must not be empty, and has printable ASCII characters only")
    return token


def read_pem(pem: Pem) -> bytes:
    text = pem if isinstance(pem, bytes) else Path(pem).read_bytes()
    if b"-----BEGIN " not in text:
        raise ValueError("a certificate or a key is no PEM text, or not the path of one")
    return text


def check_certificates(certificates: Iterable[bytes], key: bytes | None) -> None:
    """Raises ValueError for what gRPC would refuse at each connection, where it looks like a service that is away."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        for pem in certificates:
            context.load_verify_locations(cadata=pem.decode("ascii", "ignore"))
        if key is not None:
            found = re.search(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----(.+?)-----END", key, re.DOTALL)
            if found is None or b"ENCRYPTED" in found[0]:
                raise ValueError("the private key is no PEM text of a key without a password")
            binascii.a2b_base64(found[1])
    except (ssl.SSLError, binascii.Error) as error:
        raise ValueError(f"a certificate or a key is no valid PEM text: {error}") from error


def check_pair(certificate: str | os.PathLike[str], key: str | os.PathLike[str]) -> None:
    """Raises ValueError if the files do not belong together."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certificate, key)
    except ssl.SSLError as error:
        if "_TOO_" not in error.reason:  # such as KEY_TOO_SMALL, which gRPC takes
            raise ValueError(f"the certificate and the private key do not fit each other: {error}") from error


def system_roots() -> bytes | None:
    """The certificate authorities of the system. None if there are none: gRPC then uses those that it brings."""
    paths = ssl.get_default_verify_paths()
    files = [Path(paths.cafile)] if paths.cafile else []
    if not files and paths.capath:
        files = sorted(Path(paths.capath).glob("*.[0-9]"))
    roots = b"\n".join(file.read_bytes() for file in files)
    if not roots:  # Windows has no such files
        certificates = ssl.create_default_context().get_ca_certs(binary_form=True)
        roots = "".join(ssl.DER_cert_to_PEM_cert(certificate) for certificate in certificates).encode()
    return roots or None
