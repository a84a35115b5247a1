package io.github.unibusrs;

import java.time.Duration;
import java.util.concurrent.Callable;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import org.jspecify.annotations.Nullable;

/**
 * The token of each attempt, and what a refusal of it means (U8). One for each series of attempts.
 */
final class Credentials {
  /** Where tokens come from: from neither, if the client has none. */
  record Source(@Nullable Callable<String> supplier, @Nullable String fixed) {}

  private final Source source;
  private final ExecutorService threads;
  private volatile @Nullable String current;
  private volatile @Nullable UnibusException refusal;

  Credentials(Source source, ExecutorService threads) {
    this.source = source;
    this.threads = threads;
  }

  /** The token for the next attempt; null if the client has none. */
  CompletableFuture<@Nullable String> next(Duration limit) {
    var supplier = source.supplier;
    if (supplier == null) {
      return CompletableFuture.completedFuture(source.fixed);
    }
    var asked = new CompletableFuture<String>();
    var running =
        threads.submit(
            () -> {
              try {
                asked.complete(supplier.call());
              } catch (Throwable e) {
                asked.completeExceptionally(e);
              }
            });
    return asked
        .orTimeout(Wire.nanos(limit), TimeUnit.NANOSECONDS)
        .handle(
            (token, e) -> {
              if (e instanceof TimeoutException) {
                running.cancel(true);
              }
              if (e != null) {
                throw UnibusException.notSent("the supplier of tokens failed", e);
              }
              return checked(token);
            });
  }

  private String checked(@Nullable String token) {
    if (token == null || !isValid(token)) {
      throw UnibusException.notSent("the supplier gave no token of visible ASCII characters", null);
    }
    var why = refusal;
    if (why != null && token.equals(current)) {
      throw why.asFinal();
    }
    refusal = null;
    current = token;
    return token;
  }

  /** Whether a header can carry the token. */
  static boolean isValid(String token) {
    return !token.isEmpty() && token.chars().allMatch(c -> c > ' ' && c < 0x7f);
  }

  /** The error of an attempt; a refusal is final if there will be no other token. */
  UnibusException judge(UnibusException error) {
    if (error.getOutcome() != UnibusException.Outcome.NEW_TOKEN) {
      return error;
    }
    if (source.supplier == null) {
      return error.asFinal();
    }
    refusal = error;
    return error;
  }
}
