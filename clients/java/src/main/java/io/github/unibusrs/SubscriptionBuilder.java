package io.github.unibusrs;

import io.github.unibusrs.v1.SubscribeRequest;
import java.time.Duration;
import java.util.Objects;
import java.util.function.Consumer;
import org.jspecify.annotations.Nullable;

/** Configures a subscription. The last call, {@code start} or {@code iterate}, subscribes. */
public final class SubscriptionBuilder implements Cloneable {
  final Calls calls;
  final String roomId;
  String subscriber = "";
  @Nullable Start start;
  boolean untilCaughtUp;
  int concurrency = 1;
  int readAheadMessages = 256;
  long readAheadBytes = 4 << 20;
  int ackMessages = 100;
  Duration ackTime = Duration.ofMillis(200);
  Duration closeTimeout = Duration.ofSeconds(5);
  Consumer<Event> onEvent = event -> {};

  SubscriptionBuilder(Calls calls, String roomId) {
    this.calls = calls;
    this.roomId = roomId;
  }

  /** A copy, which later changes do not affect. */
  SubscriptionBuilder copy() {
    try {
      return (SubscriptionBuilder) clone();
    } catch (CloneNotSupportedException never) {
      throw new AssertionError(never);
    }
  }

  SubscribeRequest request(Start at) {
    return SubscribeRequest.newBuilder()
        .setRoomId(roomId)
        .setSubscriber(subscriber)
        .setStart(at.toWire())
        .setUntilCaughtUp(untilCaughtUp)
        .build();
  }

  /**
   * The name of a durable subscriber, whose position the service keeps. Without it: none is kept.
   */
  public SubscriptionBuilder durable(String name) {
    subscriber = Objects.requireNonNull(name);
    return this;
  }

  /** Where to begin. Default: all messages, in an ephemeral room only new ones. */
  public SubscriptionBuilder from(Start value) {
    start = value;
    return this;
  }

  /** Ends the subscription after the messages that are stored when it opens. */
  public SubscriptionBuilder untilCaughtUp() {
    untilCaughtUp = true;
    return this;
  }

  /** How many handlers may run at once; they are begun in order (U23). Default: 1. */
  public SubscriptionBuilder concurrency(int handlers) {
    concurrency = Wire.positive(handlers);
    return this;
  }

  /** How far the client reads ahead of the handlers (U24). Default: 256 messages, 4 MiB. */
  public SubscriptionBuilder readAhead(int messages, long bytes) {
    readAheadMessages = Wire.positive(messages);
    readAheadBytes = Wire.positive(bytes);
    return this;
  }

  /** When acknowledgements are sent (U20). Default: for 100 messages, or after 200 ms. */
  public SubscriptionBuilder acknowledge(int messages, Duration time) {
    ackMessages = messages;
    ackTime = time;
    return this;
  }

  /** How long the end waits for the last acknowledgement (U20). Default: 5 s. */
  public SubscriptionBuilder closeTimeout(Duration time) {
    closeTimeout = time;
    return this;
  }

  /**
   * Observes what happens, in order with the messages (U25). The callback may block. If it throws,
   * the subscription ends with what it threw, as for a handler.
   */
  public SubscriptionBuilder onEvent(Consumer<Event> callback) {
    onEvent = callback;
    return this;
  }

  /** Subscribes. The handler runs on threads of the client and may block. */
  public Subscription start(MessageHandler handler) {
    return start(Handlers.Mode.blocking(handler, concurrency));
  }

  /** Subscribes. The handler must not block: a message is processed when its stage completes. */
  public Subscription startAsync(AsyncMessageHandler handler) {
    return start(new Handlers.Mode(handler, concurrency, false));
  }

  private Subscription start(Handlers.Mode mode) {
    var feed = new Feed(this, mode, () -> {});
    feed.start();
    return new Subscription(feed);
  }

  /** Subscribes, to take the messages in a loop. */
  public Messages iterate() {
    return new Messages(this);
  }
}
