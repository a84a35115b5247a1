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
 * with {@code break} or by an exception does not acknowledge its last message: it comes again. Use
 * {@code try} with resources: a close of the client on another thread waits for the loop to ask for
 * its next message.
 */
public final class Messages implements Iterable<Message>, Iterator<Message>, AutoCloseable {
  /** A message for the loop; without a message, the end. */
  private record Handed(@Nullable Message message, CompletableFuture<Void> processed) {}

  private final LinkedBlockingQueue<Handed> handed = new LinkedBlockingQueue<>();
  private final Subscription subscription;
  private @Nullable Handed next;

  /** The message that the loop works on, and the thread of the loop. */
  private volatile @Nullable Handed current;

  private volatile @Nullable Thread loop;
  private volatile boolean closed;

  /** Begins the subscription, which calls {@link #withdraw} before it waits for handlers. */
  Messages(SubscriptionBuilder plan) {
    var feed = new Feed(plan, new Handlers.Mode(this::hand, 1, false), this::withdraw);
    subscription = new Subscription(feed);
    feed.start();
    feed.done().whenComplete((v, e) -> handed.add(new Handed(null, feed.done())));
  }

  private CompletableFuture<Void> hand(Message message) {
    var processed = new CompletableFuture<Void>();
    handed.add(new Handed(message, processed));
    if (closed) {
      withdraw();
    }
    return processed;
  }

  /** The subscription behind the loop. */
  public Subscription subscription() {
    return subscription;
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
    loop = Thread.currentThread();
    if (next == null) {
      var before = current;
      current = null;
      if (before != null) {
        before.processed.complete(null);
      }
      next = take();
    }
    if (next.message != null) {
      return true;
    }
    Futures.await(subscription.done());
    return false;
  }

  private Handed take() {
    try {
      return handed.take();
    } catch (InterruptedException e) {
      abandon();
      throw Futures.interrupted();
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

  private CompletableFuture<Void> abandon() {
    var ended = subscription.closeAsync();
    cancel(current);
    return ended;
  }

  /**
   * The subscription closes, and waits for the message that the loop works on. What the loop did
   * not take will never be processed, and neither will its message if the loop cannot go on.
   */
  private void withdraw() {
    closed = true;
    handed.forEach(Messages::cancel);
    handed.removeIf(waiting -> waiting.message != null);
    var thread = loop;
    if (thread == null || thread == Thread.currentThread() || !thread.isAlive()) {
      cancel(next);
      cancel(current);
    }
  }

  private static void cancel(@Nullable Handed handed) {
    if (handed != null && handed.message != null) {
      handed.processed.cancel(false);
    }
  }
}
