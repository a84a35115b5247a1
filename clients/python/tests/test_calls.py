"""Calls that are cut short, closed, or have strange settings, against a scripted service."""

from __future__ import annotations

import asyncio
import contextlib
import math
from typing import TYPE_CHECKING

import grpc
import pytest
from service import Context, Service, refuse, serving
from test_faults import run

import unibus
from unibus import Outcome, UnibusError
from unibus._connection import within
from unibus._publish import ROOMS_MAX
from unibus.v1 import room_service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable


class Away(Service):
    """Asks for a long pause, and then does not answer."""

    def __init__(self, pause: float) -> None:
        super().__init__()
        self.pause = pause

    async def GetRoom(self, request: pb.GetRoomRequest, context: Context) -> pb.GetRoomResponse:
        self.commands.append("get")
        if len(self.commands) > 1:
            await asyncio.sleep(30)
        await refuse(context, grpc.StatusCode.UNAVAILABLE, "NATS_UNAVAILABLE", self.pause)
        return pb.GetRoomResponse()


async def error_of(work: Awaitable[object]) -> UnibusError:
    with pytest.raises(UnibusError) as caught:
        await work
    return caught.value


def test_a_call_in_its_pause_ends_when_the_client_is_closed() -> None:
    async def test() -> None:
        async with serving(Away(30)) as client:
            call = asyncio.create_task(client.room("r").info())
            await asyncio.sleep(0.1)
            await client.close()
            error = await asyncio.wait_for(error_of(call), 0.5)
        assert error.outcome is Outcome.FINAL

    run(test())


def test_a_call_that_waits_for_a_token_ends_when_the_client_is_closed() -> None:
    async def test() -> None:
        async def supply() -> str:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(30)
            await asyncio.sleep(1.0)  # ignores the cancel
            return "t"

        async with serving(Service(), token=supply, plaintext_token=True) as client:
            call = asyncio.create_task(client.room("r").info())
            await asyncio.sleep(0.05)
            await client.close()
            await asyncio.wait_for(error_of(call), 0.5)

    run(test())


def test_a_publish_that_close_cuts_has_an_unknown_outcome() -> None:
    class Slow(Service):
        async def Publish(self, request: pb.PublishRequest, context: Context) -> pb.PublishResponse:
            await asyncio.sleep(30)
            return pb.PublishResponse()

    async def test() -> None:
        async with serving(Slow()) as client:
            call = asyncio.create_task(client.room("r").publish(b"x"))
            await asyncio.sleep(0.1)
            await client.close()
            error = await error_of(call)
        assert error.outcome_unknown
        assert error.message_id

    run(test())


def test_an_attempt_whose_token_was_cut_short_does_not_hide_the_last_error() -> None:
    async def test() -> None:
        calls = []

        async def supply() -> str:
            calls.append("token")
            await asyncio.sleep(30 if len(calls) > 1 else 0)
            return "t"

        async with serving(Away(0), token=supply, plaintext_token=True) as client:
            error = await error_of(client.room("r").info(timeout=0.4))
        assert error.reason == "NATS_UNAVAILABLE"

    run(test())


@pytest.mark.parametrize("time", [math.inf, 1e15])
def test_times_may_be_infinite(time: float) -> None:
    async def test() -> None:
        async with serving(Service(), attempt_timeout=time, call_timeout=time, publish_timeout=time) as client:
            assert (await client.room("r").info(timeout=time)).id == "r"

    run(test())


def test_another_exception_than_an_error_in_awaited_work_ends_no_task() -> None:
    class Panic(BaseException): ...

    async def supply() -> str:
        raise Panic

    async def test() -> None:
        with pytest.raises(RuntimeError, match="Panic"):
            await within(supply(), 1.0)
        async with serving(Service(), token=supply, plaintext_token=True, call_timeout=0.1) as client:
            assert (await error_of(client.room("r").info())).outcome is Outcome.AGAIN

    run(test())


def test_a_missing_sequence_does_not_purge_everything() -> None:
    async def test() -> None:
        async with serving(Service()) as client:
            with pytest.raises(ValueError, match="up_to"):
                await client.room("r").purge(up_to=None)  # type: ignore[arg-type]

    run(test())


# --- policies


def test_a_publish_does_not_fail_with_the_lookup_of_another() -> None:
    class Slow(Service):
        async def GetRoom(self, request: pb.GetRoomRequest, context: Context) -> pb.GetRoomResponse:
            self.commands.append("get")
            await asyncio.sleep(0 if len(self.commands) > 1 else 30)
            return await super().GetRoom(request, context)

        async def Publish(self, request: pb.PublishRequest, context: Context) -> pb.PublishResponse:
            return pb.PublishResponse(sequence=1)

    async def test() -> None:
        async with serving(Slow(), attempt_timeout=1.0, call_timeout=1.0) as client:
            first = asyncio.create_task(error_of(client.room("r").publish(b"1")))
            await asyncio.sleep(0.8)
            assert (await client.room("r").publish(b"2")).sequence == 1
            assert (await first).code is grpc.StatusCode.DEADLINE_EXCEEDED

    run(test())


def test_a_message_of_a_publisher_does_not_fail_with_the_lookup_for_an_earlier_one() -> None:
    class Slow(Service):
        async def GetRoom(self, request: pb.GetRoomRequest, context: Context) -> pb.GetRoomResponse:
            self.commands.append("get")
            await asyncio.sleep(0 if len(self.commands) > 1 else 30)
            return await super().GetRoom(request, context)

        async def PublishStream(
            self, requests: AsyncIterator[pb.PublishStreamRequest], context: Context
        ) -> AsyncIterator[pb.PublishStreamResponse]:
            async for request in requests:
                yield pb.PublishStreamResponse(correlation_id=request.correlation_id, result=pb.PublishResponse(sequence=1))

    async def test() -> None:
        async with (
            serving(Slow(), attempt_timeout=1.0, call_timeout=1.0) as client,
            client.room("r").publisher() as publisher,
        ):
            first = await publisher.send(b"1")
            await asyncio.sleep(0.8)
            assert (await (await publisher.send(b"2"))).sequence == 1
            assert not (await error_of(first)).outcome_unknown

    run(test())


def test_the_policies_of_rooms_are_bounded() -> None:
    async def test() -> None:
        async with serving(Service()) as client:
            policies = client._connection.policies
            for number in range(ROOMS_MAX + 10):
                await policies.get(f"r{number}")
            assert len(policies._known) == ROOMS_MAX
            assert "r0" not in policies._known

    run(test())


# --- what is opened while the client closes


def test_what_is_opened_while_the_client_closes_ends() -> None:
    async def test() -> None:
        async with serving(Service()) as client:
            room, began = client.room("r"), asyncio.Event()
            late = room.subscribe("late")
            publisher = room.publisher()

            async def handle(_: unibus.Message) -> None:
                began.set()
                await asyncio.sleep(0.2)
                await publisher.send(b"")  # is not answered
                await late.__aenter__()

            running = asyncio.create_task(room.subscribe("s").run(handle))
            await began.wait()
            await client.close()
            await running
            assert not client._connection.owned

    run(test())


def test_an_iterator_whose_task_has_ended_does_not_hold_back_close() -> None:
    async def test() -> None:
        async with serving(Service()) as client:
            messages = client.room("r").subscribe("s", ack_timeout=60)
            take: Callable[[], Awaitable[unibus.Message]] = messages.__anext__
            await asyncio.create_task(within(take(), 1.0))  # type: ignore[arg-type]
            await client.close()

    run(test())
