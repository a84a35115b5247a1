package io.github.unibusrs;

import java.time.Duration;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.TimeUnit;
import java.util.function.Supplier;
import org.jspecify.annotations.Nullable;

/**
 * The token of each attempt, and what a refusal of it means (U8). One for each series of attempts.
 */
final class Credentials {
  /** Where tokens come from. */
  record Source(@Nullable Supplier<CompletionStage<String>> supplier, @Nullable String fixed) {}

  private final Source source;
  private volatile @Nullable String current;
  private volatile @Nullable String refused;
  private volatile @Nullable UnibusException refusal;

  Credentials(Source source) {
    this.source = source;
  }

  /** The token for the next attempt; null if the client has none. */
  CompletableFuture<@Nullable String> next(Duration limit) {
    var supplier = source.supplier;
    if (supplier == null) {
      return CompletableFuture.completedFuture(source.fixed);
    }
    CompletableFuture<String> asked;
    try {
      // A copy, so that the time limit does not end a future of the program.
      asked = supplier.get().toCompletableFuture().copy();
    } catch (Exception e) {
      asked = CompletableFuture.failedFuture(e);
    }
    return asked
        .orTimeout(limit.toNanos(), TimeUnit.NANOSECONDS)
        .handle(
            (token, e) -> {
              if (e != null || token == null || token.isEmpty()) {
                throw UnibusException.notSent("the supplier of tokens failed", e);
              }
              var why = refusal;
              if (why != null && token.equals(refused)) {
                throw why.asFinal();
              }
              current = token;
              return token;
            });
  }

  /** The error of an attempt; a refusal is final if there will be no other token. */
  UnibusException judge(UnibusException error) {
    if (error.getOutcome() != UnibusException.Outcome.NEW_TOKEN) {
      return error;
    }
    if (source.supplier == null) {
      return error.asFinal();
    }
    refused = current;
    refusal = error;
    return error;
  }
}
