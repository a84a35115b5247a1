package io.github.unibusrs;

import java.util.Iterator;
import java.util.List;
import java.util.NoSuchElementException;
import java.util.function.Function;
import org.jspecify.annotations.Nullable;

/** Iterates over all entries of a list that the service gives in pages, one call for each page. */
final class Pages<T> implements Iterator<T> {
  /** Some entries, and the token of the next page; empty on the last page. */
  record Page<T>(List<T> entries, String next) {}

  private final Function<String, Page<T>> load;
  private Iterator<T> entries = List.<T>of().iterator();
  private @Nullable String next = "";

  Pages(Function<String, Page<T>> load) {
    this.load = load;
  }

  @Override
  public boolean hasNext() {
    while (!entries.hasNext() && next != null) {
      var page = load.apply(next);
      entries = page.entries.iterator();
      next = page.next.isEmpty() ? null : page.next;
    }
    return entries.hasNext();
  }

  @Override
  public T next() {
    if (!hasNext()) {
      throw new NoSuchElementException();
    }
    return entries.next();
  }
}
