package io.github.unibusrs;

import com.google.protobuf.Empty;
import java.time.Instant;

/** Where a subscription begins. A durable subscriber uses it once, when it is new. */
public final class Start {
  private final io.github.unibusrs.v1.Start wire;

  private Start(io.github.unibusrs.v1.Start.Builder wire) {
    this.wire = wire.build();
  }

  /**
   * What the service does without a start: all in a persisted room, only new in an ephemeral one.
   */
  static Start unset() {
    return new Start(at());
  }

  private static io.github.unibusrs.v1.Start.Builder at() {
    return io.github.unibusrs.v1.Start.newBuilder();
  }

  /** With the oldest stored message. */
  public static Start all() {
    return new Start(at().setAll(Empty.getDefaultInstance()));
  }

  /** With the messages that are stored after the subscription was opened. */
  public static Start onlyNew() {
    return new Start(at().setNew(Empty.getDefaultInstance()));
  }

  /** After this sequence, unsigned. */
  public static Start afterSequence(long sequence) {
    return new Start(at().setAfterSequence(sequence));
  }

  /** After the message with this {@link Message#cursor}. */
  public static Start afterCursor(String cursor) {
    return new Start(at().setAfterCursor(cursor));
  }

  /** With the first message that was stored at or after this time. */
  public static Start since(Instant time) {
    return new Start(at().setSince(Wire.timestamp(time)));
  }

  /** With the newest messages, so many. */
  public static Start last(long messages) {
    return new Start(at().setLast(messages));
  }

  io.github.unibusrs.v1.Start toWire() {
    return wire;
  }
}
