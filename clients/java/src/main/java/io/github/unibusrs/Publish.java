package io.github.unibusrs;

import io.github.unibusrs.v1.PublishRequest;
import io.github.unibusrs.v1.RoomServiceGrpc;
import java.time.Duration;
import java.util.concurrent.CompletableFuture;
import org.jspecify.annotations.Nullable;

/** One message, published by a call of its own (U11, U12). */
final class Publish extends Retry<PublishResult> {
  private final String roomId;
  private final Outgoing message;
  private Rooms.@Nullable Known room;
  private @Nullable PublishRequest request;
  private boolean renewed;

  Publish(Calls calls, String roomId, Outgoing message) {
    super(calls);
    this.roomId = roomId;
    this.message = message;
  }

  @Override
  CompletableFuture<PublishResult> attempt(Duration limit) {
    return calls.connection().rooms().use(roomId, credentials, limit, this::publish);
  }

  private CompletableFuture<PublishResult> publish(Rooms.Known known, Duration limit) {
    room = known;
    var sent = request == null ? message.request(roomId, known.persist()) : request;
    request = sent;
    return calls
        .connection()
        .attempt(RoomServiceGrpc.getPublishMethod(), sent, credentials, limit, result)
        .thenApply(r -> PublishResult.of(r, sent.getMessageId()));
  }

  @Override
  Duration total() {
    var settings = calls.settings();
    var longest = room != null && room.persist() ? room.dedupeWindow() : settings.total();
    return settings.publish() == null ? longest : Wire.min(longest, settings.publish());
  }

  @Override
  boolean mayRepeat(Duration next, boolean unknown) {
    if (!unknown || room == null) {
      return true;
    }
    var last = room.dedupeWindow().minus(calls.settings().attempt());
    return room.persist() && next.compareTo(last) <= 0;
  }

  @Override
  boolean isFinal(UnibusException error) {
    calls.connection().rooms().forget(roomId, error);
    if (Rooms.saysNoIds(error) && message.messageId().isEmpty() && !renewed) {
      renewed = true;
      request = null;
      return false;
    }
    return super.isFinal(error);
  }

  @Override
  String messageId() {
    return request == null ? message.messageId() : request.getMessageId();
  }
}
