package io.github.unibusrs;

import io.grpc.MethodDescriptor;
import java.util.concurrent.CompletableFuture;
import java.util.function.Function;
import org.jspecify.annotations.Nullable;

/** Calls with one response, repeated as U9 and U10 say. */
record Calls(Connection connection, Settings settings) {
  <Q, R, T> CompletableFuture<T> call(
      MethodDescriptor<Q, R> method, Q request, Function<R, T> map) {
    return call(method, request, Retry.Policy.REPEAT, null, map);
  }

  /** A call that succeeds also if an earlier attempt removed the thing already. */
  <Q, R> CompletableFuture<Boolean> remove(MethodDescriptor<Q, R> method, Q request, String gone) {
    return call(method, request, Retry.Policy.until(gone), true, response -> true);
  }

  <Q, R, T> CompletableFuture<T> call(
      MethodDescriptor<Q, R> method,
      Q request,
      Retry.Policy policy,
      @Nullable T whenDone,
      Function<R, T> map) {
    var retry =
        new Retry<T>(
            connection,
            settings,
            settings.total(),
            policy,
            whenDone,
            (token, limit) -> {
              var attempt = connection.attempt(method, request, token, limit);
              var mapped = attempt.thenApply(map);
              Futures.link(mapped, attempt);
              return mapped;
            });
    return retry.start();
  }
}
