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
import java.util.function.Consumer;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;

/**
 * The stored messages of a room, oldest first, or newest first (U28). Each iteration asks the
 * service anew, page by page; each page is a call that is repeated like every call (U9).
 */
public final class History implements Iterable<Message> {
  private final Calls calls;
  private final String roomId;
  private boolean backwards;
  private int pageSize = 200;
  private @Nullable Long after;
  private @Nullable Long before;
  private @Nullable Instant start;
  private @Nullable Instant end;

  History(Calls calls, String roomId) {
    this.calls = calls;
    this.roomId = roomId;
  }

  private History with(Consumer<History> change) {
    var copy = new History(calls, roomId);
    copy.backwards = backwards;
    copy.pageSize = pageSize;
    copy.after = after;
    copy.before = before;
    copy.start = start;
    copy.end = end;
    change.accept(copy);
    return copy;
  }

  /** The same messages, newest first. */
  public History backwards() {
    return with(h -> h.backwards = true);
  }

  /** Only messages after this sequence, unsigned. */
  public History afterSequence(long sequence) {
    return with(h -> h.after = sequence);
  }

  /** Only messages before this sequence, unsigned. */
  public History beforeSequence(long sequence) {
    return with(h -> h.before = sequence);
  }

  /** Only messages that were stored at or after this time. */
  public History since(Instant time) {
    return with(h -> h.start = time);
  }

  /** Only messages that were stored before this time. */
  public History until(Instant time) {
    return with(h -> h.end = time);
  }

  /** The messages of one page: 200 unless set, at most 1000. */
  public History pageSize(int messages) {
    return with(h -> h.pageSize = messages);
  }

  /** The messages as a stream. Asks for the first page at once, and for others when needed. */
  public Stream<Message> stream() {
    var first = page(backwards ? last() : first());
    return Stream.<@Nullable HistoryResponse>iterate(first, Objects::nonNull, this::following)
        .flatMap(this::messages)
        .takeWhile(m -> !(backwards ? isBefore(m) : isAfter(m)))
        .filter(m -> !(backwards ? isAfter(m) : isBefore(m)));
  }

  @Override
  public Iterator<Message> iterator() {
    return stream().iterator();
  }

  private HistoryRequest.Builder request() {
    return HistoryRequest.newBuilder().setRoomId(roomId).setLimit(pageSize);
  }

  private HistoryResponse page(HistoryRequest.Builder request) {
    var call = calls.call(RoomServiceGrpc.getHistoryMethod(), request.build(), r -> r);
    return Futures.await(call);
  }

  /** The first request forwards: after a sequence, or from a time. */
  private HistoryRequest.Builder first() {
    if (start == null) {
      return request().setAfterSequence(after == null ? 0 : after);
    }
    var range = TimeRange.newBuilder().setStart(Wire.timestamp(start));
    return request().setTimeRange(range);
  }

  /** The first request backwards: before a sequence, before a time, or the newest. */
  private HistoryRequest.Builder last() {
    if (before != null) {
      return request().setBeforeSequence(before);
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
    return (after != null && Long.compareUnsigned(m.sequence(), after) <= 0)
        || (start != null && m.publishedAt().isBefore(start));
  }

  private boolean isAfter(Message m) {
    return (before != null && Long.compareUnsigned(m.sequence(), before) >= 0)
        || (end != null && !m.publishedAt().isBefore(end));
  }

  private Stream<Message> messages(HistoryResponse page) {
    var messages = new ArrayList<>(page.getMessagesList());
    if (backwards) {
      Collections.reverse(messages);
    }
    return messages.stream().map(Message::of);
  }

  private @Nullable HistoryResponse following(HistoryResponse page) {
    if (backwards) {
      var older = request().setBeforeCursor(page.getOlderCursor());
      return page.getHasOlder() ? page(older) : null;
    }
    return page.getHasNewer() ? page(request().setAfterCursor(page.getNewerCursor())) : null;
  }
}
