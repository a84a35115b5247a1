package io.github.unibusrs;

import java.time.Duration;
import java.util.concurrent.ThreadLocalRandom;

/** The pauses between attempts (U4). */
final class Backoff {
  private static final long FIRST_MILLIS = 100;
  private static final long LARGEST_MILLIS = 2000;
  private int attempt;

  /** The pause before the next attempt. */
  Duration next(UnibusException error) {
    var pause = pause(attempt++, ThreadLocalRandom.current().nextDouble());
    var least = error.getRetryAfter();
    return least != null && least.compareTo(pause) > 0 ? least : pause;
  }

  /** The next pause is short again (U15). */
  void reset() {
    attempt = 0;
  }

  static Duration pause(int attempt, double random) {
    var whole = Math.min(LARGEST_MILLIS, FIRST_MILLIS << Math.min(attempt, 10));
    return Duration.ofNanos((long) (whole * 1_000_000 * (0.5 + random / 2)));
  }
}
