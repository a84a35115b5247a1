package io.github.unibusrs;

import com.google.protobuf.ByteString;
import java.time.Duration;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * A message to publish.
 *
 * @param payload the bytes
 * @param headers the headers
 * @param messageId the id that deduplicates the message; empty: the client makes one (U11)
 * @param expectedLastSequence store the message only if this is the last sequence of the room;
 *     null: always
 * @param ttl the lifetime of the message; null: as long as the room keeps it
 */
public record Outgoing(
    ByteString payload,
    Map<String, String> headers,
    String messageId,
    @Nullable Long expectedLastSequence,
    @Nullable Duration ttl) {

  /** Copies the headers. */
  public Outgoing {
    headers = Map.copyOf(headers);
  }

  /** A message with these bytes. */
  public static Outgoing of(byte[] payload) {
    return new Outgoing(ByteString.copyFrom(payload), Map.of(), "", null, null);
  }

  /** A message with this text in UTF-8. */
  public static Outgoing of(String text) {
    return new Outgoing(ByteString.copyFromUtf8(text), Map.of(), "", null, null);
  }

  /** The same message with these headers. */
  public Outgoing withHeaders(Map<String, String> value) {
    return new Outgoing(payload, value, messageId, expectedLastSequence, ttl);
  }

  /** The same message with this id: 1 to 255 printable ASCII characters without spaces. */
  public Outgoing withMessageId(String value) {
    return new Outgoing(payload, headers, value, expectedLastSequence, ttl);
  }

  /** The same message, stored only if this is the last sequence of the room. 0: none ever was. */
  public Outgoing withExpectedLastSequence(long value) {
    return new Outgoing(payload, headers, messageId, value, ttl);
  }

  /** The same message with this lifetime, in whole seconds. */
  public Outgoing withTtl(Duration value) {
    return new Outgoing(payload, headers, messageId, expectedLastSequence, value);
  }

  /** The request, with an id of the client's if the program gave none (U11, U12). */
  io.github.unibusrs.v1.PublishRequest request(String roomId, boolean needsId) {
    var request =
        io.github.unibusrs.v1.PublishRequest.newBuilder()
            .setRoomId(roomId)
            .setPayload(payload)
            .putAllHeaders(headers)
            .setMessageId(needsId && messageId.isEmpty() ? Wire.randomId() : messageId);
    if (expectedLastSequence != null) {
      request.setExpectedLastSequence(expectedLastSequence);
    }
    if (ttl != null) {
      request.setTtl(Wire.duration(ttl));
    }
    return request.build();
  }
}
