package io.github.unibusrs;

import java.time.Duration;
import java.util.concurrent.CompletableFuture;
import org.jspecify.annotations.Nullable;

/** Attempts a call until it succeeds, fails finally, or its time is up (U9). */
abstract class Retry<T> {
  final Calls calls;
  final Credentials credentials;
  final CompletableFuture<T> result = new CompletableFuture<>();
  private final Backoff backoff = new Backoff();
  private final long began = System.nanoTime();
  private @Nullable UnibusException last;
  private boolean unknown;

  Retry(Calls calls) {
    this.calls = calls;
    this.credentials = calls.connection().credentials();
  }

  /** One attempt. */
  abstract CompletableFuture<T> attempt(Duration limit);

  /** The time of all attempts. */
  Duration total() {
    return calls.settings().total();
  }

  /**
   * Whether an attempt may begin after an error of the class again.
   *
   * @param next the time from the first attempt to the next one
   * @param unknown whether an attempt left the outcome unknown
   */
  boolean mayRepeat(Duration next, boolean unknown) {
    return true;
  }

  boolean isFinal(UnibusException error) {
    return error.getOutcome() == UnibusException.Outcome.FINAL;
  }

  /** The result, if this error after an unknown outcome means success (U10). */
  @Nullable T success(UnibusException error) {
    return null;
  }

  /** The id of the message that is published, for errors. */
  String messageId() {
    return "";
  }

  /**
   * Starts the first attempt. The future fails with a {@link UnibusException} that says whether any
   * attempt left the outcome unknown. To cancel the future cancels the call.
   */
  CompletableFuture<T> start() {
    if (calls.connection().track(result)) {
      begin();
    }
    return result;
  }

  private Duration elapsed() {
    return Duration.ofNanos(System.nanoTime() - began);
  }

  private void begin() {
    if (result.isDone()) {
      return;
    }
    var left = total().minus(elapsed());
    var isCut = left.compareTo(calls.settings().attempt()) < 0;
    // Not on the thread that ended the wait: code of the program follows.
    attempt(isCut ? left : calls.settings().attempt())
        .whenCompleteAsync(
            (value, e) -> {
              if (e == null) {
                result.complete(value);
              } else {
                failed(credentials.judge(Futures.error(e)), isCut);
              }
            },
            calls.connection().threads());
  }

  private void failed(UnibusException error, boolean isCut) {
    var success = unknown ? success(error) : null;
    if (success != null) {
      result.complete(success);
      return;
    }
    unknown |= error.isOutcomeUnknown();
    var pause = backoff.next(error);
    var next = elapsed().plus(pause);
    var isFinal = isFinal(error);
    // An attempt without its whole time, and without an answer, tells less than the one before.
    if (last == null || isFinal || !isCut || !error.getReason().isEmpty()) {
      last = error;
    }
    if (isFinal || next.compareTo(total()) >= 0 || !mayRepeat(next, unknown)) {
      result.completeExceptionally(last.forMessage(messageId(), unknown));
    } else {
      calls.connection().later(pause, this::begin);
    }
  }
}
