package io.github.unibusrs;

import io.github.unibusrs.UnibusException.Outcome;
import io.github.unibusrs.v1.PublishAcks;
import io.github.unibusrs.v1.PublishRequest;
import io.github.unibusrs.v1.PublishStreamRequest;
import io.github.unibusrs.v1.PublishStreamResponse;
import io.github.unibusrs.v1.RoomServiceGrpc;
import io.grpc.Status;
import io.grpc.SynchronizationContext;
import java.time.Duration;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Semaphore;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.locks.Condition;
import org.jspecify.annotations.Nullable;

/**
 * Publishes messages to one room over one stream, without waiting for each answer (U13), in the
 * order in which the program gave them (U14). Many threads may use it.
 *
 * <p>When the stream breaks, the publisher opens another one and sends all unanswered messages
 * again, with their ids, before later ones. One message that fails does not end the publisher.
 */
public final class Publisher extends Streaming implements AutoCloseable {
  private static final Duration TICK = Duration.ofMillis(500);

  /** A larger message ends the stream for all, with what the publisher adds to it. */
  private static final int MAX_BYTES = (64 << 20) - (4 << 10);

  /**
   * The limits of a publisher.
   *
   * @param messages how many messages may be unanswered
   * @param bytes how many bytes of payloads may be unanswered; one message may exceed it alone
   * @param closeTimeout how long {@link Publisher#close} waits for answers
   */
  public record Options(int messages, long bytes, Duration closeTimeout) {
    /** Checks the numbers. */
    public Options {
      Wire.positive(messages);
      Wire.positive(bytes);
    }

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

  private final String roomId;
  private final Options options;
  private final Condition space = lock.newCondition();

  /** Of the thread that waits for space. Is fair, so that no message overtakes another. */
  private final Semaphore turn = new Semaphore(1, true);

  private final Unanswered unanswered = new Unanswered();
  private State state = State.IDLE;
  private @Nullable Stream stream;
  private Rooms.@Nullable Known room;
  private boolean closed;

  private boolean ticking;

  /** Completes futures in order, on threads where the program may block. */
  private final SynchronizationContext answers =
      new SynchronizationContext(
          (thread, e) -> thread.getUncaughtExceptionHandler().uncaughtException(thread, e));

  Publisher(Calls calls, String roomId, Options options) {
    super(calls);
    this.roomId = roomId;
    this.options = options;
  }

  /** Publishes bytes. See {@link #publish(Outgoing)}. */
  public CompletableFuture<PublishResult> publish(byte[] payload) {
    return publish(Outgoing.of(payload));
  }

  /**
   * Publishes a message. Blocks only while too many messages are unanswered; those that wait for
   * that are taken in their order.
   *
   * @return completes when the message is stored, or fails with a {@link UnibusException}; the
   *     futures of a publisher complete in order
   * @throws IllegalStateException if the publisher is closed
   */
  public CompletableFuture<PublishResult> publish(Outgoing message) {
    if (message.encodedSize() > MAX_BYTES) {
      var large = Status.INVALID_ARGUMENT.withDescription("the message is larger than 64 MiB");
      return CompletableFuture.failedFuture(UnibusException.of(large, null));
    }
    try {
      turn.acquire();
      try {
        return publishNext(message);
      } finally {
        turn.release();
      }
    } catch (InterruptedException e) {
      throw Futures.interrupted();
    }
  }

  private CompletableFuture<PublishResult> publishNext(Outgoing message)
      throws InterruptedException {
    lock.lock();
    try {
      while (!closed && unanswered.isFull(options, message.size())) {
        space.await();
      }
      if (closed) {
        throw new IllegalStateException("the publisher is closed");
      }
      var entry = unanswered.add(message);
      if (!ticking) {
        ticking = true;
        later(TICK, this::tick);
      }
      pump();
      return entry.future;
    } finally {
      lock.unlock();
    }
  }

  /**
   * Waits until every message that was given so far is answered, with success or not (U14).
   *
   * @throws IllegalStateException in code that follows a future of this publisher: the futures
   *     complete in order, so it would wait for itself
   */
  public void flush() {
    if (Inside.of(this)) {
      throw new IllegalStateException("a callback of the publisher cannot wait for it");
    }
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
   * stream. Messages that are then unanswered fail with an unknown outcome (U14). Code that follows
   * a future of this publisher may call it, and does not wait.
   */
  @Override
  public void close() {
    var ended = closeAsync();
    if (Inside.of(this)) {
      return;
    }
    try {
      ended.get();
    } catch (InterruptedException e) {
      end();
      Thread.currentThread().interrupt();
    } catch (ExecutionException never) {
      throw new IllegalStateException(never);
    }
  }

  /** Begins to close; the future completes when the publisher has ended. */
  @Override
  public CompletableFuture<Void> closeAsync() {
    locked(
        () -> {
          closed = true;
          space.signalAll();
        });
    return flushAsync()
        .completeOnTimeout(null, Wire.nanos(options.closeTimeout), TimeUnit.NANOSECONDS)
        .thenRunAsync(this::end, calls.connection()::execute);
  }

  private void end() {
    locked(
        () -> {
          var late = UnibusException.of(Status.Code.DEADLINE_EXCEEDED, "the publisher was closed");
          if (stream != null && state == State.OPEN && unanswered.isEmpty()) {
            stream.call.halfClose();
          } else if (stream != null) {
            stream.call.cancel(late.getMessage(), null);
          }
          stream = null;
          for (var entry : unanswered.all(entry -> true)) {
            entry.unknown = true;
            fail(entry, late);
          }
        });
    answers.drain();
    calls.connection().remove(this);
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
      } else if (isLate(entry, Duration.ZERO)) {
        expire(entry);
      } else {
        open.send(entry, room);
      }
    }
  }

