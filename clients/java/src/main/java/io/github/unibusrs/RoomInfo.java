package io.github.unibusrs;

import java.time.Duration;
import java.time.Instant;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * A room and what it holds. Numbers of messages and bytes, and sequences, are unsigned.
 *
 * @param roomId the id
 * @param persist whether messages are stored
 * @param subject the NATS subject
 * @param retention the bounds on the stored messages
 * @param replicas the copies of the log
 * @param allowMessageTtl whether messages may have a lifetime of their own
 * @param labels free pairs of names and values
 * @param createdAt when the room was created
 * @param creator the caller that created it; empty if authorisation was off
 * @param stream the NATS stream of the log; empty in an ephemeral room
 * @param dedupeWindow how long the room remembers the id of a message; null in an ephemeral room
 * @param firstSequence the oldest stored message; in a list of rooms 0, like the next three
 * @param lastSequence the newest message that was ever stored
 * @param messages the number of stored messages
 * @param bytes their size
 */
public record RoomInfo(
    String roomId,
    boolean persist,
    String subject,
    Retention retention,
    int replicas,
    boolean allowMessageTtl,
    Map<String, String> labels,
    Instant createdAt,
    String creator,
    String stream,
    @Nullable Duration dedupeWindow,
    long firstSequence,
    long lastSequence,
    long messages,
    long bytes) {

  static RoomInfo of(io.github.unibusrs.v1.Room r) {
    return new RoomInfo(
        r.getRoomId(),
        r.getPersist(),
        r.getSubject(),
        Retention.of(r.getRetention()),
        r.getReplicas(),
        r.getAllowMessageTtl(),
        r.getLabelsMap(),
        Wire.instant(r.getCreatedAt()),
        r.getCreator(),
        r.getStream(),
        r.hasDedupeWindow() ? Wire.duration(r.getDedupeWindow()) : null,
        r.getState().getFirstSequence(),
        r.getState().getLastSequence(),
        r.getState().getMessages(),
        r.getState().getBytes());
  }
}
