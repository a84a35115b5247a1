package io.github.unibusrs;

import io.grpc.CallOptions;
import io.grpc.ClientCall;
import io.grpc.ConnectivityState;
import io.grpc.Deadline;
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
  private final Rooms rooms = new Rooms(this);
  private final Set<CompletableFuture<?>> calls = ConcurrentHashMap.newKeySet();
  private final Set<Streaming> parts = ConcurrentHashMap.newKeySet();
  private volatile boolean closing;
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

  /** Runs code of the program; on threads of the client if the executor of the program refuses. */
  void execute(Runnable task) {
    try {
      handlers.execute(task);
    } catch (RejectedExecutionException e) {
      threads.execute(task);
    }
  }

  /** Threads that nothing of the program keeps from running. */
  Executor threads() {
    return threads;
  }

  Credentials credentials() {
    return new Credentials(tokens, threads);
  }

  Rooms rooms() {
    return rooms;
  }

  /** Runs the task after the pause on a thread of the client, unless the client was closed. */
  void later(Duration pause, Runnable task) {
    try {
      var nanos = Wire.nanos(pause);
      timer.schedule(() -> threads.execute(task), nanos, TimeUnit.NANOSECONDS);
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

  /**
   * One attempt of a call with one response: asks for the token and calls, both within the limit.
   * The call is cancelled when the owner is done.
   */
  <Q, R> CompletableFuture<R> attempt(
      MethodDescriptor<Q, R> method,
      Q request,
      Credentials credentials,
      Duration limit,
      CompletableFuture<?> owner) {
    var result = new CompletableFuture<R>();
    var deadline = Deadline.after(Wire.nanos(limit), TimeUnit.NANOSECONDS);
    credentials
        .next(limit)
        .thenAccept(
            token -> {
              if (owner.isDone()) {
                return;
              }
              var options = CallOptions.DEFAULT.withDeadline(deadline);
              var call = call(method, options, token, new Response<>(result));
              owner.whenComplete((value, e) -> call.cancel("nobody waits for the call", null));
              call.request(2);
              call.sendMessage(request);
              call.halfClose();
            })
        .exceptionally(
            e -> {
              result.completeExceptionally(Futures.cause(e));
              return null;
            });
    return result;
  }

  /** Takes the one response of a call. */
  private static final class Response<R> extends ClientCall.Listener<R> {
    private final CompletableFuture<R> result;
    private @Nullable R response;

    Response(CompletableFuture<R> result) {
      this.result = result;
    }

    @Override
    public void onMessage(R message) {
      response = message;
    }

    @Override
    public void onClose(Status status, Metadata trailers) {
      if (status.isOk() && response != null) {
        result.complete(response);
      } else {
        var failure = status.isOk() ? Status.INTERNAL.withDescription("no response") : status;
        result.completeExceptionally(UnibusException.of(failure, trailers));
      }
    }
  }

  /** Remembers a call, to cancel it when the client is closed. False: the client was closed. */
  boolean track(CompletableFuture<?> call) {
    calls.add(call);
    call.whenComplete((value, e) -> calls.remove(call));
    if (closed) {
      call.completeExceptionally(new CancellationException("the client is closed"));
    }
    return !closed;
  }

  /** Remembers a subscription or a publisher, to close it before the client. */
  void add(Streaming part) {
    parts.add(part);
    if (closing) {
      parts.remove(part);
      throw new IllegalStateException("the client is closed");
    }
  }

  void remove(Streaming part) {
    parts.remove(part);
  }

  /**
   * Closes the subscriptions, whose handlers may publish, then the publishers (U27), cancels all
   * other calls (U3), and ends the channel.
   */
  CompletableFuture<Void> closeAsync() {
    closing = true;
    return closeAll(Feed.class)
        .thenCompose(subscriptions -> closeAll(Publisher.class))
        .thenRun(this::end);
  }

  private CompletableFuture<Void> closeAll(Class<? extends Streaming> kind) {
    var all = parts.stream().filter(kind::isInstance).map(Streaming::closeAsync);
    return CompletableFuture.allOf(all.toArray(CompletableFuture<?>[]::new));
  }

  private void end() {
    closed = true;
    for (var call : calls) {
      call.completeExceptionally(new CancellationException("the client was closed"));
    }
    channel.shutdownNow();
    timer.shutdownNow();
    // The channel, callbacks and a second close may still need threads: they end when they idle.
  }
}
