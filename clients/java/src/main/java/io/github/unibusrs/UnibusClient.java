package io.github.unibusrs;

import io.github.unibusrs.v1.CreateRoomResponse;
import io.github.unibusrs.v1.ListRoomsRequest;
import io.github.unibusrs.v1.ListRoomsResponse;
import io.github.unibusrs.v1.RoomServiceGrpc;
import java.util.concurrent.CompletableFuture;

/**
 * A client of one service. It is made once, may be used by many threads, and is closed at the end.
 *
 * <pre>{@code
 * try (var client = UnibusClient.connect("http://127.0.0.1:50051");
 *     var messages = client.room("orders").messages("billing")) {
 *   for (var message : messages) {
 *     System.out.println(message.text());
 *   }
 * }
 * }</pre>
 */
public final class UnibusClient implements AutoCloseable {
  private final Calls calls;

  UnibusClient(Calls calls) {
    this.calls = calls;
  }

  /**
   * A client without a token. Does no I/O.
   *
   * @param address {@code https://host:port}, or {@code http://host:port} for plaintext (U5)
   */
  public static UnibusClient connect(String address) {
    return builder(address).build();
  }

  /** A client to configure. See {@link #connect} for the address. */
  public static ClientBuilder builder(String address) {
    return new ClientBuilder(address);
  }

  /** A handle of a room. Does no I/O. */
  public Room room(String id) {
    return new Room(calls, id);
  }

  /** Creates a room with an id that the client makes (U10). */
  public Room createRoom(RoomSettings settings) {
    return createRoom(Wire.randomId(), settings);
  }

  /** Creates a room. The same call again succeeds. */
  public Room createRoom(String id, RoomSettings settings) {
    Futures.await(createRoomAsync(id, settings));
    return room(id);
  }

  /** Creates a room. The same call again succeeds. */
  public CompletableFuture<io.github.unibusrs.v1.Room> createRoomAsync(
      String id, RoomSettings settings) {
    return calls.call(
        RoomServiceGrpc.getCreateRoomMethod(), settings.request(id), CreateRoomResponse::getRoom);
  }

  /**
   * The caller's rooms, without their state, by ascending id; one call for each page of an
   * iteration.
   */
  public Iterable<io.github.unibusrs.v1.Room> rooms() {
    return calls.pages(
        RoomServiceGrpc.getListRoomsMethod(),
        page -> ListRoomsRequest.newBuilder().setPageToken(page).build(),
        response -> response.getRoomsList().stream(),
        ListRoomsResponse::getNextPageToken);
  }

  /**
   * Closes all subscriptions, then all publishers (U27), cancels all other calls (U3), and closes
   * the connection. When a handler or a callback of a publisher calls it, it does not wait.
   */
  @Override
  public void close() {
    var closed = calls.connection().closeAsync();
    if (!Inside.any()) {
      closed.join();
    }
  }
}
