package io.github.unibusrs;

import java.time.Duration;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentHashMap;

/** What a publish needs to know of its room, asked once (U12). */
final class Rooms {
  /** The window of rooms that do not name one. */
  private static final Duration WINDOW = Duration.ofMinutes(2);

  /** Whether messages have ids, and how long the room remembers them. */
  record Known(boolean persist, Duration dedupeWindow) {}

  private final Map<String, CompletableFuture<Known>> known = new ConcurrentHashMap<>();
  private final Calls calls;

  Rooms(Calls calls) {
    this.calls = calls;
  }

  /** What is known of the room; a failure is not remembered. */
  CompletableFuture<Known> get(String roomId) {
    var found =
        known.computeIfAbsent(
            roomId, id -> new AsyncRoom(calls, id, this).info().thenApply(Rooms::known));
    found.whenComplete(
        (value, e) -> {
          if (e != null) {
            known.remove(roomId, found);
          }
        });
    // A copy, so that a program that cancels its call does not cancel the call of others.
    return found.copy();
  }

  private static Known known(RoomInfo info) {
    var window = info.dedupeWindow();
    return new Known(info.persist(), window == null ? WINDOW : window);
  }

  /**
   * Asks again next time, if this error says that the room is not what it was.
   *
   * @return whether a message to which the client gave an id can be published without (U12)
   */
  boolean forget(String roomId, UnibusException error) {
    var isEphemeral = saysNoIds(error);
    if (isEphemeral || error.getReason().equals("ROOM_NOT_FOUND")) {
      known.remove(roomId);
    }
    return isEphemeral;
  }

  /** Whether the error says that the room is ephemeral, so that its messages have no ids. */
  static boolean saysNoIds(UnibusException error) {
    return switch (error.getReason()) {
      case "ROOM_NOT_PERSISTED" -> true;
      case "INVALID_FIELD" ->
          error.getFields().keySet().stream().anyMatch(f -> f.endsWith("message_id"));
      default -> false;
    };
  }
}
