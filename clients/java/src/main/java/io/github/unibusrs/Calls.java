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
    return new Retry<T>(this) {
      @Override
      CompletableFuture<T> attempt(Duration limit) {
        return connection.attempt(method, request, credentials, limit, result).thenApply(map);
      }
    }.start();
  }

  /** A call that is not repeated after an unknown outcome. */
  <Q, R, T> CompletableFuture<T> once(
      MethodDescriptor<Q, R> method, Q request, Function<R, T> map) {
    return new Retry<T>(this) {
      @Override
      CompletableFuture<T> attempt(Duration limit) {
        return connection.attempt(method, request, credentials, limit, result).thenApply(map);
      }

      @Override
      boolean mayRepeat(Duration next, boolean unknown) {
        return !unknown;
      }
    }.start();
  }

  /** A call that succeeds also if an earlier attempt removed the thing already. */
  <Q, R> CompletableFuture<Boolean> remove(MethodDescriptor<Q, R> method, Q request, String gone) {
    return new Retry<Boolean>(this) {
      @Override
      CompletableFuture<Boolean> attempt(Duration limit) {
        return connection.attempt(method, request, credentials, limit, result).thenApply(r -> true);
      }

      @Override
      @Nullable Boolean success(UnibusException error) {
        return error.getReason().equals(gone) ? true : null;
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
