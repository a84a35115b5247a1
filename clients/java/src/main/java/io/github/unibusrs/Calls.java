package io.github.unibusrs;

import io.grpc.MethodDescriptor;
import java.time.Duration;
import java.util.Objects;
import java.util.concurrent.CompletableFuture;
import java.util.function.Function;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;

/** Calls with one response, repeated as U9 and U10 say. */
record Calls(Connection connection, Settings settings) {
  /** The same calls with a deadline of the program. */
  Calls within(Duration deadline) {
    return new Calls(connection, settings.within(deadline));
  }

  <Q, R, T> CompletableFuture<T> call(
      MethodDescriptor<Q, R> method, Q request, Function<R, T> map) {
    return call(method, request, map, true, error -> null);
  }

  /** A call that is not repeated after an unknown outcome. */
  <Q, R, T> CompletableFuture<T> once(
      MethodDescriptor<Q, R> method, Q request, Function<R, T> map) {
    return call(method, request, map, false, error -> null);
  }

  /** A call that succeeds also if an earlier attempt removed the thing already. */
  <Q, R> CompletableFuture<Boolean> remove(MethodDescriptor<Q, R> method, Q request, String gone) {
    return call(method, request, r -> true, true, e -> e.getReason().equals(gone) ? true : null);
  }

  private <Q, R, T> CompletableFuture<T> call(
      MethodDescriptor<Q, R> method,
      Q request,
      Function<R, T> map,
      boolean repeatsUnknown,
      Function<UnibusException, @Nullable T> success) {
    return new Retry<T>(this) {
      @Override
      CompletableFuture<T> attempt(Duration limit) {
        return connection.attempt(method, request, credentials, limit, result).thenApply(map);
      }

      @Override
      boolean mayRepeat(Duration next, boolean unknown) {
        return repeatsUnknown || !unknown;
      }

      @Override
      @Nullable T success(UnibusException error) {
        return success.apply(error);
      }
    }.start();
  }

  /** All entries of a list that the service gives in pages, one call for each page. */
  <Q, R, T> Iterable<T> pages(
      MethodDescriptor<Q, R> method,
      Function<String, Q> request,
      Function<R, Stream<T>> entries,
      Function<R, String> next) {
    Function<String, R> load = page -> Futures.await(call(method, request.apply(page), r -> r));
    return () ->
        Stream.<@Nullable R>iterate(
                load.apply(""),
                Objects::nonNull,
                page -> next.apply(page).isEmpty() ? null : load.apply(next.apply(page)))
            .flatMap(entries)
            .iterator();
  }
}
