package io.github.unibusrs;

import io.github.unibusrs.v1.HistoryRequest;
import io.github.unibusrs.v1.HistoryResponse;
import io.github.unibusrs.v1.RoomServiceGrpc;
import io.github.unibusrs.v1.TimeRange;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Collections;
import java.util.Iterator;
import java.util.Objects;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;

/**
 * The stored messages of a room, oldest first, or newest first (U28). Each iteration asks the
 * service anew, page by page; each page is a call that is repeated like every call (U9).
 */
public final class History implements Iterable<Message> {
  private final Calls calls;
  private final Query query;

  /**
   * What to read. Bounds of sequences are exclusive, like {@code end}; {@code start} is inclusive.
   */
  private record Query(
      String roomId,
      boolean backwards,
      int pageSize,
      @Nullable Long after,
      @Nullable Long before,
      @Nullable Instant start,
      @Nullable Instant end) {}

  private History(Calls calls, Query query) {
    this.calls = calls;
    this.query = query;
  }

  static History of(Calls calls, String roomId) {
    return new History(calls, new Query(roomId, false, 200, null, null, null, null));
  }

  /** The same messages, newest first. */
  public History backwards() {
    var q = query;
    return new History(
        calls, new Query(q.roomId, true, q.pageSize, q.after, q.before, q.start, q.end));
  }

  /** Only messages after this sequence, unsigned. */
  public History afterSequence(long sequence) {
    var q = query;
    return new History(
        calls, new Query(q.roomId, q.backwards, q.pageSize, sequence, q.before, q.start, q.end));
  }

  /** Only messages before this sequence, unsigned. */
  public History beforeSequence(long sequence) {
    var q = query;
    return new History(
        calls, new Query(q.roomId, q.backwards, q.pageSize, q.after, sequence, q.start, q.end));
  }

  /** Only messages that were stored at or after this time. */
  public History since(Instant start) {
    var q = query;
    return new History(
        calls, new Query(q.roomId, q.backwards, q.pageSize, q.after, q.before, start, q.end));
  }

  /** Only messages that were stored before this time. */
  public History until(Instant end) {
    var q = query;
    return new History(
        calls, new Query(q.roomId, q.backwards, q.pageSize, q.after, q.before, q.start, end));
  }

  /** The messages of one page: 200 unless set, at most 1000. */
  public History pageSize(int messages) {
    var q = query;
    return new History(
        calls, new Query(q.roomId, q.backwards, messages, q.after, q.before, q.start, q.end));
  }

  /** The messages as a stream. Asks for the first page at once, and for others when needed. */
  public Stream<Message> stream() {
    var first = page(query.backwards ? last() : first());
    return Stream.<@Nullable HistoryResponse>iterate(first, Objects::nonNull, this::following)
        .flatMap(this::messages)
        .takeWhile(m -> !(query.backwards ? isBefore(m) : isAfter(m)))
        .filter(m -> !(query.backwards ? isAfter(m) : isBefore(m)));
  }

  @Override
  public Iterator<Message> iterator() {
    return stream().iterator();
  }

  private HistoryRequest.Builder request() {
    return HistoryRequest.newBuilder().setRoomId(query.roomId).setLimit(query.pageSize);
  }

  private HistoryResponse page(HistoryRequest.Builder request) {
    var call = calls.call(RoomServiceGrpc.getHistoryMethod(), request.build(), r -> r);
    return Futures.await(call);
  }

  /** The first request forwards: after a sequence, or from a time. */
  private HistoryRequest.Builder first() {
    var start = query.start;
    if (start == null) {
      return request().setAfterSequence(query.after == null ? 0 : query.after);
    }
    var range = TimeRange.newBuilder().setStart(Wire.timestamp(start));
    return request().setTimeRange(range);
  }

  /** The first request backwards: before a sequence, before a time, or the newest. */
  private HistoryRequest.Builder last() {
    var end = query.end;
    if (query.before != null) {
      return request().setBeforeSequence(query.before);
    }
    if (end == null) {
      return request();
    }
    // The first message that is too new, if there is one, says where to begin.
    var range = TimeRange.newBuilder().setStart(Wire.timestamp(end));
    var newer = page(request().setTimeRange(range).setLimit(1));
    return newer.getMessagesCount() == 0
        ? request()
        : request().setBeforeCursor(newer.getMessages(0).getCursor());
  }

  private boolean isBefore(Message m) {
    return (query.after != null && Long.compareUnsigned(m.sequence(), query.after) <= 0)
        || (query.start != null && m.publishedAt().isBefore(query.start));
  }

  private boolean isAfter(Message m) {
    return (query.before != null && Long.compareUnsigned(m.sequence(), query.before) >= 0)
        || (query.end != null && !m.publishedAt().isBefore(query.end));
  }

  private Stream<Message> messages(HistoryResponse page) {
    var messages = new ArrayList<>(page.getMessagesList());
    if (query.backwards) {
      Collections.reverse(messages);
    }
    return messages.stream().map(Message::of);
  }

  private @Nullable HistoryResponse following(HistoryResponse page) {
    if (query.backwards) {
      var older = request().setBeforeCursor(page.getOlderCursor());
      return page.getHasOlder() ? page(older) : null;
    }
    return page.getHasNewer() ? page(request().setAfterCursor(page.getNewerCursor())) : null;
  }
}
