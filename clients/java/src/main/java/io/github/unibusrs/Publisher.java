package io.github.unibusrs;

import io.github.unibusrs.UnibusException.Outcome;
import io.github.unibusrs.v1.PublishAcks;
import io.github.unibusrs.v1.PublishRequest;
import io.github.unibusrs.v1.PublishStreamRequest;
import io.github.unibusrs.v1.PublishStreamResponse;
import io.github.unibusrs.v1.RoomServiceGrpc;
import io.grpc.CallOptions;
import io.grpc.ClientCall;
import io.grpc.Metadata;
import io.grpc.Status;
import java.time.Duration;
import java.util.concurrent.CancellationException;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.locks.Condition;
import java.util.concurrent.locks.ReentrantLock;
import java.util.function.Consumer;
import org.jspecify.annotations.Nullable;

/**
 * Publishes messages to one room over one stream, without waiting for each answer (U13), in the
 * order in which the program gave them (U14). Many threads may use it.
 *
 * <p>When the stream breaks, the publisher opens another one and sends all unanswered messages
 * again, with their ids, before later ones. One message that fails does not end the publisher.
 */
public final class Publisher implements AutoCloseable {
  private static final Duration TICK = Duration.ofMillis(500);

  /**
   * The limits of a publisher.
   *
   * @param messages how many messages may be unanswered
   * @param bytes how many bytes of payloads may be unanswered; one message may exceed it alone
   * @param closeTimeout how long {@link Publisher#close} waits for answers
   */
  public record Options(int messages, long bytes, Duration closeTimeout) {
    /** 1024 messages, 4 MiB, and a minute. */
    public static final Options DEFAULT = new Options(1024, 4 << 20, Duration.ofMinutes(1));

    /** The same limits with this number of messages. */
    public Options withMessages(int value) {
      return new Options(value, bytes, closeTimeout);
    }

    /** The same limits with this number of bytes. */
    public Options withBytes(long value) {
      return new Options(messages, value, closeTimeout);
    }

    /** The same limits with this time. */
    public Options withCloseTimeout(Duration value) {
      return new Options(messages, bytes, value);
    }
  }

  /**
   * IDLE: no stream. BUSY: a stream is being opened, or a pause lasts. DRAINING: answers come,
   * nothing is sent.
   */
  private enum State {
    IDLE,
    BUSY,
    OPEN,
    DRAINING
  }

  private final Calls calls;
  private final String roomId;
  private final Rooms rooms;
  private final Options options;
  private final Consumer<Publisher> whenClosed;
  private final Credentials credentials;
  private final Backoff backoff = new Backoff();

  private final ReentrantLock lock = new ReentrantLock();
  private final Condition space = lock.newCondition();
  private final Unanswered unanswered = new Unanswered();
  private State state = State.IDLE;
  private @Nullable Stream stream;
  private Rooms.@Nullable Known room;
  private boolean closed;

  /**
   * The end of a chain of tasks: futures complete in order, on threads where the program may block.
   */
  private CompletableFuture<Void> answers = CompletableFuture.completedFuture(null);

  Publisher(
      Calls calls, String roomId, Rooms rooms, Options options, Consumer<Publisher> whenClosed) {
    this.calls = calls;
    this.roomId = roomId;
    this.rooms = rooms;
    this.options = options;
    this.whenClosed = whenClosed;
    this.credentials = calls.connection().credentials();
  }

  /** Publishes bytes. See {@link #publish(Outgoing)}. */
  public CompletableFuture<PublishResult> publish(byte[] payload) {
    return publish(Outgoing.of(payload));
  }

  /**
   * Publishes a message. Blocks only while too many messages are unanswered.
   *
   * @return completes when the message is stored, or fails with a {@link UnibusException}; the
   *     futures of a publisher complete in order
   * @throws IllegalStateException if the publisher is closed
   */
  public CompletableFuture<PublishResult> publish(Outgoing message) {
    lock.lock();
    try {
      while (!closed && unanswered.isFull(options, message.payload().size())) {
        space.await();
      }
      if (closed) {
        throw new IllegalStateException("the publisher is closed");
      }
      if (unanswered.isEmpty()) {
        calls.connection().later(TICK, this::tick);
      }
      var entry = unanswered.add(message);
      pump();
      return entry.future;
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
      throw new CancellationException("interrupted");
    } finally {
      lock.unlock();
    }
  }

  /** Waits until every message that was given so far is answered, with success or not (U14). */
  public void flush() {
    Futures.await(flushAsync());
  }

