package io.github.unibusrs;

import org.jspecify.annotations.Nullable;

/**
 * Which part of the client, a subscription or a publisher, runs code of the program on this thread.
 * That part must not wait for itself.
 */
final class Inside {
  private static final ThreadLocal<@Nullable Object> PART = new ThreadLocal<>();

  private Inside() {}

  static boolean any() {
    return PART.get() != null;
  }

  static boolean of(Object part) {
    return PART.get() == part;
  }

  static void run(Object part, Runnable code) {
    var before = PART.get();
    PART.set(part);
    try {
      code.run();
    } finally {
      PART.set(before);
    }
  }
}
