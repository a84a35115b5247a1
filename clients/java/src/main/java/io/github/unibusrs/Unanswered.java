package io.github.unibusrs;

import io.github.unibusrs.Publisher.Entry;
import java.util.List;
import java.util.TreeMap;
import java.util.concurrent.CompletableFuture;
import java.util.function.Predicate;
import org.jspecify.annotations.Nullable;

/**
 * The unanswered messages of a publisher, in the order in which the program gave them: some are
 * sent on the current stream, the others wait. Does no I/O; the publisher holds its lock.
 */
final class Unanswered {
  private final TreeMap<Long, Entry> entries = new TreeMap<>();
  private long bytes;
  private long last;

  /** No message before this number waits. */
  private long next;

  Entry add(Outgoing message) {
    var entry = new Entry(++last, message);
    bytes += message.size();
    entries.put(entry.number, entry);
    return entry;
  }

  boolean isEmpty() {
    return entries.isEmpty();
  }

  /** Whether a message of this size has to wait (U13). */
  boolean isFull(Publisher.Options options, int size) {
    return entries.size() >= options.messages() || (!isEmpty() && bytes + size > options.bytes());
  }

  @Nullable Entry nextToSend() {
    for (var entry : entries.tailMap(next).values()) {
      next = entry.number;
      if (!entry.isSent) {
        return entry;
      }
    }
    return null;
  }

  @Nullable Entry firstSent() {
    return entries.values().stream().filter(entry -> entry.isSent).findFirst().orElse(null);
  }

  /** The message is to be sent again, in its place. */
  void repeat(Entry entry) {
    entry.isSent = false;
    next = Math.min(next, entry.number);
  }

  /** The stream broke: all messages that were sent on it are to be sent again, in order. */
  void repeatAll() {
    entries.values().forEach(this::repeat);
  }

  void remove(Entry entry) {
    if (entries.remove(entry.number) != null) {
      bytes -= entry.message.size();
    }
  }

  /** Since when the oldest message waits for an answer or to be sent; null if there is none. */
  @Nullable Long oldest(long lastAnswer) {
    if (isEmpty()) {
      return null;
    }
    var entry = firstSent();
    var since = entry == null ? entries.firstEntry().getValue().began : entry.sentAt;
    return since - lastAnswer > 0 ? since : lastAnswer;
  }

  /** A copy of those messages, in order. */
  List<Entry> all(Predicate<Entry> which) {
    return entries.values().stream().filter(which).toList();
  }

  List<CompletableFuture<PublishResult>> futures() {
    return entries.values().stream().map(entry -> entry.future).toList();
  }
}
