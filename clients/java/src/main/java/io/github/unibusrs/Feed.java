package io.github.unibusrs;

import io.github.unibusrs.UnibusException.Outcome;
import io.github.unibusrs.v1.AcknowledgeRequest;
import io.github.unibusrs.v1.ConsumeCommand;
import io.github.unibusrs.v1.ConsumeOpen;
import io.github.unibusrs.v1.ConsumePing;
import io.github.unibusrs.v1.ConsumeRejected;
import io.github.unibusrs.v1.ConsumeRequest;
import io.github.unibusrs.v1.ConsumeResponse;
import io.github.unibusrs.v1.Opened;
import io.github.unibusrs.v1.RoomServiceGrpc;
import io.grpc.Status;
import java.time.Duration;
import java.util.concurrent.CancellationException;
import java.util.concurrent.CompletableFuture;
import org.jspecify.annotations.Nullable;

/**
 * The engine of a subscription: one {@code Consume} stream after the other, a queue of what came,
 * and the handlers. {@link Progress} decides what is delivered and acknowledged.
 */
final class Feed extends Streaming implements Handlers.Listener {
  private static final Duration OPEN_LIMIT = Duration.ofSeconds(15);

  private final SubscriptionBuilder plan;
  private final Runnable leave;
  private final CompletableFuture<Void> done = new CompletableFuture<>();
  private final CompletableFuture<Void> ended = new CompletableFuture<>();

  private final Progress progress;
  private final Handlers handlers;
  private final Watchdog watchdog = new Watchdog();
  private final Credit credit;
  private @Nullable Stream stream;
  private long generation;

  /** The end waits behind messages: the stream is of no further use, and its silence no fault. */
  private boolean ending;

  private boolean ackTimer;

  /** The service refused an acknowledgement for now. */
  private boolean ackPaused;

  private boolean flushing;
  private boolean finished;
  private @Nullable Throwable failure;
  private long flushBegan;

  /**
   * A subscription that is not started.
   *
   * @param leave called when the subscription closes, before it waits for handlers
   */
  Feed(SubscriptionBuilder plan, Handlers.Mode mode, Runnable leave) {
    super(plan.calls);
    this.plan = plan.copy();
    this.leave = leave;
    this.progress = new Progress(!plan.subscriber.isEmpty(), plan.start);
    this.credit = new Credit(plan.readAheadMessages, plan.readAheadBytes);
    this.handlers = new Handlers(lock, calls.connection()::execute, mode, plan.onEvent, this);
  }

  void start() {
    calls.connection().add(this);
    done.whenComplete(
        (value, e) -> {
          if (done.isCancelled()) {
            closeAsync();
          }
        });
    locked(
        () -> {
          connect();
          tick();
        });
  }

  CompletableFuture<Void> done() {
    return done;
  }

  @Override
  CompletableFuture<Void> closeAsync() {
    locked(this::stop);
    leave.run();
    return ended.copy();
  }

  // Everything below runs with the lock.

  // The stream.

  private void connect() {
    if (handlers.isStopped()) {
      return;
    }
    watch(OPEN_LIMIT);
    credentials
        .next(calls.settings().attempt())
        .whenComplete((token, e) -> locked(() -> connect(token, e)));
  }

  private void connect(@Nullable String token, @Nullable Throwable failed) {
    if (handlers.isStopped() || !watchdog.isWatching() || stream != null) {
      return;
    }
    if (failed != null) {
      broken(Futures.error(failed));
      return;
    }
    stream = new Stream(token);
    var open = ConsumeOpen.newBuilder().setSubscribe(plan.request(progress.start()));
    credit.open(open);
    stream.send(ConsumeRequest.newBuilder().setOpen(open));
  }

  private void watch(Duration limit) {
    if (!ending) {
      watchdog.watch(limit);
    }
  }

  private void tick() {
    if (finished) {
      return;
    }
    switch (watchdog.tick()) {
      case FROZEN -> {
        if (stream != null && stream.open) {
          // Is the stream alive (U17)?
          stream.send(ConsumeRequest.newBuilder().setPing(ConsumePing.getDefaultInstance()));
          watch(Watchdog.PAUSE);
        }
      }
      case SILENT -> broken(UnibusException.of(Status.Code.DEADLINE_EXCEEDED, "no frame in time"));
      default -> {}
    }
    later(Watchdog.TICK, this::tick);
  }

