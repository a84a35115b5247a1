"""What a service does rarely, against a scripted service."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc
import pytest
from service import Context, Service, message, opened, refuse, serving, status

import unibus
from unibus import Outcome, UnibusError
from unibus.v1 import room_service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine

LIMIT = 5.0


def run(test: Coroutine[object, object, None]) -> None:
    asyncio.run(asyncio.wait_for(test, LIMIT))


async def nothing(_: unibus.Message) -> None: ...


# --- close from everywhere (U27)


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("what", ["subscription", "client"])
def test_close_in_a_handler_asks_for_the_end(what: str, concurrency: int) -> None:
    async def test() -> None:
        service = Service()
        async with serving(service) as client:
            subscription = client.room("r").subscribe("s")

            async def handle(_: unibus.Message) -> None:
                await (client if what == "client" else subscription).close()

            await subscription.run(handle, concurrency=concurrency)
        assert service.commands[-1] == "close"
        assert any(command.startswith("ack") for command in service.commands)

    run(test())


@pytest.mark.parametrize("concurrency", [1, 4])
def test_close_in_a_task_that_a_handler_made_waits_for_the_end(concurrency: int) -> None:
    async def test() -> None:
        service, closing, began = Service(), list[asyncio.Task[None]](), asyncio.Event()
        async with serving(service) as client:

            async def handle(_: unibus.Message) -> None:
                closing.append(asyncio.create_task(client.close()))
                began.set()

            running = asyncio.create_task(client.room("r").subscribe("s").run(handle, concurrency=concurrency))
            await began.wait()
            await closing[0]
            assert service.commands[-1] == "close"
            assert service.commands[-2].startswith("ack")
            await running

    run(test())


@pytest.mark.parametrize("concurrency", [1, 4])
def test_close_in_an_observer_asks_for_the_end(concurrency: int) -> None:
    async def test() -> None:
        async with serving(Service()) as client:

            async def observe(_: unibus.Event) -> None:
                await client.close()

            await client.room("r").subscribe("s", on_event=observe).run(nothing, concurrency=concurrency)

    run(test())


def test_close_of_the_client_does_not_wait_for_the_iterator_that_calls_it() -> None:
    async def test() -> None:
        async with serving(Service()) as client, client.room("r").subscribe(ack_timeout=60) as messages:
            async for _ in messages:
                await client.close()

    run(test())


def test_close_by_another_task_waits_for_handlers_and_acknowledges() -> None:
    async def test() -> None:
        service, began = Service(), asyncio.Event()
        async with serving(service) as client:

            async def handle(_: unibus.Message) -> None:
                began.set()
                await asyncio.sleep(0.1)

            running = asyncio.create_task(client.room("r").subscribe("s").run(handle))
            await began.wait()
            await client.close()
            await running
        assert service.commands == ["open", "ack 1", "close"]

    run(test())


def test_a_handler_can_use_a_publisher_to_its_end() -> None:
    class Answers(Service):
        async def PublishStream(
            self, requests: AsyncIterator[pb.PublishStreamRequest], context: Context
        ) -> AsyncIterator[pb.PublishStreamResponse]:
            async for request in requests:
                self.commands.append("publish")
                yield pb.PublishStreamResponse(correlation_id=request.correlation_id, result=pb.PublishResponse(sequence=1))

    async def test() -> None:
        service, began = Answers(), asyncio.Event()
        async with serving(service) as client:
            publisher = client.room("r").publisher()
            await (await publisher.send(b""))

            async def handle(_: unibus.Message) -> None:
                began.set()
                await asyncio.sleep(0.1)
                await (await publisher.send(b""))

            running = asyncio.create_task(client.room("r").subscribe("s").run(handle))
            await began.wait()
            await client.close()
            await running
        assert service.commands == ["publish", "open", "publish", "ack 1", "close"]

    run(test())


def test_a_publisher_that_waits_for_its_window_ends_with_close() -> None:
    async def test() -> None:
        client = unibus.connect("http://127.0.0.1:1")
        publisher = client.room("r").publisher(max_unanswered=2, close_timeout=0.1)
        sends = [asyncio.create_task(publisher.send(b"x")) for _ in range(4)]
        await asyncio.sleep(0.1)
        await asyncio.gather(publisher.close(), publisher.close())
        for first in sends[:2]:
            error = (await first).exception()
            assert isinstance(error, UnibusError)
            assert not error.outcome_unknown, "it was never given to a stream"
        for later in sends[2:]:
            with pytest.raises(UnibusError, match="closed"):
                await later
        await client.close()

    run(test())


def test_an_iterator_goes_on_after_a_time_limit() -> None:
    async def test() -> None:
        async with serving(Service()) as client, client.room("r").subscribe("s") as messages:
            for sequence in (1, 2, 3):
                assert (await anext(messages)).sequence == sequence
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(anext(messages), 0.05)
            waiting = asyncio.ensure_future(anext(messages, None))
            await asyncio.sleep(0.05)
            assert not waiting.done()
            await messages.close()
            assert await waiting is None

    run(test())


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_handler_may_be_a_plain_function(concurrency: int) -> None:
    async def test() -> None:
        service, handled = Service(), list[int]()
        async with serving(service) as client:
            subscription = client.room("r").subscribe("s")

            def handle(received: unibus.Message) -> None:
                handled.append(received.sequence)
                if received.sequence == 3:
                    subscription.request_stop()

            await subscription.run(handle, concurrency=concurrency)
        assert handled == [1, 2, 3]
        assert service.commands == ["open", "ack 3", "close"]

    run(test())


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("where", ["handler", "observer"])
def test_an_error_of_the_program_ends_the_subscription(where: str, concurrency: int) -> None:
    async def test() -> None:
        service = Service()
        async with serving(service) as client:

            def fail(received: object) -> None:
                if isinstance(received, unibus.Opened) or (isinstance(received, unibus.Message) and received.sequence == 2):
                    raise LookupError

            subscription = client.room("r").subscribe("s", on_event=fail if where == "observer" else None)
            with pytest.raises(LookupError):
                await subscription.run(fail, concurrency=concurrency)
        assert [command for command in service.commands if "ack" in command] == (["ack 1"] if where == "handler" else [])

    run(test())


def test_a_client_belongs_to_one_event_loop() -> None:
    client = unibus.connect("http://127.0.0.1:1", call_timeout=0.05)

    async def call() -> None:
        await client.room("r").info()

    with pytest.raises(UnibusError):
        asyncio.run(call())
    with pytest.raises(RuntimeError, match="one event loop"):
        asyncio.run(call())


def test_a_publisher_does_not_wait_for_ever_for_the_end_of_a_stream() -> None:
    class NeverEnds(Service):
        async def PublishStream(
            self, requests: AsyncIterator[pb.PublishStreamRequest], context: Context
        ) -> AsyncIterator[pb.PublishStreamResponse]:
            request = await anext(requests)
            self.commands.append("publish")
            answer = pb.PublishStreamResponse(correlation_id=request.correlation_id)
            if len(self.commands) > 1:
                answer.result.sequence = 1
            else:
                answer.error.CopyFrom(status(grpc.StatusCode.UNAVAILABLE, "NATS_UNAVAILABLE", 0))
            yield answer
            await asyncio.sleep(30)

    async def test() -> None:
        async with serving(NeverEnds(), attempt_timeout=0.5) as client, client.room("r").publisher() as publisher:
            assert (await (await publisher.send(b"x"))).sequence == 1

    run(test())


def test_a_publisher_does_not_wait_for_longer_than_the_room_remembers_ids() -> None:
    class Later(Service):
        async def PublishStream(
            self, requests: AsyncIterator[pb.PublishStreamRequest], context: Context
        ) -> AsyncIterator[pb.PublishStreamResponse]:
            async for _ in requests:
                await refuse(context, grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED", 3600)
                yield pb.PublishStreamResponse()

    async def test() -> None:
        async with serving(Later()) as client, client.room("r").publisher() as publisher:
            answers = [await publisher.send(b"x")]
            await asyncio.wait(answers)
            answers.append(await publisher.send(b"while the service wants no messages"))
            for answer in answers:
                with pytest.raises(UnibusError) as caught:
                    await answer
                assert (caught.value.reason, caught.value.outcome_unknown) == ("RATE_LIMITED", False)

    run(test())


# --- outcomes and tokens


def test_an_attempt_that_was_cut_short_leaves_the_outcome_unknown() -> None:
    class Slow(Service):
        attempts = 0

        async def Publish(self, request: pb.PublishRequest, context: Context) -> pb.PublishResponse:
            self.attempts += 1
            if self.attempts == 1:
                await refuse(context, grpc.StatusCode.UNAVAILABLE, "NATS_UNAVAILABLE", 0.01)
            await asyncio.sleep(30)
            return pb.PublishResponse()

    async def test() -> None:
        async with serving(Slow()) as client:
            with pytest.raises(UnibusError) as caught:
                await client.room("r").publish(b"x", timeout=0.5)
        assert (caught.value.reason, caught.value.outcome_unknown) == ("NATS_UNAVAILABLE", True)
        assert caught.value.message_id

    run(test())


def test_a_supplier_that_is_cancelled_is_no_cancel_by_the_program() -> None:
    async def supply() -> str:
        raise asyncio.CancelledError

    async def test() -> None:
        events: list[unibus.Event] = []
        async with serving(Service(), token=supply, plaintext_token=True, call_timeout=0.1) as client:
            with pytest.raises(UnibusError) as caught:
                await client.room("r").info()
            assert caught.value.outcome is Outcome.AGAIN
            subscription = client.room("r").subscribe(on_event=events.append)
            running = asyncio.create_task(subscription.run(nothing))
            await asyncio.sleep(0.3)
            assert not running.done()
            await subscription.close()
            await running
        assert all(isinstance(event, unibus.Disconnected) for event in events)

    run(test())


@pytest.mark.parametrize("token", ["", "\n", "é", "a\nb"])
def test_a_token_that_no_header_can_carry_is_refused(token: str) -> None:
    async def test() -> None:
        async with serving(Service(), token=lambda: token, plaintext_token=True, call_timeout=0.1) as client:
            with pytest.raises(UnibusError, match="token must not be empty"):
                await client.room("r").info()

    with pytest.raises(ValueError, match="token"):
        unibus.connect("http://127.0.0.1:1", token=token, plaintext_token=True)
    run(test())


def test_a_token_loses_the_line_feed_of_its_file() -> None:
    class Guarded(Service):
        async def GetRoom(self, request: pb.GetRoomRequest, context: Context) -> pb.GetRoomResponse:
            self.commands += [str(value) for key, value in context.invocation_metadata() or () if key == "authorization"]
            return await super().GetRoom(request, context)

    async def test() -> None:
        service = Guarded()
        for token in ("t\n", lambda: "t\n"):
            async with serving(service, token=token, plaintext_token=True) as client:
                await client.room("r").info()
        assert service.commands == ["Bearer t"] * 2

    run(test())


def test_a_room_that_refuses_ids_for_ever_is_an_error() -> None:
    class Odd(Service):
        async def Publish(self, request: pb.PublishRequest, context: Context) -> pb.PublishResponse:
            self.commands.append("publish")
            await refuse(context, grpc.StatusCode.FAILED_PRECONDITION, "ROOM_NOT_PERSISTED")
            return pb.PublishResponse()

    async def test() -> None:
        service = Odd()
        async with serving(service) as client:
            with pytest.raises(UnibusError) as caught:
                await client.room("r").publish(b"x")
        assert caught.value.reason == "ROOM_NOT_PERSISTED"
        assert service.commands == ["publish"] * 2

    run(test())


# --- subscriptions


def test_a_new_log_is_noticed_although_no_message_was_processed() -> None:
    class NewLog(Service):
        streams = 0

        async def Consume(
            self, requests: AsyncIterator[pb.ConsumeRequest], context: Context
        ) -> AsyncIterator[pb.ConsumeResponse]:
            self.streams += 1
            yield opened(resumed=False)
            for sequence in (1, 2, 3):
                yield message(sequence, b"old" if self.streams == 1 else b"new")
            if self.streams == 1:
                await refuse(context, grpc.StatusCode.UNAVAILABLE)
            async for answer in self.answers(requests):
                yield answer

    async def test() -> None:
        service, handled = NewLog(), []
        async with serving(service) as client:
            subscription = client.room("r").subscribe("s")

            async def handle(m: unibus.Message) -> None:
                handled.append((m.sequence, m.payload))
                await asyncio.sleep(
                    0.5 if len(handled) == 1 else 0
                )  # meanwhile the stream breaks, and the room is a new one
                if handled[-1] == (2, b"new"):
                    await subscription.close()

            await subscription.run(handle)
        assert handled == [(1, b"old"), (1, b"new"), (2, b"new")]
        assert "ack 3" not in service.commands

    run(test())


def test_a_status_of_the_service_is_no_cancel() -> None:
    class Cancels(Service):
        async def Consume(
            self, requests: AsyncIterator[pb.ConsumeRequest], context: Context
        ) -> AsyncIterator[pb.ConsumeResponse]:
            self.commands.append("open")
            if len(self.commands) == 1:
                await context.abort(grpc.StatusCode.CANCELLED, "a proxy")
            yield opened()
            yield message(1)
            async for answer in self.answers(requests):
                yield answer

    async def test() -> None:
        async with serving(Cancels()) as client, client.room("r").subscribe() as messages:
            async for received in messages:
                assert received.sequence == 1
                break

    run(test())


def test_subscriptions_leave_no_tasks() -> None:
    async def test() -> None:
        async with serving(Service()) as client:
            for _ in range(20):
                async with client.room("r").subscribe("s") as messages:
                    await anext(messages)
            tasks = {task for task in asyncio.all_tasks() if "unibus" in repr(task.get_coro())}
            assert not tasks
            assert not client._connection.owned

    run(test())
