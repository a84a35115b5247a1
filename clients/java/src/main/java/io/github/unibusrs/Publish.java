package io.github.unibusrs;

import io.github.unibusrs.v1.RoomServiceGrpc;
import io.grpc.Status;
import java.time.Duration;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;

/** One message, published by a call of its own (U11, U12). */
final class Publish {
  private final CompletableFuture<PublishResult> result = new CompletableFuture<>();
  private final Calls calls;
  private final String roomId;
  private final Rooms rooms;
  private final Outgoing message;
  private final long began = System.nanoTime();

  Publish(Calls calls, String roomId, Rooms rooms, Outgoing message) {
    this.calls = calls;
    this.roomId = roomId;
    this.rooms = rooms;
    this.message = message;
  }

  CompletableFuture<PublishResult> start() {
    attempt(true);
    return result;
  }

  private void attempt(boolean isFirst) {
    var own = calls.settings().publish();
    var limit = own == null ? calls.settings().total() : own;
    rooms
        .get(roomId)
        .orTimeout(limit.toNanos(), TimeUnit.NANOSECONDS)
        .whenComplete(
            (room, e) -> {
              if (e == null) {
                publish(room, isFirst);
              } else {
                result.completeExceptionally(noRoom(Futures.cause(e)));
              }
            });
  }

  /** Nothing was sent yet, so the outcome is known. */
  private static Throwable noRoom(Throwable failure) {
    if (failure instanceof UnibusException e) {
      return e.forMessage("", false);
    }
    return failure instanceof TimeoutException
        ? UnibusException.of(Status.Code.DEADLINE_EXCEEDED, "the service did not describe the room")
            .forMessage("", false)
        : failure;
  }

  private Duration elapsed() {
    return Duration.ofNanos(System.nanoTime() - began);
  }

  private void publish(Rooms.Known room, boolean isFirst) {
    if (result.isDone()) {
      return;
    }
    var request = message.request(roomId, room.persist());
    var settings = calls.settings();
    var window = room.persist() ? room.dedupeWindow() : null;
    var longest = window == null ? settings.total() : window;
    var shorter = settings.publish();
    var running =
        new Retry<PublishResult>(
                calls.connection(),
                settings,
                shorter == null ? longest : Wire.min(longest, shorter.minus(elapsed())),
                new Retry.Policy(room.persist(), "", window),
                null,
                (token, limit) -> {
                  var method = RoomServiceGrpc.getPublishMethod();
                  var attempt = calls.connection().attempt(method, request, token, limit);
                  var mapped = attempt.thenApply(r -> PublishResult.of(r, request.getMessageId()));
                  Futures.link(mapped, attempt);
                  return mapped;
                })
            .start();
    Futures.link(result, running);
    running.whenComplete(
        (value, e) -> {
          if (e == null) {
            result.complete(value);
          } else if (e instanceof UnibusException error) {
            var isOther = rooms.forget(roomId, error);
            if (isOther && isFirst && message.messageId().isEmpty()) {
              attempt(false);
            } else {
              result.completeExceptionally(
                  error.forMessage(request.getMessageId(), error.isOutcomeUnknown()));
            }
          } else {
            result.completeExceptionally(e);
          }
        });
  }
}
