package io.github.unibusrs;

import io.github.unibusrs.v1.Opened;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.List;
import org.jspecify.annotations.Nullable;

/**
 * How far a subscription is: where it resumes, what it delivered, what it may acknowledge. Does no
 * I/O. All sequences are unsigned.
 */
final class Progress {
  /** A message that was given to the program, or waits for it. */
  static final class Ticket {
    private final long sequence;
    private final String cursor;
    private final int life;
    private boolean done;

    private Ticket(Message message, int life) {
      this.sequence = message.sequence();
      this.cursor = message.cursor();
      this.life = life;
    }
  }

  private final boolean durable;
  private Start start;

  /** Whether the subscription was open before, in this log. */
  private boolean opened;

  private boolean ephemeral;

  /** The newest message that was taken. */
  private long taken;

  /**
   * Where to resume: of the newest message, or of the newest that is processed if durable; before
   * that of {@code opened}.
   */
  private String cursor = "";

  /** The last sequence that was reported as missing. */
  private long missing;

  /** Tickets of an earlier life, before a move or a new log, move no position. */
  private int life;

  private final ArrayDeque<Ticket> tickets = new ArrayDeque<>();
  private long processed;
  private long sent;
  private long confirmed;
  private int unsent;

  Progress(boolean durable, @Nullable Start start) {
    this.durable = durable;
    this.start = start == null ? Start.unset() : start;
  }

  private static boolean less(long a, long b) {
    return Long.compareUnsigned(a, b) < 0;
  }

  private static long max(long a, long b) {
    return less(a, b) ? b : a;
  }

  /**
   * Where the next attempt begins (U18). For a durable subscriber it counts only if the subscriber
   * was deleted; the cursor then shows whether the log is the same.
   */
  Start start() {
    return opened && !ephemeral ? Start.afterCursor(cursor) : start;
  }

  /**
   * The subscription is open.
   *
   * @param again whether this is a further {@code opened} on the same stream
   * @return what to report
   */
  List<Event> opened(Opened frame, boolean again) {
    var events = new ArrayList<Event>();
    var position = frame.getPosition();
    if (!again) {
      events.add(new Event.Opened(position, frame.getResumed()));
    }
    ephemeral = frame.getFirstSequence() == 0;
    if (ephemeral && opened) {
      events.add(new Event.Gap(0, 0, "DISCONNECTED", 0));
    } else if (durable && opened && (again || less(position, confirmed))) {
      moveTo(position);
      events.add(new Event.Moved(position));
    }
    opened = true;
    if (cursor.isEmpty() || less(durable ? processed : taken, position)) {
      cursor = frame.getCursor();
    }
    if (durable) {
      confirmed = max(confirmed, position);
      sent = position;
    }
    return events;
  }

  /** Delivers from this position, also what was delivered before (U22). */
  private void moveTo(long position) {
    life++;
    tickets.clear();
    unsent = 0;
    taken = position;
    missing = position;
    processed = position;
    confirmed = position;
    cursor = "";
  }

  /** Whether this error means that the room has another log than before (U26). */
  boolean isNewLog(UnibusException error) {
    return switch (error.getReason()) {
      case "ROOM_RECREATED" -> true;
      case "CURSOR_EXPIRED", "POSITION_AFTER_END" -> opened;
      default -> false;
    };
  }

  /** Begins with the new log (U26). */
  void recreated() {
    moveTo(0);
    opened = false;
    start = Start.all();
  }

  /** Takes a message, unless it was taken before (U22). */
  @Nullable Ticket take(Message message) {
    var sequence = message.sequence();
    if (sequence != 0) {
      if (!less(taken, sequence)) {
        return null;
      }
      taken = sequence;
      if (!durable) {
        cursor = message.cursor();
      }
    }
    var ticket = new Ticket(message, life);
    tickets.add(ticket);
    return ticket;
  }

  /** The part of the gap that was not reported before (U18); null if nothing is left. */
  Event.@Nullable Gap missing(Event.Gap gap) {
    if (gap.to() == 0) {
      return gap;
    }
    var known = max(taken, missing);
    if (!less(known, gap.to())) {
      return null;
    }
    missing = gap.to();
    var from = less(known, gap.from()) ? gap.from() : known + 1;
    return new Event.Gap(from, gap.to(), gap.reason(), gap.dropped());
  }

  /** The message is processed (U19). */
  void done(Ticket ticket) {
    ticket.done = true;
    if (ticket.life != life) {
      return;
    }
    for (var first = tickets.peek(); first != null && first.done; first = tickets.peek()) {
      tickets.remove();
      processed = max(processed, first.sequence);
      if (durable) {
        cursor = first.cursor;
      }
      unsent++;
    }
  }

  /** Whether there is something to acknowledge. */
  boolean owesAck() {
    return durable && less(sent, processed);
  }

  /** The number of messages since the last acknowledgement (U20). */
  int unsent() {
    return unsent;
  }

  /** The highest sequence up to which every message is processed, to be acknowledged now. */
  long ack() {
    sent = processed;
    unsent = 0;
    return processed;
  }

  /** An acknowledgement is confirmed; one from before a move back confirms nothing after it. */
  void acked(long position) {
    confirmed = max(confirmed, less(sent, position) ? sent : position);
  }

  /** An acknowledgement was not carried out, and is to be repeated (U20). */
  void unacked() {
    sent = confirmed;
  }

  /** Whether every processed message is confirmed. */
  boolean isFlushed() {
    return !durable || !less(confirmed, processed);
  }
}
