"""What a subscription knows about its messages: position, duplicates, acknowledgements, credit, silence. No I/O."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from unibus._types import Event, Gap, Moved, Opened, Start, gap_of

if TYPE_CHECKING:
    from unibus.v1 import subscription_pb2

SILENCE_BEFORE_OPENED = 15.0
FROZEN = 5.0
PONG_TIME = 5.0


class Progress:
    """Where a subscription is, over all its connections.

    A move (U22) or a new log (U26) begins an epoch: what was begun in an earlier epoch is not acknowledged any more.
    """

    def __init__(self, durable: bool, start: Start) -> None:
        self._durable = durable
        self._start = start
        self._opened = False  # on any connection
        self._connecting = True  # `opened` has not come on this connection
        self._ephemeral = False
        self._same_log = False  # the service refuses this connection if the log is a new one
        self._covered = 0  # all sequences up to here were read, or reported as a gap
        self._cursor = ""  # of the last message that was read
        self._place = ""  # the cursor of the newest `opened`
        self.epoch = 0
        self.generation = 0
        self._begun: deque[tuple[int, str]] = deque()  # sequences and cursors, in order
        self._finished: set[int] = set()
        self._processed = 0  # all messages up to here are processed (U19)
        self._processed_cursor = ""
        self._acked = 0  # the newest acknowledgement that was sent
        self._confirmed = 0
        self.unacknowledged = 0
        """The number of messages that were processed since the newest acknowledgement."""

    # --- connections

    def connect(self) -> Start:
        """A connection begins. Returns where the subscription starts, or resumes (U18)."""
        self._connecting = True
        if not self._opened or self._ephemeral:
            return self._start
        # A durable subscriber resumes by itself. The cursor counts only if the service does not know the subscriber any
        # more: it shows whether the log is still the same.
        cursor = (self._processed_cursor if self._durable else self._cursor) or self._place
        self._same_log = bool(cursor)
        if cursor:
            return Start.after_cursor(cursor)
        return Start.after(self._confirmed if self._durable else self._covered)

    def resumes(self) -> bool:
        """Whether the subscription was open before, in this log."""
        return self._opened

    def recreated(self) -> None:
        """The room has a new log: the subscription begins at its beginning (U26)."""
        self._new_epoch(0)
        self._opened = False
        self._start = Start.all()

    def opened(self, frame: subscription_pb2.Opened) -> list[Event]:
        """The subscription is open.

        It was moved (U22) if this is a second `opened` of a connection, if it lies back, or if the subscriber is a new one,
        perhaps in a new log.
        """
        position = frame.position
        here = not self._connecting
        first = not self._opened
        self._connecting, self._opened = False, True
        self._ephemeral = frame.first_sequence == 0
        self.generation = frame.generation
        self._place = frame.cursor
        opened = Opened(position, frame.resumed)
        if first:
            self._covered = self._confirmed = position
            return [opened]
        if self._ephemeral:
            return [opened, Gap(0, 0, "DISCONNECTED")]
        replaced = not (frame.resumed or self._same_log)
        if self._durable and (here or position < self._confirmed or replaced):
            self._new_epoch(position)
            return [Moved(position)] if here else [opened, Moved(position)]
        self._confirmed = max(self._confirmed, position)
        self._acked = self._confirmed  # what was sent over the last connection may be lost
        return [opened]

    def _new_epoch(self, position: int) -> None:
        self.epoch += 1
        self._covered = self._confirmed = self._acked = position
        self._processed = self.unacknowledged = 0
        self._cursor = self._processed_cursor = ""
        self._begun.clear()
        self._finished.clear()

    # --- frames

    def message(self, sequence: int, cursor: str) -> bool:
        """Whether the message is new. A message that came before comes again after a reconnection (U22)."""
        if sequence == 0:
            return True  # of an ephemeral room
        if sequence <= self._covered:
            return False
        self._covered, self._cursor = sequence, cursor
        return True

    def gap(self, frame: subscription_pb2.Gap) -> Gap | None:
        """The part of the gap that was not reported before (U18)."""
        gap = gap_of(frame)
        if gap.last == 0:
            return gap  # of an ephemeral room
        if gap.last <= self._covered:
            return None
        first, self._covered = max(gap.first, self._covered + 1), gap.last
        return Gap(first, gap.last, gap.reason, gap.dropped)

    def reached(self, position: int) -> None:
        """Everything up to the position was sent: of a heartbeat, or of `caught_up`."""
        self._covered = max(self._covered, position)

    # --- acknowledgements

    def begin(self, sequence: int, cursor: str, epoch: int) -> None:
        """A handler begins with the message."""
        if epoch == self.epoch:
            self._begun.append((sequence, cursor))

    def finish(self, sequence: int, epoch: int) -> None:
        """The message is processed. Messages that were begun before it may still be under way (U19)."""
        if epoch != self.epoch:
            return
        self._finished.add(sequence)
        while self._begun and self._begun[0][0] in self._finished:
            self._processed, self._processed_cursor = self._begun.popleft()
            self._finished.discard(self._processed)
            self.unacknowledged += 1

    def acknowledge(self) -> int | None:
        """The sequence for an acknowledgement, or None if there is nothing new to acknowledge."""
        self.unacknowledged = 0
        if not self._durable or self._processed <= max(self._acked, self._confirmed):
            return None
        self._acked = self._processed
        return self._acked

    def acked(self, position: int) -> None:
        """An acknowledgement is confirmed. A position after the newest one is of an acknowledgement before a move."""
        if position <= self._acked:
            self._confirmed = max(self._confirmed, position)

    def rejected(self) -> None:
        """An acknowledgement was refused, and is sent again."""
        self._acked = self._confirmed

    def unconfirmed(self) -> int | None:
        """The sequence that is processed, and whose acknowledgement is not confirmed."""
        return self._processed if self._durable and self._processed > self._confirmed else None


class Credit:
    """How much the service may send: what is read and not processed counts, over all streams (U24)."""

    def __init__(self, messages: int, size: int) -> None:
        self._limits = (messages, size)
        self._held = [0, 0]
        self._returned = [0, 0]

    def open(self) -> tuple[int, int]:
        """The credit for a new stream. It is never 0, which would mean no bound."""
        self._returned = [0, 0]
        return max(1, self._limits[0] - self._held[0]), max(1, self._limits[1] - self._held[1])

    def take(self, size: int) -> None:
        self._held[0] += 1
        self._held[1] += size

    def give(self, size: int) -> None:
        """A message is processed."""
        self._held[0] -= 1
        self._held[1] -= size
        self._returned[0] += 1
        self._returned[1] += size

    def due(self) -> tuple[int, int] | None:
        """The credit to send, once there is enough of it. What was returned since `open` is not lost."""
        if self._returned[0] * 4 < self._limits[0] and self._returned[1] * 4 < self._limits[1]:
            return None
        messages, total = self._returned
        self._returned = [0, 0]
        return messages, total


class Watch:
    """Notices that no frame comes (U16), and that this process was frozen (U17). The times are those of `_retry.now`."""

    def __init__(self, now: float) -> None:
        self._heard = self._ticked = now
        self._limit = SILENCE_BEFORE_OPENED
        self._pong_by: float | None = None

    @property
    def interval(self) -> float:
        """How often to call `tick`."""
        return min(1.0, self._limit / 4)

    def opened(self, heartbeat_interval: float) -> None:
        if heartbeat_interval > 0:
            self._limit = 2 * heartbeat_interval

    def frame(self, now: float) -> None:
        self._heard = now
        self._pong_by = None

    def tick(self, now: float) -> str:
        """What to do: "" nothing, "ping" to send a ping, or "silent" to give up the connection."""
        elapsed = now - self._ticked
        unread = max(0.0, elapsed - self.interval)
        self._ticked = now
        self._heard = min(now, self._heard + unread)  # nobody read, so silence does not count
        if elapsed > FROZEN:
            self._pong_by = now + PONG_TIME
            return "ping"
        if self._pong_by is not None and now >= self._pong_by:
            return "silent"
        return "silent" if now - self._heard >= self._limit else ""
