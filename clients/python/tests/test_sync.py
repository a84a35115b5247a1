import asyncio
import inspect
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from service import Service

import unibus
from unibus import UnibusError, sync
from unibus.v1.room_service_pb2_grpc import add_RoomServiceServicer_to_server

HERE = Path(__file__).parent.parent


@contextmanager
def serving(**options: Any) -> Iterator[tuple[sync.Client, Service]]:
    """A blocking client of a scripted service."""

    async def serve() -> tuple[grpc.aio.Server, int]:
        server = grpc.aio.server()
        add_RoomServiceServicer_to_server(service, server)  # type: ignore[no-untyped-call,unused-ignore]
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        return server, port

    service, portal = Service(), sync._Portal.shared()
    server, port = portal.call(serve())
    try:
        with sync.connect(f"http://127.0.0.1:{port}", **options) as client:
            yield client, service
    finally:
        portal.call(server.stop(None))


@pytest.mark.parametrize("name", ["Client", "Room", "Publisher", "Subscription"])
def test_the_blocking_face_has_the_same_names_and_parameters(name: str) -> None:
    ours, theirs = vars(getattr(unibus, name)), vars(getattr(sync, name))
    internal = {"handling", "is_inside", "request_stop"}
    for method, wrapped in ours.items():
        if method.startswith("_") or not callable(wrapped) or method in internal:
            continue
        given = inspect.signature(theirs[method]).parameters
        assert list(given) == list(inspect.signature(wrapped).parameters), method
    assert list(inspect.signature(sync.connect).parameters) == list(inspect.signature(unibus.connect).parameters)


def test_an_interrupt_cancels_the_call_and_waits_for_its_end() -> None:
    ended = []

    async def work() -> None:
        try:
            await asyncio.sleep(30)
        finally:
            await asyncio.sleep(0.05)  # such as the last acknowledgement
            ended.append(True)

    main = threading.main_thread().ident
    assert main is not None
    threading.Timer(0.2, signal.pthread_kill, (main, signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        sync._Portal.shared().call(work())
    assert ended == [True]


def test_a_call_in_a_callback_of_a_future_is_an_error_and_no_deadlock() -> None:
    with sync.connect("http://127.0.0.1:1") as client:
        raised: Future[BaseException | None] = Future()

        def call(_: Future[unibus.Published]) -> None:
            try:
                client.room("r").info()
            except RuntimeError as error:
                raised.set_result(error)

        with client.room("r").publisher(close_timeout=0.05) as publisher:
            publisher.send(b"x").add_done_callback(call)
        assert isinstance(raised.result(5), RuntimeError)


@pytest.mark.parametrize("what", ["client", "subscription"])
@pytest.mark.parametrize("concurrency", [1, 2])
def test_close_in_a_handler_asks_for_the_end(what: str, concurrency: int) -> None:
    with serving() as (client, service):
        subscription = client.room("r").subscribe("s")
        subscription.run(lambda _: (client if what == "client" else subscription).close(), concurrency=concurrency)
    assert service.commands[-1] == "close"
    assert any(command.startswith("ack") for command in service.commands)


def test_functions_of_the_program_run_after_the_main_thread_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("concurrent.futures.thread._shutdown", True)
    handled, events = list[int](), list[unibus.Event]()
    with serving(token=lambda: "t", plaintext_token=True) as (client, _):
        subscription = client.room("r").subscribe("s", on_event=events.append)

        def handle(message: unibus.Message) -> None:
            handled.append(message.sequence)
            if message.sequence == 3:
                subscription.close()

        subscription.run(handle, concurrency=2)
    assert handled == [1, 2, 3]
    assert isinstance(events[0], unibus.Opened)


@pytest.mark.parametrize("where", ["handler", "observer"])
def test_an_exit_in_another_thread_ends_the_subscription_and_not_the_event_loop(where: str) -> None:
    with serving() as (client, service):

        def leave(_: object) -> None:
            raise SystemExit(3)

        subscription = client.room("r").subscribe("s", on_event=leave if where == "observer" else None)
        with pytest.raises(SystemExit):
            subscription.run(leave, concurrency=2)
        assert client.room("r").info().id == "r"
    assert "ack" not in " ".join(service.commands)


def test_functions_for_tokens_that_hang_hold_up_no_others() -> None:
    hang, asked = threading.Event(), []

    def supply() -> str:
        asked.append(1)
        if len(asked) <= 50:
            hang.wait(30)
        return "t"

    with serving(token=supply, plaintext_token=True, attempt_timeout=0.02) as (client, _):
        for _ in range(50):
            with pytest.raises(UnibusError):
                client.room("r").info(timeout=0.02)
        assert client.room("r").info().id == "r"
    hang.set()


def test_errors_come_through() -> None:
    with sync.connect("http://127.0.0.1:1") as client, client.room("r").publisher() as publisher:
        pass
    with pytest.raises(UnibusError, match="closed"):
        client.room("r").info()
    with pytest.raises(UnibusError, match="closed"):
        publisher.send(b"x")
    with pytest.raises(ValueError, match="forwards"):
        client.room("r").history(before=1)


def test_the_readme_shows_the_quick_start_as_it_is() -> None:
    def code(text: str) -> list[str]:
        return [line for line in text.splitlines() if line.strip()]

    printed = (HERE / "README.md").read_text().split("```python\n")[1].split("```")[0]
    program = (HERE / "examples" / "quickstart.py").read_text().partition('"""\n\n')[2]
    assert code(printed) == code(program)
    assert len(code(program)) <= 15
