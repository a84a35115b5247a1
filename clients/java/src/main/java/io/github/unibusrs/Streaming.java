package io.github.unibusrs;

import io.grpc.CallOptions;
import io.grpc.ClientCall;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import java.time.Duration;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.locks.ReentrantLock;
import org.jspecify.annotations.Nullable;

/**
 * What subscriptions and publishers have in common: one stream of the service after the other, and
 * a lock. They are closed before the connection.
 */
abstract class Streaming {
  final Calls calls;
  final Credentials credentials;
  final Backoff backoff = new Backoff();
  final ReentrantLock lock = new ReentrantLock();

  Streaming(Calls calls) {
    this.calls = calls;
    this.credentials = calls.connection().credentials();
  }

  /** Begins to close; the future completes when that is done. */
  abstract CompletableFuture<Void> closeAsync();

  final void locked(Runnable task) {
    lock.lock();
    try {
      task.run();
    } finally {
      lock.unlock();
    }
  }

  /** Runs the task after the pause, with the lock. */
  final void later(Duration pause, Runnable task) {
    calls.connection().later(pause, () -> locked(task));
  }

  static Duration since(long time) {
    return Duration.ofNanos(System.nanoTime() - time);
  }

  /** One stream, which learns what comes with the lock. */
  abstract class Stream<Q, R> extends ClientCall.Listener<R> {
    final ClientCall<Q, R> call;

    Stream(MethodDescriptor<Q, R> method, @Nullable String token) {
      call = calls.connection().call(method, CallOptions.DEFAULT, token, this);
      call.request(16);
    }

    abstract void received(R response);

    abstract void ended(Status status, UnibusException error);

    @Override
    public final void onMessage(R response) {
      locked(() -> received(response));
      call.request(1);
    }

    @Override
    public final void onClose(Status status, Metadata trailers) {
      var error =
          status.isOk()
              ? UnibusException.of(Status.Code.UNAVAILABLE, "the stream ended")
              : UnibusException.of(status, trailers);
      locked(() -> ended(status, error));
    }
  }
}