  /** Completes when every message that was given so far is answered, with success or not (U14). */
  public CompletableFuture<Void> flushAsync() {
    lock.lock();
    try {
      var all = unanswered.futures().toArray(CompletableFuture<?>[]::new);
      return CompletableFuture.allOf(all).handle((value, e) -> null);
    } finally {
      lock.unlock();
    }
  }

  /**
   * Waits until every message is answered, at most for the time in the options, and ends the
   * stream. Messages that are then unanswered fail with an unknown outcome (U14).
   */
  @Override
  public void close() {
    lock.lock();
    try {
      closed = true;
      space.signalAll();
    } finally {
      lock.unlock();
    }
    try {
      flushAsync()
          .completeOnTimeout(null, options.closeTimeout.toNanos(), TimeUnit.NANOSECONDS)
          .get();
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
    } catch (java.util.concurrent.ExecutionException never) {
      throw new IllegalStateException(never);
    }
    end();
    whenClosed.accept(this);
  }

  private void end() {
    lock.lock();
    try {
      var late = UnibusException.of(Status.Code.DEADLINE_EXCEEDED, "the publisher was closed");
      if (stream != null && state == State.OPEN && unanswered.isEmpty()) {
        stream.call.halfClose();
      } else if (stream != null) {
        stream.call.cancel(late.getMessage(), null);
      }
      stream = null;
      for (var entry : unanswered.all()) {
        entry.unknown = true;
        fail(entry, late);
      }
    } finally {
      lock.unlock();
    }
  }

  // Everything below runs with the lock.

  /** Sends what may be sent, or opens a stream for it. */
  private void pump() {
    if (state == State.IDLE && !unanswered.isEmpty()) {
      state = State.BUSY;
      begin();
    }
    var open = stream;
    if (state != State.OPEN || open == null || room == null) {
      return;
    }
    while (open.call.isReady()) {
      var entry = unanswered.nextToSend();
      if (entry == null) {
        return;
      }
      if (entry.future.isDone()) {
        // The program cancelled it before it was sent.
        unanswered.remove(entry);
        space.signalAll();
        continue;
      }
      open.send(entry, room);
    }
  }

  /** An attempt: asks for the room and the token, and opens a stream. */
  private void begin() {
    expire();
    var limit = calls.settings().attempt();
    rooms
        .get(roomId)
        .thenCompose(
            known -> {
              locked(() -> room = known);
              return credentials.next(limit);
            })
        .whenComplete((token, e) -> locked(() -> begun(token, e)));
  }

  private void begun(@Nullable String token, @Nullable Throwable failure) {
    if (failure != null) {
      // Nothing was sent, so no message has an unknown outcome by this.
      broken(Futures.error(failure).forMessage("", false));
    } else if (unanswered.isEmpty()) {
      state = State.IDLE;
    } else {
      stream = new Stream(token);
      state = State.OPEN;
      pump();
    }
  }

  private void answered(Stream from, PublishStreamResponse response) {
    if (from != stream) {
      return;
    }
    from.lastAnswer = System.nanoTime();
    var entry = unanswered.firstSent();
    if (entry == null || entry.number != response.getCorrelationId()) {
      from.call.cancel("an answer to no message", null);
      closed(from, UnibusException.of(Status.Code.INTERNAL, "an answer to no message"));
    } else if (response.hasResult()) {
      backoff.reset();
      var result = PublishResult.of(response.getResult(), entry.id());
      unanswered.remove(entry);
      complete(() -> entry.future.complete(result));
    } else {
      refused(from, entry, UnibusException.of(response.getError()));
    }
  }

  private void refused(Stream from, Entry entry, UnibusException refusal) {
    var error = credentials.judge(refusal);
    entry.unknown |= error.isOutcomeUnknown();
    entry.lastError = error;
    var isOther = rooms.forget(roomId, error) && entry.message.messageId().isEmpty();
    if (isOther && !entry.renewed) {
      entry.renewed = true;
      entry.request = null;
    } else if (error.getOutcome() == Outcome.FINAL || mustNotRepeat(entry)) {
      fail(entry, error);
      return;
    }
    // To keep the order, nothing is sent until the answers to all messages on the way are there.
    unanswered.repeat(entry);
    if (state == State.OPEN) {
      state = State.DRAINING;
      from.why = isOther ? UnibusException.notSent("the room has changed", error) : error;
      from.call.halfClose();
    }
  }

  /** In an ephemeral room a repeated message might come twice (U12). */
  private boolean mustNotRepeat(Entry entry) {
    return entry.unknown && entry.id().isEmpty();
  }

  private void closed(Stream from, UnibusException why) {
    if (from != stream) {
      return;
    }
    stream = null;
    var error = credentials.judge(why);
    for (var entry : unanswered.sent()) {
      entry.unknown |= error.isOutcomeUnknown();
      entry.lastError = error;
      if (mustNotRepeat(entry)) {
        fail(entry, error);
      }
    }
    unanswered.repeatAll();
    broken(error);
  }

