from google.protobuf.timestamp_pb2 import Timestamp

from unibus import Gap, Moved, Opened, Start
from unibus._progress import Credit, Progress, Watch
from unibus.v1 import subscription_pb2 as pb


def opened(position: int, resumed: bool = True, first: int = 1) -> pb.Opened:
    return pb.Opened(position=position, resumed=resumed, first_sequence=first, generation=3)


def gap(first: int, last: int, reason: pb.GapReason.ValueType = pb.GAP_REASON_PURGED) -> pb.Gap:
    return pb.Gap(from_sequence=first, to_sequence=last, reason=reason)


def durable(position: int = 0) -> Progress:
    progress = Progress(durable=True, start=Start.new())
    assert progress.connect() == Start.new()
    assert progress.opened(opened(position, resumed=False)) == [Opened(position, False)]
    return progress


def read(progress: Progress, *sequences: int) -> list[int]:
    return [sequence for sequence in sequences if progress.message(sequence, f"c{sequence}")]


def handle(progress: Progress, *sequences: int) -> None:
    for sequence in sequences:
        progress.begin(sequence, f"c{sequence}", progress.epoch)
        progress.finish(sequence, progress.epoch)


def test_the_watermark_stops_at_the_first_message_under_way() -> None:
    progress = durable()
    for sequence in (2, 4, 5, 9):
        progress.begin(sequence, "", 0)
    progress.finish(4, 0)
    progress.finish(9, 0)
    assert progress.acknowledge() is None
    progress.finish(2, 0)
    assert progress.acknowledge() == 4
    assert progress.acknowledge() is None
    progress.finish(5, 0)
    assert progress.unacknowledged == 2
    assert progress.acknowledge() == 9


def test_without_a_name_nothing_is_acknowledged() -> None:
    progress = Progress(durable=False, start=Start.all())
    progress.opened(opened(0))
    handle(progress, 1)
    assert progress.acknowledge() is None
    assert progress.unconfirmed() is None


def test_what_came_before_is_skipped_after_a_reconnection() -> None:
    progress = durable()
    assert read(progress, 1, 2, 3, 4) == [1, 2, 3, 4]
    handle(progress, 1, 2)
    progress.acknowledge()
    progress.acked(1)
    assert progress.connect() == Start.after_cursor("c2")
    assert progress.opened(opened(1)) == [Opened(1, True)]
    assert read(progress, 2, 3, 4, 5) == [5]
    assert progress.acknowledge() == 2, "an acknowledgement without an answer is repeated"


def test_a_durable_subscriber_that_processed_nothing_resumes_where_it_was() -> None:
    progress = durable(7)
    assert progress.connect() == Start.after(7)


def test_without_a_name_it_resumes_after_the_last_message_or_the_newest_position() -> None:
    progress = Progress(durable=False, start=Start.last(3))
    assert progress.connect() == Start.last(3)
    assert progress.connect() == Start.last(3), "it was not open yet"
    progress.opened(opened(5))
    assert progress.connect() == Start.after(5)
    progress.reached(6)
    assert progress.connect() == Start.after(6)
    read(progress, 7)
    progress.reached(9)
    assert progress.connect() == Start.after_cursor("c7")


def test_before_the_first_message_it_resumes_at_the_place_of_opened() -> None:
    frame = pb.Opened(position=5, first_sequence=1, generation=3, cursor="c5")
    for is_durable in (False, True):
        progress = Progress(durable=is_durable, start=Start.new())
        progress.opened(frame)
        progress.reached(6)
        assert progress.connect() == Start.after_cursor("c5")
        assert progress.opened(frame) == [Opened(5, False)], "the service took the cursor, so that the log is the same"
        assert read(progress, 6, 7) == [7]
        handle(progress, 7)
        assert progress.connect() == Start.after_cursor("c7")


def test_after_a_move_it_resumes_at_the_new_place() -> None:
    progress = durable()
    read(progress, 1, 2)
    handle(progress, 1, 2)
    progress.opened(pb.Opened(position=1, resumed=True, first_sequence=1, cursor="c1"))
    assert progress.connect() == Start.after_cursor("c1")


def test_a_gap_is_reported_once() -> None:
    progress = Progress(durable=False, start=Start.all())
    progress.opened(opened(0))
    assert progress.gap(gap(1, 3)) == Gap(1, 3, "PURGED")
    assert progress.gap(gap(1, 3)) is None
    assert read(progress, 4) == [4]
    assert progress.gap(gap(3, 6, pb.GAP_REASON_EXPIRED)) == Gap(5, 6, "EXPIRED")
    assert read(progress, 6, 7) == [7]


def test_an_ephemeral_room_loses_messages_while_the_client_is_away() -> None:
    progress = Progress(durable=False, start=Start.default())
    assert progress.opened(opened(0, False, first=0)) == [Opened(0, False)]
    assert read(progress, 0, 0) == [0, 0]
    assert progress.gap(gap(0, 0, pb.GAP_REASON_SLOW_READER)) == Gap(0, 0, "SLOW_READER")
    assert progress.connect() == Start.default()
    assert progress.opened(opened(0, False, first=0)) == [Opened(0, False), Gap(0, 0, "DISCONNECTED")]


def test_a_second_opened_is_a_move() -> None:
    progress = durable()
    read(progress, 1, 2, 3)
    handle(progress, 1)
    progress.begin(2, "c2", progress.epoch)
    assert progress.opened(opened(50)) == [Moved(50)]
    progress.finish(2, 0)
    assert progress.acknowledge() is None, "what was begun before the move does not count"
    assert read(progress, 51) == [51]
    assert progress.opened(opened(0)) == [Moved(0)]
    assert read(progress, 1) == [1]


