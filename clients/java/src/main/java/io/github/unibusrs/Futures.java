package io.github.unibusrs;

import io.grpc.Status;
import java.util.concurrent.CancellationException;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeoutException;

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
      throw interrupted();
    } catch (ExecutionException e) {
      throw unchecked(cause(e.getCause()));
    }
  }

  /** What a call that was interrupted throws (U3). */
  static CancellationException interrupted() {
    Thread.currentThread().interrupt();
    return new CancellationException("interrupted");
  }

  /** The failure as an exception that can be thrown anywhere. */
  private static RuntimeException unchecked(Throwable cause) {
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
    if (cause instanceof UnibusException e) {
      return e;
    }
    return cause instanceof TimeoutException
        ? UnibusException.of(Status.Code.DEADLINE_EXCEEDED, "no answer in time")
        : UnibusException.notSent(String.valueOf(cause), cause);
  }
}
