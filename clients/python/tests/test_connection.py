import asyncio
from collections.abc import Callable

import grpc
import pytest

import unibus
from unibus import Outcome, UnibusError
from unibus._connection import Attempts, Connection, TokenSupplier, parse_address, system_roots, within
from unibus._retry import Backoff


def connection(token: str | TokenSupplier | None) -> Connection:
    return Connection("https://example.invalid", token=token, attempt_timeout=0.05, call_timeout=1.0)


@pytest.mark.parametrize(
    ("address", "target", "secure"),
    [
        ("https://example.com", "dns:///example.com:443", True),
        ("https://example.com:8443/", "dns:///example.com:8443", True),
        ("http://127.0.0.1:50051", "dns:///127.0.0.1:50051", False),
        ("http://[::1]:50051", "dns:///[::1]:50051", False),
    ],
)
def test_addresses(address: str, target: str, secure: bool) -> None:
    parsed = parse_address(address)
    assert (parsed[0], parsed[2]) == (target, secure)


@pytest.mark.parametrize(
    "address", ["localhost:50051", "tcp://a:1", "https://", "https://a/b", "https://u@a:1", "https://a?b"]
)
def test_wrong_addresses(address: str) -> None:
    with pytest.raises(ValueError, match="address"):
        unibus.connect(address)


@pytest.mark.parametrize(
    ("address", "allowed", "fine"),
    [
        ("http://127.0.0.1:1", True, True),
        ("http://[::1]:1", True, True),
        ("http://localhost:1", True, True),
        ("https://192.0.2.1:1", False, True),
        ("http://127.0.0.1:1", False, False),
        ("http://192.0.2.1:1", True, False),
        ("http://127.0.0.1.example.com:1", True, False),
        ("http://localhost.example.com:1", True, False),
    ],
)
def test_a_token_goes_over_plaintext_to_loopback_only(address: str, allowed: bool, fine: bool) -> None:
    def make() -> unibus.Client:
        return unibus.connect(address, token="secret", plaintext_token=allowed)  # noqa: S106

    if fine:
        make()
    else:
        with pytest.raises(ValueError, match="plaintext"):
            make()


def test_certificates_must_fit() -> None:
    with pytest.raises(ValueError, match="https"):
        unibus.connect("http://127.0.0.1:1", ca=b"pem")
    with pytest.raises(ValueError, match="private key"):
        unibus.connect("https://a:1", certificate=b"pem")
    for pem in (b"pem", __file__, b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        with pytest.raises(ValueError, match="PEM"):
            unibus.connect("https://a:1", ca=pem)
        with pytest.raises(ValueError, match="PEM"):
            unibus.connect("https://a:1", certificate=pem, private_key=pem)


def test_the_system_has_authorities() -> None:
    roots = system_roots()
    assert roots is None or b"BEGIN CERTIFICATE" in roots


def test_pauses_grow_to_two_seconds_and_respect_the_service() -> None:
    backoff = Backoff()
    for longest in (0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0):
        assert longest / 2 <= backoff.pause() <= longest
    assert backoff.pause(7.0) == 7.0
    backoff.reset()
    assert backoff.pause(0.01) <= 0.1


def refusal() -> UnibusError:
    return UnibusError(grpc.StatusCode.UNAUTHENTICATED, "", reason="CREDENTIALS_EXPIRED")


async def outcome_of_refusal(token: str | TokenSupplier | None) -> tuple[tuple[str, str], ...]:
    attempts = Attempts(connection(token))
    await attempts.credentials()
    attempts.pause(refusal())
    return await attempts.credentials()


def test_a_refused_token_is_renewed() -> None:
    tokens = iter(["a", "b"])

    async def supply() -> str:
        return next(tokens)

    assert asyncio.run(outcome_of_refusal(supply)) == (("authorization", "Bearer b"),)


@pytest.mark.parametrize("token", [None, "a", lambda: "a"])
def test_a_refused_token_that_is_not_renewed_is_final(token: str | Callable[[], str] | None) -> None:
    with pytest.raises(UnibusError) as caught:
        asyncio.run(outcome_of_refusal(token))
    assert caught.value.outcome is Outcome.FINAL
    assert caught.value.reason == "CREDENTIALS_EXPIRED"


@pytest.mark.parametrize("slow", [False, True])
def test_a_supplier_that_fails_is_asked_again(slow: bool) -> None:
    async def supply() -> str:
        await asyncio.sleep(10 if slow else 0)
        raise OSError("down")

    with pytest.raises(UnibusError) as caught:
        asyncio.run(Attempts(connection(supply)).credentials())
    assert caught.value.outcome is Outcome.AGAIN
    assert not caught.value.outcome_unknown


def test_a_time_limit_does_not_look_like_a_cancel_and_a_cancel_not_like_a_time_limit() -> None:
    async def limited() -> None:
        with pytest.raises(TimeoutError):
            await within(asyncio.sleep(10), 0.01)
        task = asyncio.create_task(within(asyncio.sleep(10), 10))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(limited())


def test_a_call_of_a_closed_client_is_final() -> None:
    async def call() -> None:
        client = unibus.connect("http://127.0.0.1:1")
        await client.close()
        with pytest.raises(UnibusError) as caught:
            await client.room("r").info()
        assert caught.value.outcome is Outcome.FINAL

    asyncio.run(call())