  /** There is no stream. Fails all messages, or tries again after a pause. */
  private void broken(UnibusException error) {
    state = State.IDLE;
    for (var entry : unanswered.all()) {
      entry.lastError = error;
      if (error.getOutcome() == Outcome.FINAL) {
        fail(entry, error);
      }
    }
    if (!unanswered.isEmpty()) {
      state = State.BUSY;
      calls.connection().later(backoff.next(error), () -> locked(this::begin));
    }
  }

  /** Fails the messages that wait, and for which no attempt may begin any more (U11). */
  private void expire() {
    var settings = calls.settings();
    var window = room == null || !room.persist() ? null : room.dedupeWindow();
    var limit = window == null ? settings.total() : window.minus(settings.attempt());
    var shorter = settings.publish();
    var longest = shorter == null ? limit : Wire.min(limit, shorter);
    for (var entry : unanswered.waiting()) {
      if (entry.age().compareTo(longest) > 0) {
        var late = UnibusException.of(Status.Code.DEADLINE_EXCEEDED, "not published in time");
        fail(entry, entry.lastError == null ? late : entry.lastError);
      }
    }
  }

  /** Breaks a stream on which no answer comes in the time of an attempt (U9). */
  private void tick() {
    locked(
        () -> {
          var open = stream;
          var since = open == null ? null : unanswered.oldest(open.lastAnswer);
          var limit = calls.settings().attempt();
          if (open != null
              && since != null
              && Duration.ofNanos(System.nanoTime() - since).compareTo(limit) > 0) {
            open.call.cancel("no answer in time", null);
            closed(open, UnibusException.of(Status.Code.DEADLINE_EXCEEDED, "no answer in time"));
          }
          if (state == State.BUSY) {
            expire();
          }
          if (!unanswered.isEmpty()) {
            calls.connection().later(TICK, this::tick);
          }
        });
  }

  private void fail(Entry entry, UnibusException error) {
    unanswered.remove(entry);
    var failure = error.forMessage(entry.id(), entry.unknown);
    complete(() -> entry.future.completeExceptionally(failure));
  }

  private void complete(Runnable task) {
    space.signalAll();
    answers =
        answers.handleAsync(
            (value, e) -> {
              task.run();
              return null;
            },
            calls.connection().handlers());
  }

  private void locked(Runnable task) {
    lock.lock();
    try {
      task.run();
    } finally {
      lock.unlock();
    }
  }

  /** One message on its way. */
  static final class Entry {
    final long number;
    final Outgoing message;
    final CompletableFuture<PublishResult> future = new CompletableFuture<>();
    final long began = System.nanoTime();
    long sentAt;
    boolean unknown;
    boolean renewed;
    @Nullable PublishRequest request;
    @Nullable UnibusException lastError;

    Entry(long number, Outgoing message) {
      this.number = number;
      this.message = message;
    }

    String id() {
      return request == null ? message.messageId() : request.getMessageId();
    }

    Duration age() {
      return Duration.ofNanos(System.nanoTime() - began);
    }
  }

  /** One stream of the service. */
  private final class Stream extends ClientCall.Listener<PublishStreamResponse> {
    final ClientCall<PublishStreamRequest, PublishStreamResponse> call;
    long lastAnswer = System.nanoTime();
    @Nullable UnibusException why;

    Stream(@Nullable String token) {
      var method = RoomServiceGrpc.getPublishStreamMethod();
      call = calls.connection().call(method, CallOptions.DEFAULT, token, this);
      call.request(16);
    }

    void send(Entry entry, Rooms.Known known) {
      var request = entry.request;
      if (request == null) {
        request = entry.message.request(roomId, known.persist());
        entry.request = request;
      }
      entry.sentAt = System.nanoTime();
      unanswered.sent(entry);
      call.sendMessage(
          PublishStreamRequest.newBuilder()
              .setCorrelationId(entry.number)
              .setPublish(request)
              .setAcks(PublishAcks.PUBLISH_ACKS_EACH)
              .build());
    }

    @Override
    public void onReady() {
      locked(Publisher.this::pump);
    }

    @Override
    public void onMessage(PublishStreamResponse response) {
      locked(() -> answered(this, response));
      call.request(1);
    }

    @Override
    public void onClose(Status status, Metadata trailers) {
      var end = status.isOk() ? Status.UNAVAILABLE.withDescription("the stream ended") : status;
      var error = status.isOk() && why != null ? why : UnibusException.of(end, trailers);
      locked(() -> closed(this, error));
    }
  }
}
