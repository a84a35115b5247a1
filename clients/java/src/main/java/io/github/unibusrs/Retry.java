package io.github.unibusrs;

import java.time.Duration;
import java.util.concurrent.CompletableFuture;
import java.util.function.BiFunction;
import org.jspecify.annotations.Nullable;

/** Attempts a call until it succeeds, fails finally, or its time is up (U9). */
final class Retry<T> {
  /**
   * What distinguishes calls.
   *
   * @param repeatUnknown whether the call is repeated after an unknown outcome (U10, U12)
   * @param done the reason that means success after an unknown outcome (U10); empty for none
   * @param window an attempt must end in this time after the first one began (U11); null: no bound
   */
  record Policy(boolean repeatUnknown, String done, @Nullable Duration window) {
    static final Policy REPEAT = new Policy(true, "", null);

    static Policy until(String reason) {
      return new Policy(true, reason, null);
    }
  }

  private final CompletableFuture<T> result = new CompletableFuture<>();
  private final Connection connection;
  private final Settings settings;
  private final Policy policy;
  private final Duration total;
  private final @Nullable T whenDone;
  private final BiFunction<@Nullable String, Duration, CompletableFuture<T>> attempt;
  private final Credentials credentials;
  private final Backoff backoff = new Backoff();
  private final long began = System.nanoTime();
  private boolean unknown;

  Retry(
      Connection connection,
      Settings settings,
      Duration total,
      Policy policy,
      @Nullable T whenDone,
      BiFunction<@Nullable String, Duration, CompletableFuture<T>> attempt) {
    this.connection = connection;
    this.settings = settings;
    this.total = total;
    this.policy = policy;
    this.whenDone = whenDone;
    this.attempt = attempt;
    this.credentials = connection.credentials();
  }

  /**
   * Starts the first attempt. The future fails with a {@link UnibusException} that says whether any
   * attempt left the outcome unknown. To cancel the future cancels the call.
   */
  CompletableFuture<T> start() {
    if (connection.track(result)) {
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
    var limit = Wire.min(settings.attempt(), total.minus(elapsed()));
    credentials.next(limit).whenComplete((token, e) -> call(token, limit, e));
  }

  private void call(@Nullable String token, Duration limit, @Nullable Throwable noToken) {
    if (noToken != null) {
      failed(noToken);
    } else if (!result.isDone()) {
      var running = attempt.apply(token, limit);
      Futures.link(result, running);
      running.whenComplete(
          (value, e) -> {
            if (e == null) {
              result.complete(value);
            } else {
              failed(e);
            }
          });
    }
  }

  private void failed(Throwable failure) {
    if (result.isDone()) {
      return;
    }
    var error = credentials.judge(Futures.error(failure));
    if (unknown && whenDone != null && error.getReason().equals(policy.done)) {
      result.complete(whenDone);
      return;
    }
    unknown |= error.isOutcomeUnknown();
    var pause = backoff.next(error);
    var next = elapsed().plus(pause);
    if (error.getOutcome() == UnibusException.Outcome.FINAL
        || (unknown && !policy.repeatUnknown)
        || next.compareTo(total) >= 0
        || (policy.window != null && next.plus(settings.attempt()).compareTo(policy.window) > 0)) {
      result.completeExceptionally(error.forMessage("", unknown));
    } else {
      connection.later(pause, this::begin);
    }
  }
}