def test_a_position_before_a_confirmed_acknowledgement_is_a_move() -> None:
    progress = durable()
    read(progress, *range(1, 11))
    handle(progress, *range(1, 11))
    progress.acknowledge()
    progress.acked(10)
    progress.connect()
    assert progress.opened(opened(6)) == [Opened(6, True), Moved(6)]
    assert read(progress, 7) == [7]


def test_a_late_confirmation_does_not_undo_a_move() -> None:
    progress = durable()
    read(progress, 1, 2, 3)
    handle(progress, 1, 2, 3)
    progress.acknowledge()
    progress.opened(opened(1))
    progress.acked(3)
    progress.connect()
    assert progress.opened(opened(1)) == [Opened(1, True)]


def test_a_new_log_begins_at_its_beginning() -> None:
    progress = durable()
    read(progress, 1, 2)
    progress.begin(1, "c1", progress.epoch)
    assert progress.resumes()
    progress.recreated()
    assert not progress.resumes()
    assert progress.connect() == Start.all()
    progress.opened(opened(0, False))
    progress.finish(1, 0)
    assert progress.acknowledge() is None
    assert read(progress, 1) == [1]


def test_a_refused_acknowledgement_is_sent_again() -> None:
    progress = durable()
    read(progress, 1)
    handle(progress, 1)
    assert progress.acknowledge() == 1
    progress.rejected()
    assert progress.acknowledge() == 1
    assert progress.unconfirmed() == 1
    progress.acked(1)
    assert progress.unconfirmed() is None


def test_silence_is_noticed_after_two_heartbeats() -> None:
    watch = Watch(0.0)
    verdicts = {now: watch.tick(now) for now in map(float, range(1, 16))}
    assert [now for now, verdict in verdicts.items() if verdict] == [15.0]
    watch = Watch(0.0)
    watch.opened(2.0)
    watch.frame(1.0)
    assert [watch.tick(now) for now in (1.0, 2.0, 3.0, 4.0, 5.0)] == ["", "", "", "", "silent"]


def test_a_short_stall_of_the_process_is_no_silence() -> None:
    watch = Watch(0.0)
    watch.opened(1.0)
    assert [watch.tick(now) for now in (0.5, 3.5, 4.0, 4.5)] == ["", "", "", "silent"]


def test_a_subscriber_that_is_new_was_moved() -> None:
    progress = durable()
    assert read(progress, 1, 2, 3) == [1, 2, 3]
    progress.begin(1, "c1", progress.epoch)
    progress.connect()
    assert progress.opened(opened(0, resumed=False)) == [Opened(0, False), Moved(0)]
    progress.finish(1, 0)
    assert progress.acknowledge() is None, "the message may be of an earlier log"
    assert read(progress, 1, 2) == [1, 2]


def test_a_cursor_proves_that_the_log_of_a_new_subscriber_is_the_same() -> None:
    progress = durable()
    assert read(progress, 1, 2, 3) == [1, 2, 3]
    handle(progress, 1)
    assert progress.connect() == Start.after_cursor("c1")
    assert progress.opened(opened(1, resumed=False)) == [Opened(1, False)]
    assert read(progress, 2, 3, 4) == [4]


def test_a_pause_of_little_more_than_five_seconds_is_noticed() -> None:
    watch = Watch(0.0)
    assert watch.tick(1.0) == ""
    assert watch.tick(6.1) == "ping"


def test_credit_that_was_returned_before_the_stream_opened_is_not_lost() -> None:
    credit = Credit(8, 1000)
    for _ in range(8):
        credit.take(0)
    assert credit.open() == (1, 1000)
    for _ in range(8):
        credit.give(0)
    assert credit.due() == (8, 0)


def test_a_late_confirmation_confirms_nothing_of_a_new_position() -> None:
    progress = durable()
    read(progress, 1, 2, 3)
    handle(progress, 1, 2, 3)
    progress.acknowledge()
    progress.opened(opened(0))
    read(progress, 1)
    handle(progress, 1)
    assert progress.acknowledge() == 1
    progress.acked(3)
    assert progress.unconfirmed() == 1


def test_a_frozen_process_pings_before_it_gives_up() -> None:
    watch = Watch(0.0)
    watch.opened(2.0)
    assert watch.tick(1.0) == ""
    assert watch.tick(60.0) == "ping", "nobody read for a minute"
    assert watch.tick(61.0) == ""
    watch.frame(61.5)
    assert [watch.tick(now) for now in (62.0, 63.0, 64.0, 65.0)] == ["", "", "", ""]
    watch = Watch(0.0)
    watch.opened(30.0)
    assert watch.tick(10.0) == "ping"
    assert [watch.tick(now) for now in (11.0, 12.0, 13.0, 14.0, 15.0)] == ["", "", "", "", "silent"]


def test_credit_comes_back_in_parts_and_never_opens_without_bound() -> None:
    credit = Credit(8, 1000)
    assert credit.open() == (8, 1000)
    for _ in range(8):
        credit.take(10)
    credit.give(10)
    assert credit.due() is None
    credit.give(10)
    assert credit.due() == (2, 20)
    assert credit.open() == (2, 940)
    credit.take(5000)
    assert credit.open() == (1, 1)
    credit.give(5000)
    assert credit.due() == (1, 5000)


def test_times_keep_their_nanoseconds() -> None:
    at = 1_795_777_293_724_154_476
    assert Start.since(at).proto.since == Timestamp(seconds=1_795_777_293, nanos=724_154_476)