  private void frame(Stream from, ConsumeResponse frame) {
    if (from != stream) {
      return;
    }
    watch(from.heartbeat);
    switch (frame.getFrameCase()) {
      case OPENED -> opened(from, frame.getOpened());
      case MESSAGE -> message(Message.of(frame.getMessage()));
      case CAUGHT_UP -> {
        from.caughtUp = true;
        happened(new Event.CaughtUp(frame.getCaughtUp().getPosition()));
      }
      case GAP -> {
        var gap = progress.missing(Event.Gap.of(frame.getGap()));
        if (gap != null) {
          happened(gap);
        }
      }
      case ACKED -> progress.acked(frame.getAcked().getPosition());
      case CLOSED -> closed(from, frame.getClosed());
      case REJECTED -> rejected(frame.getRejected());
      default -> {}
    }
  }

  private void opened(Stream from, Opened frame) {
    from.heartbeat = Wire.duration(frame.getHeartbeatInterval()).multipliedBy(2);
    watch(from.heartbeat);
    generation = frame.getGeneration();
    for (var event : progress.opened(frame, from.open)) {
      if (event instanceof Event.Moved) {
        // What waits was sent before the move, and comes again if it lies behind the new position.
        dropMessages();
      }
      happened(event);
    }
    from.open = true;
    from.openedAt = System.nanoTime();
    acknowledge();
  }

  private void message(Message message) {
    backoff.reset();
    var ticket = progress.take(message);
    credit.take(message);
    if (ticket == null) {
      giveBack(message);
    } else {
      handlers.add(new Handlers.Arrived(message, ticket));
    }
  }

  private void closed(Stream from, com.google.rpc.Status status) {
    if (status.getCode() != 0) {
      broken(UnibusException.of(status));
    } else if (plan.untilCaughtUp && from.caughtUp) {
      end(null);
    } else if (!flushing) {
      broken(UnibusException.of(Status.Code.UNAVAILABLE, "the service closed the subscription"));
    }
  }

  private void rejected(ConsumeRejected rejected) {
    if (rejected.getCommand() != ConsumeCommand.CONSUME_COMMAND_ACK) {
      return;
    }
    var error = UnibusException.of(rejected.getError());
    if (error.getOutcome() == Outcome.AGAIN) {
      progress.unacked();
      ackPaused = true;
      later(
          backoff.next(error),
          () -> {
            ackPaused = false;
            acknowledge();
          });
    } else if (error.getReason().equals("TAKEN_OVER")
        || error.getCode() == Status.Code.PERMISSION_DENIED) {
      broken(error);
    }
    // Other reasons say that the subscription ends: `closed` says so too, and better.
  }

  private void streamEnded(Stream from, UnibusException error) {
    if (from != stream) {
      return;
    }
    if (flushing) {
      stream = null;
      flushByCall();
    } else if (watchdog.isWatching()) {
      broken(error);
    } else {
      stream = null;
    }
  }

  /** The stream is of no use any more: subscribes again after a pause, or ends (U15). */
  private void broken(UnibusException why) {
    var last = stream;
    stream = null;
    watchdog.rest();
    if (last != null) {
      last.call.cancel("the stream is broken", null);
      if (last.open && since(last.openedAt).toSeconds() >= 10) {
        backoff.reset();
      }
    }
    if (flushing) {
      flushByCall();
      return;
    }
    var error = credentials.judge(why);
    if (progress.isNewLog(error)) {
      progress.recreated();
      happened(new Event.Recreated());
      later(backoff.next(error), this::connect);
    } else if (error.getOutcome() == Outcome.FINAL) {
      if (!plan.subscriber.isEmpty()) {
        dropMessages();
      }
      end(error);
    } else {
      var pause = backoff.next(error);
      happened(new Event.Disconnected(error, pause));
      later(pause, this::connect);
    }
  }

  private void end(@Nullable UnibusException error) {
    ending = true;
    watchdog.rest();
    handlers.add(new Handlers.End(error));
  }

  private void giveBack(Message message) {
    credit.giveBack(message);
    if (credit.isMuch() && stream != null && stream.open && !handlers.isStopped()) {
      var owed = credit.owed().setRoomId(plan.roomId);
      stream.send(ConsumeRequest.newBuilder().setCredit(owed));
    }
  }

