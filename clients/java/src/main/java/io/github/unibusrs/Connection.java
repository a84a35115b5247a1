package io.github.unibusrs;

import io.grpc.CallOptions;
import io.grpc.ClientCall;
import io.grpc.ConnectivityState;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import java.time.Duration;
import java.util.Set;
import java.util.concurrent.CancellationException;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.Executor;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.RejectedExecutionException;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;
import org.jspecify.annotations.Nullable;

/**
 * The channel of a client, its threads and its timer.
 *
 * <p>Code of the program (handlers, callbacks, suppliers of tokens) runs on {@code handlers}, never
 * on the threads of the network. All threads of the client are daemons.
 */
final class Connection {
  private static final Metadata.Key<String> AUTHORIZATION =
      Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER);

  private final ManagedChannel channel;
  private final Credentials.Source tokens;
  private final ExecutorService threads;
  private final Executor handlers;
  private final ScheduledExecutorService timer;
  private final Set<CompletableFuture<?>> open = ConcurrentHashMap.newKeySet();
  private volatile boolean closed;

  Connection(
      ManagedChannel channel,
      Credentials.Source tokens,
      ExecutorService threads,
      Executor handlers,
      ScheduledExecutorService timer) {
    this.channel = channel;
    this.tokens = tokens;
    this.threads = threads;
    this.handlers = handlers;
    this.timer = timer;
  }

  Executor handlers() {
    return handlers;
  }

  Credentials credentials() {
    return new Credentials(tokens);
  }

  /** Runs the task after the pause on a thread of the client, unless the client was closed. */
  void later(Duration pause, Runnable task) {
    try {
      timer.schedule(() -> threads.execute(task), pause.toNanos(), TimeUnit.NANOSECONDS);
    } catch (RejectedExecutionException e) {
      // The client was closed.
    }
  }

  /**
   * Begins a call. If the last attempt to connect failed, the channel connects anew at once: the
   * library itself would wait for up to two minutes (U4).
   */
  <Q, R> ClientCall<Q, R> call(
      MethodDescriptor<Q, R> method,
      CallOptions options,
      @Nullable String token,
      ClientCall.Listener<R> listener) {
    if (channel.getState(false) == ConnectivityState.TRANSIENT_FAILURE) {
      channel.enterIdle();
    }
    var headers = new Metadata();
    if (token != null) {
      headers.put(AUTHORIZATION, "Bearer " + token);
    }
    ClientCall<Q, R> call = channel.newCall(method, options);
    call.start(listener, headers);
    return call;
  }

  /** One attempt of a call with one response. */
  <Q, R> CompletableFuture<R> attempt(
      MethodDescriptor<Q, R> method, Q request, @Nullable String token, Duration limit) {
    var result = new CompletableFuture<R>();
    var options = CallOptions.DEFAULT.withDeadlineAfter(limit.toNanos(), TimeUnit.NANOSECONDS);
    var call =
        call(
            method,
            options,
            token,
            new ClientCall.Listener<R>() {
              private @Nullable R response;

              @Override
              public void onMessage(R message) {
                response = message;
              }

              @Override
              public void onClose(Status status, Metadata trailers) {
                if (status.isOk() && response != null) {
                  result.complete(response);
                } else {
                  var failure =
                      status.isOk() ? Status.INTERNAL.withDescription("no response") : status;
                  result.completeExceptionally(UnibusException.of(failure, trailers));
                }
              }
            });
    result.whenComplete(
        (value, e) -> {
          if (result.isCancelled()) {
            call.cancel("cancelled by the program", null);
          }
        });
    call.request(2);
    call.sendMessage(request);
    call.halfClose();
    return result;
  }

  /** Remembers a call, to cancel it when the client is closed. False: the client was closed. */
  boolean track(CompletableFuture<?> call) {
    open.add(call);
    call.whenComplete((value, e) -> open.remove(call));
    if (closed) {
      call.completeExceptionally(new CancellationException("the client is closed"));
    }
    return !closed;
  }

  void requireOpen() {
    if (closed) {
      throw new IllegalStateException("the client is closed");
    }
  }

  void close() {
    closed = true;
    for (var call : open) {
      call.completeExceptionally(new CancellationException("the client was closed"));
    }
    channel.shutdownNow();
    timer.shutdownNow();
    threads.shutdown();
  }
}
