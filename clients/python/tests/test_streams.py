"""What the streams of publishers and subscriptions do rarely, against a scripted service."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.rpc import status_pb2
from service import Context, Service, message, opened, refuse, serving, status
from test_faults import nothing, run

import unibus
from unibus import UnibusError
from unibus.v1 import message_pb2, subscription_pb2
from unibus.v1 import room_service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def answer(request: pb.PublishStreamRequest, error: status_pb2.Status | None = None) -> pb.PublishStreamResponse:
    result = None if error is not None else pb.PublishResponse(sequence=1)
    return pb.PublishStreamResponse(correlation_id=request.correlation_id, result=result, error=error)


async def error_of(answer: asyncio.Future[unibus.Published]) -> UnibusError:
    await asyncio.wait({answer})
    error = answer.exception()
    assert isinstance(error, UnibusError)
    return error


# --- publishers


class Silent(Service):
    """Does not answer messages."""

    async def PublishStream(
        self, requests: AsyncIterator[pb.PublishStreamRequest], context: Context
    ) -> AsyncIterator[pb.PublishStreamResponse]:
        async for _ in requests:
            self.commands.append("publish")
        yield pb.PublishStreamResponse()


def test_a_message_that_was_sent_has_an_unknown_outcome_after_close() -> None:
    async def test() -> None:
        async with serving(Silent()) as client:
            publisher = client.room("r").publisher(close_timeout=0.2)
            sent = await publisher.send(b"x")
            await publisher.close()
            error = await error_of(sent)
        assert error.outcome_unknown
        assert error.message_id

    run(test())


@pytest.mark.parametrize("persist", [True, False])
def test_a_message_that_the_service_forgot_before_the_end_has_an_unknown_outcome(persist: bool) -> None:
    class Forgets(Service):
        async def PublishStream(
            self, requests: AsyncIterator[pb.PublishStreamRequest], context: Context
        ) -> AsyncIterator[pb.PublishStreamResponse]:
            received = []
            async for request in requests:
                received.append(request)
                self.commands.append(request.publish.payload.decode())
                if len(received) == 2:
                    yield answer(received[0], status(grpc.StatusCode.UNAVAILABLE, "NATS_UNAVAILABLE", 0))

    async def test() -> None:
        service = Forgets()
        service.persist = persist
        async with serving(service) as client, client.room("r").publisher(close_timeout=0.5) as publisher:
            answers = [await publisher.send(b"1"), await publisher.send(b"2")]
            if persist:
                await asyncio.sleep(0.3)
        error = await error_of(answers[1])
        assert error.outcome_unknown
        assert service.commands.count("2") == (1 if not persist else service.commands.count("1"))

    run(test())


def test_a_token_that_a_message_was_refused_with_is_not_sent_again() -> None:
    class Refuses(Service):
        async def PublishStream(
            self, requests: AsyncIterator[pb.PublishStreamRequest], context: Context
        ) -> AsyncIterator[pb.PublishStreamResponse]:
            self.commands.append("stream")
            errors = [
                status(grpc.StatusCode.UNAVAILABLE, "NATS_UNAVAILABLE", 0.2),
                status(grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_EXPIRED"),
            ]
            received = [await anext(requests), await anext(requests)]
            for request, error in zip(received, errors, strict=True):
                yield answer(request, error)

    async def test() -> None:
        service = Refuses()
        async with serving(service, token=lambda: "t", plaintext_token=True) as client:
            async with client.room("r").publisher() as publisher:
                answers = [await publisher.send(b"1"), await publisher.send(b"2")]
            assert [(await error_of(answer)).reason for answer in answers] == ["CREDENTIALS_EXPIRED"] * 2
        assert service.commands == ["stream"]

    run(test())


def test_an_attempt_of_a_message_takes_no_longer_than_its_time() -> None:
    async def test() -> None:
        async with serving(Silent(), attempt_timeout=1.2, publish_timeout=0.0) as client, client.room("r").publisher() as p:
            begun = asyncio.get_running_loop().time()
            await error_of(await p.send(b"x"))
            assert asyncio.get_running_loop().time() - begun < 1.7

    run(test())


# --- subscriptions


def test_credit_that_came_back_while_the_stream_opened_is_sent() -> None:
    """An ephemeral room whose messages wait in the queue of the client over a reconnection."""

    class Ephemeral(Service):
        def __init__(self) -> None:
            super().__init__()
            self.streams = 0
            self.again, self.go = asyncio.Event(), asyncio.Event()

        async def Consume(
            self, requests: AsyncIterator[pb.ConsumeRequest], context: Context
        ) -> AsyncIterator[pb.ConsumeResponse]:
            self.streams += 1
            if self.streams > 1:
                self.again.set()
                await self.go.wait()
            frame = subscription_pb2.Opened()
            frame.heartbeat_interval.seconds = 10
            yield pb.ConsumeResponse(opened=frame)
            credit = (await anext(requests)).open.credit_messages
            while True:
                for _ in range(credit):
                    yield pb.ConsumeResponse(message=message_pb2.Message())
                if self.streams == 1:
                    await refuse(context, grpc.StatusCode.UNAVAILABLE)
                request = await anext(requests)
                if request.HasField("close"):
                    yield pb.ConsumeResponse(closed=status_pb2.Status())
                    return
                credit = request.credit.messages

    async def test() -> None:
        service, handled = Ephemeral(), 0
        async with serving(service) as client, client.room("r").subscribe(read_ahead=8) as messages:
            async for _ in messages:
                handled += 1
                if handled == 1:
                    await service.again.wait()
                if handled == 8:
                    asyncio.get_running_loop().call_later(0.05, service.go.set)
                if handled == 30:
                    break

    run(test())


def test_a_rejected_acknowledgement_waits_for_its_pause() -> None:
    class Rejects(Service):
        async def Consume(
            self, requests: AsyncIterator[pb.ConsumeRequest], context: Context
        ) -> AsyncIterator[pb.ConsumeResponse]:
            yield opened()
            sequence = 1
            yield message(sequence)
            async for request in requests:
                command: Any = request.WhichOneof("command")
                self.commands.append(command)
                if command == "ack":
                    sequence += 1
                    error = status(grpc.StatusCode.UNAVAILABLE, "NATS_UNAVAILABLE", 1.0)
                    rejected = pb.ConsumeRejected(command=pb.CONSUME_COMMAND_ACK, sequence=request.ack.sequence, error=error)
                    yield pb.ConsumeResponse(rejected=rejected)
                    yield message(sequence)
                if command == "close":
                    yield pb.ConsumeResponse(closed=status_pb2.Status())

    async def test() -> None:
        service = Rejects()
        async with serving(service) as client:
            subscription = client.room("r").subscribe("s", ack_count=1)
            running = asyncio.create_task(subscription.run(nothing))
            await asyncio.sleep(0.5)
            assert service.commands.count("ack") == 1
            await subscription.close()
            await running
        assert service.commands.count("ack") == 2, "the last one does not wait"

    run(test())
