package io.github.unibusrs;

import java.util.Iterator;
import java.util.NoSuchElementException;
import java.util.concurrent.CancellationException;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.LinkedBlockingQueue;
import org.jspecify.annotations.Nullable;

/**
 * The messages of a subscription, for a loop. For one thread.
 *
 * <p>Asking for the next message says that the one before is processed (U19). A loop that is left
 * with {@code break} or by an exception does not acknowledge its last message: it comes again.
 */
public final class Messages implements Iterable<Message>, Iterator<Message>, AutoCloseable {
  /** A message for the loop; without a message, the end. */
  private record Handed(@Nullable Message message, CompletableFuture<Void> processed) {}

  private final LinkedBlockingQueue<Handed> handed = new LinkedBlockingQueue<>();
  private @Nullable Subscription subscription;
  private @Nullable Handed next;
  private volatile @Nullable Handed current;
  private volatile boolean closed;

  Messages() {}

  void begin(Subscription started) {
    subscription = started;
    started.done().whenComplete((v, e) -> handed.add(new Handed(null, started.done())));
  }

  CompletableFuture<Void> hand(Message message) {
    var processed = new CompletableFuture<Void>();
    handed.add(new Handed(message, processed));
    if (closed) {
      processed.cancel(false);
    }
    return processed;
  }

  /** The subscription behind the loop. */
  public Subscription subscription() {
    var started = subscription;
    if (started == null) {
      throw new IllegalStateException("not started");
    }
    return started;
  }

  /** This object: the messages can be taken once. */
  @Override
  public Iterator<Message> iterator() {
    return this;
  }

  /**
   * Waits for the next message. False when the subscription has ended in order.
   *
   * @throws UnibusException if the service refuses the subscription finally
   * @throws CancellationException if the thread is interrupted; the subscription is then closed
   */
  @Override
  public boolean hasNext() {
    if (next == null) {
      var before = current;
      if (before != null) {
        before.processed.complete(null);
        current = null;
      }
      next = take();
    }
    if (next.message == null) {
      if (!closed) {
        Futures.await(subscription().done());
      }
      return false;
    }
    return true;
  }

  private Handed take() {
    try {
      return handed.take();
    } catch (InterruptedException e) {
      abandon();
      Thread.currentThread().interrupt();
      throw new CancellationException("interrupted");
    }
  }

  @Override
  public Message next() {
    if (!hasNext() || next == null || next.message == null) {
      throw new NoSuchElementException();
    }
    current = next;
    next = null;
    return current.message;
  }

  /** Ends the subscription (U27). The message that the loop works on is not acknowledged. */
  @Override
  public void close() {
    abandon().join();
  }

  /** Begins to close. What is not processed will never be. */
  private CompletableFuture<Void> abandon() {
    var ended = subscription().closeAsync();
    closed = true;
    var last = current;
    if (last != null) {
      last.processed.cancel(false);
    }
    for (var waiting : handed) {
      if (waiting.message != null) {
        waiting.processed.cancel(false);
      }
    }
    var unread = next;
    if (unread != null && unread.message != null) {
      unread.processed.cancel(false);
    }
    return ended;
  }
}
