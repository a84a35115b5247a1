package io.github.unibusrs;

import java.util.concurrent.CancellationException;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import java.util.concurrent.ExecutionException;

/** Helpers for futures. */
final class Futures {
  private Futures() {}

  /**
   * Waits for the result. An interrupt cancels the future, and is reported as a {@link
   * CancellationException} (U3).
   */
  static <T> T await(CompletableFuture<T> future) {
    try {
      return future.get();
    } catch (InterruptedException e) {
      future.cancel(true);
      Thread.currentThread().interrupt();
      throw new CancellationException("interrupted");
    } catch (ExecutionException e) {
      throw unchecked(e.getCause());
    }
  }

  /** The failure as an exception that can be thrown anywhere. */
  static RuntimeException unchecked(Throwable failure) {
    var cause = cause(failure);
    if (cause instanceof Error error) {
      throw error;
    }
    if (cause instanceof UnibusException e) {
      return e.here();
    }
    return cause instanceof RuntimeException e ? e : new CompletionException(cause);
  }

  /** The failure without the wrapper that futures put around it. */
  static Throwable cause(Throwable failure) {
    var cause = failure.getCause();
    return failure instanceof CompletionException && cause != null ? cause(cause) : failure;
  }

  /** The failure as the one type of errors (U2). */
  static UnibusException error(Throwable failure) {
    var cause = cause(failure);
    return cause instanceof UnibusException e
        ? e
        : UnibusException.notSent(String.valueOf(cause), cause);
  }

  /** Cancels {@code inner} when the program cancels {@code outer}. */
  static void link(CompletableFuture<?> outer, CompletableFuture<?> inner) {
    outer.whenComplete(
        (value, e) -> {
          if (outer.isCancelled()) {
            inner.cancel(true);
          }
        });
  }
}
