package io.github.unibusrs;

import io.github.unibusrs.v1.CreateRoomRequest;
import java.time.Duration;
import java.util.Map;
import java.util.function.Consumer;

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

  private RoomSettings with(Consumer<CreateRoomRequest.Builder> change) {
    var changed = wire.toBuilder();
    change.accept(changed);
    return new RoomSettings(changed);
  }

  /** The same settings with this largest age of a stored message. */
  public RoomSettings withMaxAge(Duration age) {
    return with(room -> room.getRetentionBuilder().setMaxAge(Wire.duration(age)));
  }

  /** The same settings with this largest size of all stored messages; the oldest are removed. */
  public RoomSettings withMaxBytes(long bytes) {
    return with(room -> room.getRetentionBuilder().setMaxBytes(bytes));
  }

  /** The same settings with this largest number of stored messages; the oldest are removed. */
  public RoomSettings withMaxMessages(long messages) {
    return with(room -> room.getRetentionBuilder().setMaxMessages(messages));
  }

  /** The same settings with this largest payload of one message. */
  public RoomSettings withMaxMessageBytes(int bytes) {
    return with(room -> room.getRetentionBuilder().setMaxMessageBytes(bytes));
  }

  /**
   * The same settings with this time for which the room remembers the id of a message: from 2
   * minutes to 24 hours. Default: 2 minutes.
   */
  public RoomSettings withDedupeWindow(Duration window) {
    return with(room -> room.setDedupeWindow(Wire.duration(window)));
  }

  /** The same settings with these labels: free pairs of names and values. */
  public RoomSettings withLabels(Map<String, String> labels) {
    return with(room -> room.clearLabels().putAllLabels(labels));
  }

  /** The same settings with this number of copies of the log in a NATS cluster: 1, 3 or 5. */
  public RoomSettings withReplicas(int copies) {
    return with(room -> room.setReplicas(copies));
  }

  /** The same settings; messages may have a lifetime of their own. */
  public RoomSettings withMessageTtl() {
    return with(room -> room.setAllowMessageTtl(true));
  }

  /** The same settings with this NATS subject. Default: the service chooses. */
  public RoomSettings withSubject(String subject) {
    return with(room -> room.setSubject(subject));
  }

  CreateRoomRequest request(String roomId) {
    return wire.toBuilder().setRoomId(roomId).build();
  }
}
