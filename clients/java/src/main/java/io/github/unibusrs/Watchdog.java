package io.github.unibusrs;

import java.time.Duration;

/** Notices the silence of the service (U16) and pauses of this process (U17). Does no I/O. */
final class Watchdog {
  /** What a tick found. */
  enum Finding {
    NOTHING,
    /** The process did not run for a while. */
    FROZEN,
    /** Nothing came for longer than the limit. */
    SILENT
  }

  /** The time between two ticks. */
  static final Duration TICK = Duration.ofMillis(500);

  /** The shortest pause that is noticed. */
  static final Duration PAUSE = Duration.ofSeconds(5);

  private boolean watching;
  private Duration silence = Duration.ZERO;
  private Duration limit = Duration.ZERO;
  private long lastTick = System.nanoTime();
  private long lastClock = System.currentTimeMillis();

  /** Something came: watches the silence from now on. */
  void watch(Duration longest) {
    watching = true;
    silence = Duration.ZERO;
    limit = longest;
  }

  void rest() {
    watching = false;
  }

  boolean isWatching() {
    return watching;
  }

  Finding tick() {
    var awake = Duration.ofNanos(System.nanoTime() - lastTick);
    // The machine slept in this time, which the other clock does not count on every system.
    var asleep = Duration.ofMillis(System.currentTimeMillis() - lastClock);
    lastTick = System.nanoTime();
    lastClock = System.currentTimeMillis();
    if (!watching) {
      return Finding.NOTHING;
    }
    if (awake.compareTo(PAUSE) > 0 || asleep.compareTo(PAUSE) > 0) {
      silence = Duration.ZERO;
      return Finding.FROZEN;
    }
    // Time in which the process could not run is time in which it did not read: it does not count.
    silence = silence.plus(Wire.min(awake, TICK.multipliedBy(2)));
    return silence.compareTo(limit) > 0 ? Finding.SILENT : Finding.NOTHING;
  }
}