  // Acknowledgements (U19, U20).

  private void acknowledgeSoon() {
    if (!progress.owesAck()) {
      return;
    }
    if (progress.unsent() >= plan.ackMessages) {
      acknowledge();
    } else if (!ackTimer) {
      ackTimer = true;
      later(
          plan.ackTime,
          () -> {
            ackTimer = false;
            acknowledge();
          });
    }
  }

  private void acknowledge() {
    var isTime = !ackPaused || flushing;
    if (isTime && progress.owesAck() && stream != null && stream.open && !stream.halfClosed) {
      stream.send(ConsumeRequest.newBuilder().setAck(acknowledgement()));
    }
  }

  private AcknowledgeRequest.Builder acknowledgement() {
    var ack =
        AcknowledgeRequest.newBuilder()
            .setRoomId(plan.roomId)
            .setSubscriber(plan.subscriber)
            .setSequence(progress.ack());
    if (generation != 0) {
      ack.setGeneration(generation);
    }
    return ack;
  }

  // Handlers (U21, U23).

  private void happened(Event event) {
    handlers.add(new Handlers.Happened(event));
  }

  private void dropMessages() {
    handlers.dropMessages(this::giveBack);
  }

  @Override
  public void handled(Handlers.Item item, @Nullable Throwable thrown) {
    if (item instanceof Handlers.Arrived arrived) {
      if (thrown == null) {
        progress.done(arrived.ticket());
        acknowledgeSoon();
      }
      giveBack(arrived.message());
    }
    // A loop that was left cancels its last message: that is no failure.
    var isLeft = handlers.isStopped() && thrown instanceof CancellationException;
    if (thrown != null && !isLeft) {
      failure = failure == null ? thrown : failure;
      stop();
    } else if (handlers.isStopped()) {
      flush();
    }
  }

  @Override
  public void ended(@Nullable UnibusException error) {
    failure = error;
    flush();
  }

  // The end (U27).

  /** No further handler begins; when the running ones have returned, the rest is acknowledged. */
  private void stop() {
    handlers.stop();
    flush();
  }

  private void flush() {
    if (!handlers.isIdle() || flushing) {
      return;
    }
    flushing = true;
    flushBegan = System.nanoTime();
    var open = stream;
    if (open == null || !open.open) {
      flushByCall();
      return;
    }
    acknowledge();
    open.halfClosed = true;
    open.call.halfClose();
    later(plan.closeTimeout, this::finish);
  }

  /** Without a stream, a call of its own acknowledges. */
  private void flushByCall() {
    var left = plan.closeTimeout.minus(since(flushBegan));
    var isTakenOver = failure instanceof UnibusException e && e.getReason().equals("TAKEN_OVER");
    if (progress.isFlushed() || isTakenOver || left.isNegative() || left.isZero()) {
      finish();
      return;
    }
    calls
        .within(left)
        .call(RoomServiceGrpc.getAcknowledgeMethod(), acknowledgement().build(), r -> r)
        .whenComplete((value, e) -> locked(this::finish));
  }

  private void finish() {
    if (finished) {
      return;
    }
    finished = true;
    watchdog.rest();
    if (stream != null) {
      stream.call.cancel("the subscription has ended", null);
      stream = null;
    }
    var reason = failure;
    calls.connection().remove(this);
    calls
        .connection()
        .execute(
            () -> {
              // What follows may close the subscription, which has not ended before.
              Inside.run(
                  handlers,
                  () -> {
                    if (reason == null) {
                      done.complete(null);
                    } else {
                      done.completeExceptionally(reason);
                    }
                  });
              ended.complete(null);
            });
  }

  /** One stream of the service. */
  private final class Stream extends Streaming.Stream<ConsumeRequest, ConsumeResponse> {
    Duration heartbeat = OPEN_LIMIT;
    boolean open;
    boolean caughtUp;
    boolean halfClosed;
    long openedAt;

    Stream(@Nullable String token) {
      super(RoomServiceGrpc.getConsumeMethod(), token);
    }

    void send(ConsumeRequest.Builder request) {
      if (!halfClosed) {
        call.sendMessage(request.build());
      }
    }

    @Override
    void received(ConsumeResponse response) {
      frame(this, response);
    }

    @Override
    void ended(Status status, UnibusException error) {
      streamEnded(this, error);
    }
  }
}
