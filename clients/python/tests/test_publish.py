import asyncio
from datetime import datetime, timedelta, timezone

import grpc
import pytest

from unibus import UnibusError
from unibus._connection import Connection
from unibus._history import first_page
from unibus._publish import new_id, policy_of
from unibus._publisher import Entry, Unanswered
from unibus._types import datetime_of, duration, timestamp
from unibus.v1 import room_service_pb2 as pb


def entries(*sizes: int) -> list[Entry]:
    loop = asyncio.new_event_loop()
    try:
        made = [
            Entry(number, pb.PublishRequest(payload=bytes(size)), True, 0.0, loop.create_future())
            for number, size in enumerate(sizes, start=1)
        ]
    finally:
        loop.close()
    return made


def drain(queue: Unanswered) -> list[int]:
    numbers = []
    while (entry := queue.next_unsent()) is not None:
        entry.sent = float(entry.number)
        numbers.append(entry.number)
    return numbers


def test_a_new_stream_sends_what_is_unanswered_in_order_before_later_messages() -> None:
    queue = Unanswered(10, 1000)
    one, two, three, four, five = entries(1, 1, 1, 1, 1)
    for entry in (one, two, three):
        queue.add(entry)
    assert drain(queue) == [1, 2, 3]
    queue.remove(two)
    queue.add(four)
    assert queue.oldest_sent() == 1.0
    queue.begin_stream()
    assert queue.oldest_sent() is None
    queue.add(five)
    queue.remove(three)
    assert drain(queue) == [1, 4, 5]
    assert drain(queue) == []


def test_the_window_bounds_messages_and_bytes() -> None:
    queue = Unanswered(3, 100)
    assert queue.fits(1000), "one message alone may be larger"
    large, small, third = entries(90, 5, 5)
    queue.add(large)
    assert not queue.fits(11)
    assert queue.fits(10)
    queue.add(small)
    queue.add(third)
    assert not queue.fits(0)
    queue.remove(large)
    queue.remove(large)
    assert queue.fits(90)
    assert not queue.fits(91)


@pytest.mark.parametrize(
    ("window", "attempt", "option", "expected"),
    [(120.0, 10.0, None, 110.0), (120.0, 10.0, 30.0, 30.0), (120.0, 10.0, 600.0, 110.0), (5.0, 10.0, None, 0.0)],
)
def test_no_attempt_may_end_after_the_window(window: float, attempt: float, option: float | None, expected: float) -> None:
    connection = Connection("http://127.0.0.1:1", attempt_timeout=attempt, publish_timeout=option)
    assert policy_of(connection, True, window).begin_within == expected


@pytest.mark.parametrize(
    ("reason", "fields", "refused"),
    [
        ("ROOM_NOT_PERSISTED", (), True),
        ("INVALID_FIELD", ("publish.message_id",), True),
        ("INVALID_FIELD", ("headers",), False),
        ("ROOM_NOT_FOUND", (), False),
        ("SEQUENCE_MISMATCH", (), False),
    ],
)
def test_which_outcomes_refuse_an_id(reason: str, fields: tuple[str, ...], refused: bool) -> None:
    error = UnibusError(grpc.StatusCode.FAILED_PRECONDITION, "", reason=reason, fields=fields)
    assert Connection("http://127.0.0.1:1").policies.learn("r", error) is refused


def test_ids_have_128_bits() -> None:
    assert len({new_id() for _ in range(1000)}) == 1000
    assert len(new_id()) == 32


def test_the_first_page_of_history() -> None:
    def page(**given: object) -> pb.HistoryRequest:
        options = {"after": None, "before": None, "start": None, "end": None, "backwards": False} | given
        return first_page("r", page_size=5, **options)  # type: ignore[arg-type]

    assert page().WhichOneof("anchor") == "after_sequence"
    assert page(after=3).after_sequence == 3
    assert page(after="c").after_cursor == "c"
    assert page(backwards=True).WhichOneof("anchor") is None
    assert page(backwards=True, before=9).before_sequence == 9
    assert page(backwards=True, before="c").before_cursor == "c"
    assert page(start=1).time_range.start.nanos == 1
    for wrong in ({"before": 1}, {"backwards": True, "after": 1}, {"backwards": True, "start": 1}, {"after": 1, "end": 1}):
        with pytest.raises(ValueError, match=r"."):
            page(**wrong)


def test_times() -> None:
    at = datetime(2026, 11, 27, 11, 0, 0, 123456, timezone.utc)
    assert timestamp(at).ToNanoseconds() == 1_795_777_200_123_456_000
    assert datetime_of(1_795_777_200_123_456_789) == at
    assert timestamp(5_000_000_007).nanos == 7
    assert duration(timedelta(days=1, microseconds=3)).ToNanoseconds() == 86_400_000_003_000
    with pytest.raises(ValueError, match="time zone"):
        timestamp(at.replace(tzinfo=None))
