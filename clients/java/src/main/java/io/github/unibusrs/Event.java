package io.github.unibusrs;

import java.time.Duration;

/** What happens to a subscription (U25). Events come in order with the messages. */
public sealed interface Event {
  /**
   * The subscription is open, the first time or again.
   *
   * @param position the messages after this sequence follow; unsigned
   * @param resumed whether an existing durable subscriber resumed
   */
  record Opened(long position, boolean resumed) implements Event {}

  /**
   * All messages that were stored when the subscription opened came; live messages follow.
   *
   * @param position all sequences up to this one came; unsigned
   */
  record CaughtUp(long position) implements Event {}

  /**
   * Messages that will not come.
   *
   * @param from the first missing sequence, unsigned; 0 in an ephemeral room
   * @param to the last missing sequence, unsigned; 0 in an ephemeral room
   * @param reason why: EXPIRED, PURGED, DELETED, SLOW_READER or DISCONNECTED
   * @param dropped the number of missing messages if the room is ephemeral; 0 if it is unknown
   */
  record Gap(long from, long to, String reason, long dropped) implements Event {
    static Gap of(io.github.unibusrs.v1.Gap gap) {
      var reason = gap.getReason().name().replace("GAP_REASON_", "");
      return new Gap(gap.getFromSequence(), gap.getToSequence(), reason, gap.getDropped());
    }
  }

  /**
   * Somebody moved the subscriber: the messages after this position come, also if they came before
   * (U22).
   *
   * @param position the new position; unsigned
   */
  record Moved(long position) implements Event {}

  /** The room was deleted and created again: the messages of the new log come (U26). */
  record Recreated() implements Event {}

  /**
   * The subscription was interrupted, and is opened again after the pause.
   *
   * @param error why
   * @param pause the time until the next attempt
   */
  record Disconnected(UnibusException error, Duration pause) implements Event {}
}
