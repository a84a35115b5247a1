package io.github.unibusrs;

import java.time.Duration;
import org.jspecify.annotations.Nullable;

/**
 * The limits of calls (U9).
 *
 * @param attempt the time of one attempt
 * @param total the time of all attempts of a call
 * @param publish the time of all attempts of a publish; null: as long as the room's window allows
 */
record Settings(Duration attempt, Duration total, @Nullable Duration publish) {
  static final Settings DEFAULT =
      new Settings(Duration.ofSeconds(10), Duration.ofSeconds(60), null);

  /** The same limits with a deadline of the program. */
  Settings within(Duration deadline) {
    var shorter = publish == null ? deadline : Wire.min(publish, deadline);
    return new Settings(Wire.min(attempt, deadline), Wire.min(total, deadline), shorter);
  }
}
