package io.github.unibusrs;

import io.github.unibusrs.v1.CreateRoomRequest;
import java.time.Duration;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * The settings of a room that is created.
 *
 * @param persist whether messages are stored
 * @param retention bounds on the stored messages
 * @param dedupeWindow how long the room remembers the id of a message; null: 2 minutes
 * @param labels free pairs of names and values
 * @param replicas copies of the log in a NATS cluster: 1, 3 or 5; 0 means 1
 * @param allowMessageTtl whether messages may have a lifetime of their own
 * @param subject the NATS subject; empty: the service chooses
 */
public record RoomSettings(
    boolean persist,
    Retention retention,
    @Nullable Duration dedupeWindow,
    Map<String, String> labels,
    int replicas,
    boolean allowMessageTtl,
    String subject) {
  private static final RoomSettings DEFAULT =
      new RoomSettings(true, Retention.NONE, null, Map.of(), 0, false, "");

  /** Copies the labels. */
  public RoomSettings {
    labels = Map.copyOf(labels);
  }

  /** A room that stores its messages. */
  public static RoomSettings persisted() {
    return DEFAULT;
  }

  /** A room whose messages reach only the subscriptions that are open. */
  public static RoomSettings ephemeral() {
    return new RoomSettings(false, Retention.NONE, null, Map.of(), 0, false, "");
  }

  /** The same settings with these bounds. */
  public RoomSettings withRetention(Retention v) {
    return new RoomSettings(persist, v, dedupeWindow, labels, replicas, allowMessageTtl, subject);
  }

  /** The same settings with this window: from 2 minutes to 24 hours. */
  public RoomSettings withDedupeWindow(Duration v) {
    return new RoomSettings(persist, retention, v, labels, replicas, allowMessageTtl, subject);
  }

  /** The same settings with these labels. */
  public RoomSettings withLabels(Map<String, String> v) {
    return new RoomSettings(
        persist, retention, dedupeWindow, v, replicas, allowMessageTtl, subject);
  }

  /** The same settings with this number of copies. */
  public RoomSettings withReplicas(int v) {
    return new RoomSettings(persist, retention, dedupeWindow, labels, v, allowMessageTtl, subject);
  }

  /** The same settings; messages may have a lifetime of their own. */
  public RoomSettings withMessageTtl() {
    return new RoomSettings(persist, retention, dedupeWindow, labels, replicas, true, subject);
  }

  /** The same settings with this NATS subject. */
  public RoomSettings withSubject(String v) {
    return new RoomSettings(persist, retention, dedupeWindow, labels, replicas, allowMessageTtl, v);
  }

  CreateRoomRequest request(String roomId) {
    var request =
        CreateRoomRequest.newBuilder()
            .setRoomId(roomId)
            .setPersist(persist)
            .putAllLabels(labels)
            .setReplicas(replicas)
            .setAllowMessageTtl(allowMessageTtl)
            .setSubject(subject);
    if (!retention.equals(Retention.NONE)) {
      request.setRetention(retention.toWire());
    }
    if (dedupeWindow != null) {
      request.setDedupeWindow(Wire.duration(dedupeWindow));
    }
    return request.build();
  }
}
