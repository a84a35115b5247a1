"""Messages, one at a time: with ids of their own, so that an attempt can be repeated (U11, U12)."""

from __future__ import annotations

import asyncio
import copy
import math
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from unibus._errors import Outcome, UnibusError, timed_out
from unibus._retry import now
from unibus._types import Published, duration, published_of
from unibus.v1 import room_service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import timedelta

    from unibus._connection import Connection

DEFAULT_WINDOW = 120.0
ROOMS_MAX = 1024
"""The rooms whose policies are kept."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What the settings of a room allow a publisher to do."""

    persist: bool
    begin_within: float
    """The time after the first attempt in which further attempts may begin, in seconds (U11)."""


def policy_of(connection: Connection, persist: bool, window: float) -> Policy:
    """The policy of a room. `window` is how long the room remembers an id, in seconds."""
    longest = math.inf if connection.publish_timeout is None else connection.publish_timeout
    remembered = (window if persist else connection.call_timeout) - connection.attempt_timeout
    return Policy(persist, min(longest, max(0.0, remembered)))


class Policies:
    """The policies of rooms. The service is asked once for each room (U12)."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._known: dict[str, Policy] = {}
        self._asked: dict[str, asyncio.Task[Policy | UnibusError]] = {}

    async def get(self, room_id: str, timeout: float | None = None) -> Policy:
        """The policy of a room. Callers without a deadline of their own share calls."""
        if (policy := self._known.get(room_id)) is not None:
            return policy
        if timeout is not None:
            answer = await self._ask(room_id, timeout)
        else:
            answer = await self._share(room_id)
        if isinstance(answer, Policy):
            return answer
        error = copy.copy(answer)
        error.outcome_unknown = False  # nothing was published
        raise error

    async def _share(self, room_id: str) -> Policy | UnibusError:
        """Waits for a call that another caller made. If the time of that one is up, there is still time for a call (U9)."""
        end = now() + self._connection.call_timeout
        answer: Policy | UnibusError | None = None
        while True:
            task = self._asked.get(room_id)
            own = task is None
            if task is None:
                task = self._asked[room_id] = asyncio.create_task(self._ask(room_id, end - now()))
                task.add_done_callback(lambda _: self._asked.pop(room_id))
            done, _ = await asyncio.wait({task}, timeout=None if own or answer is None else end - now())
            if answer is not None and not done:
                return answer
            last, answer = answer, task.result()
            if isinstance(answer, UnibusError) and last is not None and timed_out(answer):
                return last  # the call had little time, so the one before tells more
            if own or isinstance(answer, Policy) or answer.outcome is not Outcome.AGAIN or now() >= end:
                return answer

    async def _ask(self, room_id: str, timeout: float) -> Policy | UnibusError:
        request = pb.GetRoomRequest(room_id=room_id)
        try:
            room = (await self._connection.call(self._connection.stub.GetRoom, request, timeout=timeout)).room
        except UnibusError as error:
            return error
        window = room.dedupe_window.ToNanoseconds() / 1e9 or DEFAULT_WINDOW
        self._known[room_id] = policy_of(self._connection, room.persist, window)
        if len(self._known) > ROOMS_MAX:
            del self._known[next(iter(self._known))]  # the oldest one: it is asked for again
        return self._known[room_id]

    def forget(self, room_id: str) -> None:
        self._known.pop(room_id, None)

    def learn(self, room_id: str, error: UnibusError) -> bool:
        """Forgets a room that is not what it was. Whether it refused the id that the client made."""
        refused = error.reason == "ROOM_NOT_PERSISTED" or (
            error.reason == "INVALID_FIELD" and any(field.endswith("message_id") for field in error.fields)
        )
        if refused or error.reason == "ROOM_NOT_FOUND":
            self.forget(room_id)
        return refused


def new_id() -> str:
    """128 random bits."""
    return secrets.token_hex(16)


def publish_request(
    room_id: str,
    payload: bytes,
    headers: Mapping[str, str] | None,
    message_id: str,
    expected_last_sequence: int | None,
    ttl: timedelta | None,
) -> pb.PublishRequest:
    return pb.PublishRequest(
        room_id=room_id,
        payload=payload,
        headers=headers or {},
        message_id=message_id,
        expected_last_sequence=expected_last_sequence,
        ttl=None if ttl is None else duration(ttl),
    )


async def publish(connection: Connection, request: pb.PublishRequest, timeout: float | None) -> Published:
    """Publishes until the message is stored, is refused, or the room may not remember its id any more (U11)."""
    policies = connection.policies
    end = math.inf if timeout is None else now() + timeout
    own_id = not request.message_id
    refused = unknown = False
    while True:
        policy = await policies.get(request.room_id, None if timeout is None else end - now())
        if own_id:
            request.message_id = new_id() if policy.persist else ""
        try:
            response = await connection.call(
                connection.stub.Publish,
                request,
                total=end - now(),
                begin_within=policy.begin_within,
                repeat_unknown=policy.persist,
            )
        except UnibusError as error:
            unknown |= error.outcome_unknown
            if policies.learn(request.room_id, error) and own_id and policy.persist and not refused:
                refused = True  # nothing was done: the room is ephemeral now, so its messages have no id
                continue
            error.message_id, error.outcome_unknown = request.message_id, unknown
            raise
        if response.sequence and not policy.persist:
            policies.forget(request.room_id)  # the room was created again, as a persisted one
        return published_of(response, request.message_id)
