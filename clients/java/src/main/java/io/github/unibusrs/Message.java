package io.github.unibusrs;

import com.google.protobuf.ByteString;
import java.time.Instant;
import java.util.Map;

/**
 * A message as a reader gets it.
 *
 * @param sequence the place of the message in the room's log, from 1, unsigned; 0 in an ephemeral
 *     room
 * @param payload the bytes that the publisher sent; see also {@link #text} and {@link #bytes}
 * @param headers the headers of the publisher
 * @param publishedAt when the message was stored, with nanoseconds
 * @param messageId the id that the publisher gave; empty without one
 * @param sender the sender that the service verified; empty if it could not
 * @param cursor the place of the message, for {@link Start#afterCursor}; empty in an ephemeral room
 */
public record Message(
    long sequence,
    ByteString payload,
    Map<String, String> headers,
    Instant publishedAt,
    String messageId,
    String sender,
    String cursor) {

  static Message of(io.github.unibusrs.v1.Message m) {
    return new Message(
        m.getSequence(),
        m.getPayload(),
        m.getHeadersMap(),
        Wire.instant(m.getPublishedAt()),
        m.getMessageId(),
        m.getSender(),
        m.getCursor());
  }

  /** The payload as text in UTF-8. */
  public String text() {
    return payload.toStringUtf8();
  }

  /** A copy of the payload. */
  public byte[] bytes() {
    return payload.toByteArray();
  }
}
