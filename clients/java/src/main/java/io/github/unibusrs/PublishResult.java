package io.github.unibusrs;

import io.github.unibusrs.v1.Durability;
import io.github.unibusrs.v1.PublishResponse;
import java.time.Instant;

/**
 * A message is stored, or in an ephemeral room sent.
 *
 * @param sequence the sequence of the message, unsigned; 0 in an ephemeral room
 * @param duplicate whether the message was stored earlier: by the program, or by an earlier attempt
 *     of the same call
 * @param publishedAt when the service learned that the message is stored
 * @param durability what the stored message survives
 * @param messageId the id of the message; empty in an ephemeral room
 */
public record PublishResult(
    long sequence,
    boolean duplicate,
    Instant publishedAt,
    Durability durability,
    String messageId) {

  static PublishResult of(PublishResponse r, String messageId) {
    return new PublishResult(
        r.getSequence(),
        r.getDuplicate(),
        Wire.instant(r.getPublishedAt()),
        r.getDurability(),
        messageId);
  }
}
