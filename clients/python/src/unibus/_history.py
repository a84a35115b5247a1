"""Pages of stored messages (U28)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unibus._types import Message, Time, message_of, timestamp
from unibus.v1 import room_service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from unibus._connection import Connection


def first_page(
    room_id: str,
    after: int | str | None,
    before: int | str | None,
    start: Time | None,
    end: Time | None,
    backwards: bool,
    page_size: int,
) -> pb.HistoryRequest:
    """The request for the first page. Raises ValueError if the place does not fit the direction.

    A page backwards from a time needs a call before it: see history().
    """
    request = pb.HistoryRequest(room_id=room_id, limit=page_size)
    if backwards and (after is not None or start is not None):
        raise ValueError("backwards begins before a place: use `before` or `end`")
    if not backwards and before is not None:
        raise ValueError("forwards begins after a place: use `after` or `start`")
    if (after is not None or before is not None) and (start is not None or end is not None):
        raise ValueError("give a place or times, not both")
    place = before if backwards else after
    if isinstance(place, str):
        setattr(request, "before_cursor" if backwards else "after_cursor", place)
    elif place is not None:
        setattr(request, "before_sequence" if backwards else "after_sequence", place)
    elif start is not None:
        request.time_range.start.CopyFrom(timestamp(start))
    elif not backwards:
        request.after_sequence = 0
    return request


async def history(
    connection: Connection, request: pb.HistoryRequest, backwards: bool, end: Time | None
) -> AsyncIterator[Message]:
    """Yields each message once, page by page. Each page is a call, and begins at the cursor of the one before."""
    end_ns = None
    if end is not None and backwards:
        later = pb.HistoryRequest(room_id=request.room_id, limit=1, time_range=pb.TimeRange(start=timestamp(end)))
        page = await connection.call(connection.stub.History, later)
        if not page.has_older:
            return
        request.before_cursor = page.older_cursor
    elif end is not None:
        end_ns = timestamp(end).ToNanoseconds()
    while True:
        page = await connection.call(connection.stub.History, request)
        for stored in reversed(page.messages) if backwards else page.messages:
            message = message_of(stored)
            if end_ns is not None and message.published_at_ns >= end_ns:
                return
            yield message
        if not (page.has_older if backwards else page.has_newer):
            return
        if backwards:
            request.before_cursor = page.older_cursor
        else:
            request.after_cursor = page.newer_cursor