  /** An attempt: asks for the room and the token, and opens a stream. */
  private void begin() {
    calls
        .connection()
        .rooms()
        .use(
            roomId,
            credentials,
            calls.settings().attempt(),
            (known, left) -> {
              locked(() -> room = known);
              return credentials.next(left);
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
    var isOther = calls.connection().rooms().forget(roomId, error);
    if (Rooms.saysNoIds(error) && entry.message.messageId().isEmpty() && !entry.renewed) {
      entry.renewed = true;
      entry.request = null;
      unanswered.repeat(entry);
    } else if (error.getOutcome() == Outcome.FINAL || mustNotRepeat(entry)) {
      fail(entry, error);
    } else {
      unanswered.repeat(entry);
    }
    // To keep the order, and to ask for the room, nothing is sent until all answers are there.
    if (state == State.OPEN && (isOther || !entry.isSent)) {
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
    for (var entry : unanswered.all(entry -> entry.isSent)) {
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
    for (var entry : unanswered.all(entry -> true)) {
      entry.lastError = error;
      if (error.getOutcome() == Outcome.FINAL) {
        fail(entry, error);
      }
    }
    var pause = backoff.next(error);
    expireLate(pause);
    if (!unanswered.isEmpty()) {
      state = State.BUSY;
      later(pause, this::begin);
    }
  }

  /** Whether no attempt to publish the message may begin after the pause (U9, U11). */
  private boolean isLate(Entry entry, Duration pause) {
    var settings = calls.settings();
    var limit = settings.total();
    if (room != null && room.persist()) {
      var window = room.dedupeWindow().minus(settings.attempt());
      var isNew = entry.firstSentAt == null;
      limit = isNew && window.compareTo(settings.attempt()) < 0 ? settings.attempt() : window;
    }
    var own = settings.publish();
    var since = since(entry.firstSentAt == null ? entry.began : entry.firstSentAt);
    return since.plus(pause).compareTo(limit) > 0
        || (own != null && since(entry.began).plus(pause).compareTo(own) > 0);
  }

  private void expireLate(Duration pause) {
    unanswered.all(entry -> !entry.isSent && isLate(entry, pause)).forEach(this::expire);
  }

  private void expire(Entry entry) {
    var late = UnibusException.of(Status.Code.DEADLINE_EXCEEDED, "not published in time");
    fail(entry, entry.lastError == null ? late : entry.lastError);
  }

  /** Breaks a stream on which no answer comes in the time of an attempt, or of all (U9). */
  private void tick() {
    var open = stream;
    var oldest = open == null ? null : unanswered.oldest(open.lastAnswer);
    var own = calls.settings().publish();
    var attempt = calls.settings().attempt();
    var limit = own == null ? attempt : Wire.min(own, attempt);
    if (open != null && oldest != null && since(oldest).compareTo(limit) > 0) {
      open.call.cancel("no answer in time", null);
      closed(open, UnibusException.of(Status.Code.DEADLINE_EXCEEDED, "no answer in time"));
    }
    expireLate(Duration.ZERO);
    ticking = !unanswered.isEmpty();
    if (ticking) {
      later(TICK, this::tick);
    }
  }

  private void fail(Entry entry, UnibusException error) {
    unanswered.remove(entry);
    var failure = error.forMessage(entry.id(), entry.unknown);
    complete(() -> entry.future.completeExceptionally(failure));
  }

  private void complete(Runnable task) {
    space.signalAll();
    answers.executeLater(() -> Inside.run(this, task));
    calls.connection().execute(answers::drain);
  }

  /** One message on its way. */
  static final class Entry {
    final long number;
    final Outgoing message;
    final CompletableFuture<PublishResult> future = new CompletableFuture<>();
    final long began = System.nanoTime();
    @Nullable Long firstSentAt;
    long sentAt;
    boolean isSent;
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
  }

  /** One stream of the service. */
  private final class Stream extends Streaming.Stream<PublishStreamRequest, PublishStreamResponse> {
    long lastAnswer = System.nanoTime();
    @Nullable UnibusException why;

    Stream(@Nullable String token) {
      super(RoomServiceGrpc.getPublishStreamMethod(), token);
    }

    void send(Entry entry, Rooms.Known known) {
      var request = entry.request;
      if (request == null) {
        request = entry.message.request(roomId, known.persist());
        entry.request = request;
      }
      entry.sentAt = System.nanoTime();
      entry.firstSentAt = entry.firstSentAt == null ? entry.sentAt : entry.firstSentAt;
      entry.isSent = true;
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
    void received(PublishStreamResponse response) {
      answered(this, response);
    }

    @Override
    void ended(Status status, UnibusException error) {
      closed(this, status.isOk() && why != null ? why : error);
    }
  }
}
