package io.github.unibusrs;

import java.util.concurrent.CompletableFuture;

/**
 * A running subscription. It goes on for ever (U15), until the program closes it, a handler fails,
 * or the service refuses it finally.
 */
public final class Subscription implements AutoCloseable {
  private final Feed feed;

  Subscription(Feed feed) {
    this.feed = feed;
  }

  /**
   * Completes when the subscription has ended: with null after {@link #close} and after {@code
   * untilCaughtUp}, with a {@link UnibusException} that is final, or with what a handler threw
   * (U21). To cancel the future closes the subscription without waiting.
   */
  public CompletableFuture<Void> done() {
    return feed.done();
  }

  /** Waits until the subscription has ended, and throws what ended it. An interrupt closes it. */
  public void await() {
    Futures.await(feed.done());
  }

  /**
   * Waits for running handlers, acknowledges, and ends the subscription (U27). Throws nothing:
   * {@link #done} has the outcome. When a handler calls it, it does not wait.
   */
  @Override
  public void close() {
    var ended = feed.closeAsync();
    if (!Inside.any()) {
      ended.join();
    }
  }

  /** Begins to close; the future completes when the subscription has ended. */
  public CompletableFuture<Void> closeAsync() {
    return feed.closeAsync();
  }
}
