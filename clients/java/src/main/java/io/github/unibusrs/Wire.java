package io.github.unibusrs;

import com.google.protobuf.Timestamp;
import java.security.SecureRandom;
import java.time.Duration;
import java.time.Instant;
import java.util.HexFormat;
import java.util.concurrent.TimeUnit;

/** Translates between the types of protobuf and those of Java. Times keep all digits (U29). */
final class Wire {
  private static final long MAX_SECONDS = 315_576_000_000L;
  private static final SecureRandom RANDOM = new SecureRandom();

  private Wire() {}

  /** Longer times are cut to those that protobuf defines, so that calculations do not overflow. */
  static Duration duration(com.google.protobuf.Duration value) {
    var seconds = Math.max(-MAX_SECONDS, Math.min(MAX_SECONDS, value.getSeconds()));
    return Duration.ofSeconds(seconds, value.getNanos());
  }

  static com.google.protobuf.Duration duration(Duration value) {
    return com.google.protobuf.Duration.newBuilder()
        .setSeconds(value.getSeconds())
        .setNanos(value.getNano())
        .build();
  }

  static Instant instant(Timestamp value) {
    return Instant.ofEpochSecond(value.getSeconds(), value.getNanos());
  }

  static Timestamp timestamp(Instant value) {
    return Timestamp.newBuilder()
        .setSeconds(value.getEpochSecond())
        .setNanos(value.getNano())
        .build();
  }

  /** The time in nanoseconds; the largest number if it is longer. */
  static long nanos(Duration value) {
    return TimeUnit.NANOSECONDS.convert(value);
  }

  static int positive(int value) {
    return (int) positive((long) value);
  }

  static long positive(long value) {
    if (value <= 0) {
      throw new IllegalArgumentException(value + " is not positive");
    }
    return value;
  }

  static Duration min(Duration a, Duration b) {
    return a.compareTo(b) <= 0 ? a : b;
  }

  /** 128 random bits (U11). */
  static String randomId() {
    var bytes = new byte[16];
    RANDOM.nextBytes(bytes);
    return HexFormat.of().formatHex(bytes);
  }
}
