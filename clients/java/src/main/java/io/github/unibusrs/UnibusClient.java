package io.github.unibusrs;

import io.github.unibusrs.v1.ListRoomsRequest;
import io.github.unibusrs.v1.RoomServiceGrpc;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentHashMap;

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
  private final Rooms rooms;
  private final Set<Feed> feeds = ConcurrentHashMap.newKeySet();
  private final Set<Publisher> publishers = ConcurrentHashMap.newKeySet();

  UnibusClient(Calls calls) {
    this.calls = calls;
    this.rooms = new Rooms(calls);
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
    return room(id, calls);
  }

  Room room(String id, Calls limited) {
    return new Room(this, limited, id, rooms);
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
  public CompletableFuture<RoomInfo> createRoomAsync(String id, RoomSettings settings) {
    return calls.call(
        RoomServiceGrpc.getCreateRoomMethod(), settings.request(id), r -> RoomInfo.of(r.getRoom()));
  }

  /** The caller's rooms, by ascending id; one call for each page of an iteration. */
  public Iterable<RoomInfo> rooms() {
    return () ->
        new Pages<>(
            page ->
                Futures.await(
                    calls.call(
                        RoomServiceGrpc.getListRoomsMethod(),
                        ListRoomsRequest.newBuilder().setPageToken(page).build(),
                        r ->
                            new Pages.Page<>(
                                r.getRoomsList().stream().map(RoomInfo::of).toList(),
                                r.getNextPageToken()))));
  }

  Subscription subscribe(Feed feed) {
    calls.connection().requireOpen();
    feeds.add(feed);
    feed.ended().whenComplete((value, e) -> feeds.remove(feed));
    feed.start();
    return new Subscription(feed);
  }

  Publisher publisher(Calls limited, String roomId, Publisher.Options options) {
    calls.connection().requireOpen();
    var publisher = new Publisher(limited, roomId, rooms, options, publishers::remove);
    publishers.add(publisher);
    return publisher;
  }

  /**
   * Closes all subscriptions and publishers in order (U27), cancels all other calls (U3), and
   * closes the connection. When a handler calls it, it does not wait.
   */
  @Override
  public void close() {
    if (Handlers.isInHandler()) {
      var thread = new Thread(this::closeNow, "unibus-close");
      thread.setDaemon(true);
      thread.start();
    } else {
      closeNow();
    }
  }

  private void closeNow() {
    var ending = feeds.stream().map(Feed::closing).toArray(CompletableFuture<?>[]::new);
    publishers.parallelStream().forEach(Publisher::close);
    CompletableFuture.allOf(ending).join();
    calls.connection().close();
  }
}
