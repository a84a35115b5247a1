package io.github.unibusrs;

import com.google.common.cache.CacheBuilder;
import io.github.unibusrs.v1.GetRoomRequest;
import io.github.unibusrs.v1.GetRoomResponse;
import io.github.unibusrs.v1.RoomServiceGrpc;
import java.time.Duration;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import java.util.function.BiFunction;

/** What a publish needs to know of its room, asked once (U12). */
final class Rooms {
  /** Whether messages have ids, and how long the room remembers them. */
  record Known(boolean persist, Duration dedupeWindow) {
    static Known of(GetRoomResponse response) {
      var room = response.getRoom();
      return new Known(room.getPersist(), Wire.duration(room.getDedupeWindow()));
    }
  }

  /** The rooms that were used last, so that a program with many rooms keeps its memory. */
  private final Map<String, CompletableFuture<Known>> known =
      CacheBuilder.newBuilder().maximumSize(1000).<String, CompletableFuture<Known>>build().asMap();

  private final Connection connection;

  Rooms(Connection connection) {
    this.connection = connection;
  }

  /**
   * Uses what is known of the room in what is left of the time of an attempt, after it has asked if
   * nothing is. Errors of that leave nothing unknown, since nothing was published.
   */
  <T> CompletableFuture<T> use(
      String roomId,
      Credentials credentials,
      Duration limit,
      BiFunction<Known, Duration, CompletableFuture<T>> then) {
    var began = System.nanoTime();
    var found = known.get(roomId);
    if (found == null || found.isCompletedExceptionally()) {
      var request = GetRoomRequest.newBuilder().setRoomId(roomId).build();
      var method = RoomServiceGrpc.getGetRoomMethod();
      var others = new CompletableFuture<Void>();
      found = connection.attempt(method, request, credentials, limit, others).thenApply(Known::of);
      known.put(roomId, found);
    }
    // A copy, since others may wait for the same answer for a longer time.
    return found
        .copy()
        .orTimeout(Wire.nanos(limit), TimeUnit.NANOSECONDS)
        .handle(
            (room, e) -> {
              if (e != null) {
                throw Futures.error(e).forMessage("", false);
              }
              return room;
            })
        .thenCompose(room -> then.apply(room, limit.minus(Streaming.since(began))));
  }

  /** Whether the error says that the room is not what it was. The room is then asked for again. */
  boolean forget(String roomId, UnibusException error) {
    var isOther = saysNoIds(error) || error.getReason().equals("ROOM_NOT_FOUND");
    if (isOther) {
      known.remove(roomId);
    }
    return isOther;
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
