package io.github.unibusrs;

import io.github.unibusrs.v1.Subscriber;
import java.time.Instant;
import org.jspecify.annotations.Nullable;

/**
 * A durable subscriber.
 *
 * @param subscriber the name
 * @param position all messages up to this sequence are processed; unsigned
 * @param lag the number of stored messages after the position; unsigned
 * @param lastActiveAt when a subscription was last opened, closed or moved the position; null:
 *     unknown
 * @param isOpen whether a subscription is open
 * @param consumer the durable NATS consumer that holds the position
 */
public record SubscriberInfo(
    String subscriber,
    long position,
    long lag,
    @Nullable Instant lastActiveAt,
    boolean isOpen,
    String consumer) {

  static SubscriberInfo of(Subscriber s) {
    return new SubscriberInfo(
        s.getSubscriber(),
        s.getPosition(),
        s.getLag(),
        s.hasLastActiveAt() ? Wire.instant(s.getLastActiveAt()) : null,
        s.getOpen(),
        s.getConsumer());
  }
}
