package io.github.unibusrs;

import io.github.unibusrs.Publisher.Entry;
import java.util.Comparator;
import java.util.List;
import java.util.TreeMap;
import java.util.concurrent.CompletableFuture;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;

/**
 * The unanswered messages of a publisher, in the order in which the program gave them: some are
 * sent on the current stream, the others wait. Does no I/O; the publisher holds its lock.
 */
final class Unanswered {
  private final TreeMap<Long, Entry> waiting = new TreeMap<>();
  private final TreeMap<Long, Entry> sent = new TreeMap<>();
  private long bytes;
  private long last;

  Entry add(Outgoing message) {
    var entry = new Entry(++last, message);
    bytes += message.size();
    waiting.put(entry.number, entry);
    return entry;
  }

  boolean isEmpty() {
    return waiting.isEmpty() && sent.isEmpty();
  }

  /** Whether a message of this size has to wait (U13). */
  boolean isFull(Publisher.Options options, int size) {
    var count = waiting.size() + sent.size();
    return count >= options.messages() || (count > 0 && bytes + size > options.bytes());
  }

  @Nullable Entry nextToSend() {
    var first = waiting.firstEntry();
    return first == null ? null : first.getValue();
  }

  @Nullable Entry firstSent() {
    var first = sent.firstEntry();
    return first == null ? null : first.getValue();
  }

  boolean isWaiting(Entry entry) {
    return waiting.containsKey(entry.number);
  }

  void sent(Entry entry) {
    waiting.remove(entry.number);
    sent.put(entry.number, entry);
  }

  /** The message is to be sent again, in its place. */
  void repeat(Entry entry) {
    sent.remove(entry.number);
    waiting.put(entry.number, entry);
  }

  /** The stream broke: all messages that were sent on it are to be sent again, in order. */
  void repeatAll() {
    waiting.putAll(sent);
    sent.clear();
  }

  void remove(Entry entry) {
    if (waiting.remove(entry.number) != null || sent.remove(entry.number) != null) {
      bytes -= entry.message.size();
    }
  }

  /** Since when the oldest message waits for an answer or to be sent; null if there is none. */
  @Nullable Long oldest(long lastAnswer) {
    var entry = firstSent();
    if (entry == null) {
      entry = nextToSend();
      return entry == null ? null : later(entry.began, lastAnswer);
    }
    return later(entry.sentAt, lastAnswer);
  }

  private static long later(long a, long b) {
    return a - b > 0 ? a : b;
  }

  List<Entry> waiting() {
    return List.copyOf(waiting.values());
  }

  List<Entry> sent() {
    return List.copyOf(sent.values());
  }

  List<Entry> all() {
    return Stream.concat(waiting.values().stream(), sent.values().stream())
        .sorted(Comparator.comparingLong(entry -> entry.number))
        .toList();
  }

  List<CompletableFuture<PublishResult>> futures() {
    return all().stream().map(entry -> entry.future).toList();
  }
}
