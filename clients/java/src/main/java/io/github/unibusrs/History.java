package io.github.unibusrs;

import io.github.unibusrs.v1.HistoryRequest;
import io.github.unibusrs.v1.HistoryResponse;
import io.github.unibusrs.v1.RoomServiceGrpc;
import io.github.unibusrs.v1.TimeRange;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Collections;
import java.util.Iterator;
import java.util.NoSuchElementException;
import java.util.Spliterator;
import java.util.Spliterators;
import java.util.stream.Stream;
import java.util.stream.StreamSupport;
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

  /** The messages as a stream. */
  public Stream<Message> stream() {
    var order = Spliterator.ORDERED | Spliterator.NONNULL | Spliterator.DISTINCT;
    return StreamSupport.stream(Spliterators.spliteratorUnknownSize(iterator(), order), false);
  }

  @Override
  public Iterator<Message> iterator() {
    return new Messages();
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

  /** One walk over the pages. */
  private final class Messages implements Iterator<Message> {
    private Iterator<Message> page = Collections.emptyIterator();
    private HistoryRequest.@Nullable Builder request;
    private boolean begun;
    private @Nullable Message next;

    @Override
    public boolean hasNext() {
      while (next == null && (page.hasNext() || !begun || request != null)) {
        if (page.hasNext()) {
          take(page.next());
        } else {
          load();
        }
      }
      return next != null;
    }

    @Override
    public Message next() {
      if (!hasNext()) {
        throw new NoSuchElementException();
      }
      var message = next;
      next = null;
      return message;
    }

    /** Yields the message, skips it if the range is still ahead, or ends behind the range. */
    private void take(Message message) {
      var isAhead = query.backwards ? isAfter(message) : isBefore(message);
      var isBehind = query.backwards ? isBefore(message) : isAfter(message);
      if (isBehind) {
        page = Collections.emptyIterator();
        request = null;
      } else if (!isAhead) {
        next = message;
      }
    }

    private void load() {
      var ask = begun ? request : query.backwards ? last() : first();
      begun = true;
      var response = page(ask == null ? request() : ask);
      var messages = new ArrayList<>(response.getMessagesList().stream().map(Message::of).toList());
      if (query.backwards) {
        Collections.reverse(messages);
        request =
            response.getHasOlder() ? request().setBeforeCursor(response.getOlderCursor()) : null;
      } else {
        request =
            response.getHasNewer() ? request().setAfterCursor(response.getNewerCursor()) : null;
      }
      page = messages.iterator();
    }
  }
}
