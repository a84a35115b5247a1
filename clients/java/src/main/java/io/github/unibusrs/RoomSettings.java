package io.github.unibusrs;

import io.github.unibusrs.v1.CreateRoomRequest;
import java.time.Duration;
import java.util.Map;

/** The settings of a room that is created. They never change: each method returns others. */
public final class RoomSettings {
  private final CreateRoomRequest wire;

  private RoomSettings(CreateRoomRequest.Builder wire) {
    this.wire = wire.build();
  }

  /** A room that stores its messages. */
  public static RoomSettings persisted() {
    return new RoomSettings(CreateRoomRequest.newBuilder().setPersist(true));
  }

  /** A room whose messages reach only the subscriptions that are open. */
  public static RoomSettings ephemeral() {
    return new RoomSettings(CreateRoomRequest.newBuilder());
  }

  /** The same settings with these bounds on the stored messages. */
  public RoomSettings withRetention(Retention bounds) {
    var changed = wire.toBuilder().clearRetention();
    return new RoomSettings(
        bounds.equals(Retention.NONE) ? changed : changed.setRetention(bounds.toWire()));
  }

  /**
   * The same settings with this time for which the room remembers the id of a message: from 2
   * minutes to 24 hours. Default: 2 minutes.
   */
  public RoomSettings withDedupeWindow(Duration window) {
    return new RoomSettings(wire.toBuilder().setDedupeWindow(Wire.duration(window)));
  }

  /** The same settings with these labels: free pairs of names and values. */
  public RoomSettings withLabels(Map<String, String> labels) {
    return new RoomSettings(wire.toBuilder().clearLabels().putAllLabels(labels));
  }

  /** The same settings with this number of copies of the log in a NATS cluster: 1, 3 or 5. */
  public RoomSettings withReplicas(int copies) {
    return new RoomSettings(wire.toBuilder().setReplicas(copies));
  }

  /** The same settings; messages may have a lifetime of their own. */
  public RoomSettings withMessageTtl() {
    return new RoomSettings(wire.toBuilder().setAllowMessageTtl(true));
  }

  /** The same settings with this NATS subject. Default: the service chooses. */
  public RoomSettings withSubject(String subject) {
    return new RoomSettings(wire.toBuilder().setSubject(subject));
  }

  CreateRoomRequest request(String roomId) {
    return wire.toBuilder().setRoomId(roomId).build();
  }
}
