package io.github.unibusrs;

import com.google.protobuf.ByteString;
import io.github.unibusrs.v1.PublishRequest;
import java.time.Duration;
import java.util.Map;

/** A message to publish. It never changes: each method returns another one. */
public final class Outgoing {
  private final PublishRequest wire;

  private Outgoing(PublishRequest.Builder wire) {
    this.wire = wire.build();
  }

  /** A message with these bytes. */
  public static Outgoing of(ByteString payload) {
    return new Outgoing(PublishRequest.newBuilder().setPayload(payload));
  }

  /** A message with a copy of these bytes. */
  public static Outgoing of(byte[] payload) {
    return of(ByteString.copyFrom(payload));
  }

  /** A message with this text in UTF-8. */
  public static Outgoing of(String text) {
    return of(ByteString.copyFromUtf8(text));
  }

  /** The same message with these headers. */
  public Outgoing withHeaders(Map<String, String> headers) {
    return new Outgoing(wire.toBuilder().clearHeaders().putAllHeaders(headers));
  }

  /**
   * The same message with this id, which deduplicates it: 1 to 255 printable ASCII characters
   * without spaces. Without one the client makes an id (U11).
   */
  public Outgoing withMessageId(String id) {
    return new Outgoing(wire.toBuilder().setMessageId(id));
  }

  /** The same message, stored only if this is the last sequence of the room. 0: none ever was. */
  public Outgoing withExpectedLastSequence(long sequence) {
    return new Outgoing(wire.toBuilder().setExpectedLastSequence(sequence));
  }

  /** The same message with this lifetime, in whole seconds. */
  public Outgoing withTtl(Duration lifetime) {
    return new Outgoing(wire.toBuilder().setTtl(Wire.duration(lifetime)));
  }

  int encodedSize() {
    return wire.getSerializedSize();
  }

  int size() {
    return wire.getPayload().size();
  }

  /** The id that the program gave; empty without one. */
  String messageId() {
    return wire.getMessageId();
  }

  /** The request, with an id of the client's if the program gave none (U11, U12). */
  PublishRequest request(String roomId, boolean needsId) {
    var request = wire.toBuilder().setRoomId(roomId);
    if (needsId && messageId().isEmpty()) {
      request.setMessageId(Wire.randomId());
    }
    return request.build();
  }
}
