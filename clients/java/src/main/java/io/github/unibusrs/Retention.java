package io.github.unibusrs;

import java.time.Duration;
import org.jspecify.annotations.Nullable;

/**
 * Bounds on the stored messages of a room; the oldest are removed first. 0 or null: no bound.
 *
 * @param maxAge the largest age of a stored message
 * @param maxBytes the largest total size of the stored messages
 * @param maxMessages the largest number of stored messages
 * @param maxMessageBytes the largest payload of one message
 */
public record Retention(
    @Nullable Duration maxAge, long maxBytes, long maxMessages, int maxMessageBytes) {
  /** No bound. */
  public static final Retention NONE = new Retention(null, 0, 0, 0);

  /** The same bounds with this age. */
  public Retention withMaxAge(Duration value) {
    return new Retention(value, maxBytes, maxMessages, maxMessageBytes);
  }

  /** The same bounds with this total size. */
  public Retention withMaxBytes(long value) {
    return new Retention(maxAge, value, maxMessages, maxMessageBytes);
  }

  /** The same bounds with this number of messages. */
  public Retention withMaxMessages(long value) {
    return new Retention(maxAge, maxBytes, value, maxMessageBytes);
  }

  /** The same bounds with this largest payload. */
  public Retention withMaxMessageBytes(int value) {
    return new Retention(maxAge, maxBytes, maxMessages, value);
  }

  io.github.unibusrs.v1.Retention toWire() {
    var wire =
        io.github.unibusrs.v1.Retention.newBuilder()
            .setMaxBytes(maxBytes)
            .setMaxMessages(maxMessages)
            .setMaxMessageBytes(maxMessageBytes);
    if (maxAge != null) {
      wire.setMaxAge(Wire.duration(maxAge));
    }
    return wire.build();
  }
}
