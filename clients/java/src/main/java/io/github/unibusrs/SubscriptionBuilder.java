package io.github.unibusrs;

import java.time.Duration;
import java.util.function.Consumer;
import org.jspecify.annotations.Nullable;

/** Configures a subscription. The last call, {@code start} or {@code iterate}, subscribes. */
public final class SubscriptionBuilder {
  private final UnibusClient client;
  private final Calls calls;
  private final String roomId;
  private String subscriber = "";
  private @Nullable Start start;
  private boolean untilCaughtUp;
  private int concurrency = 1;
  private int readAheadMessages = 256;
  private long readAheadBytes = 4 << 20;
  private int ackMessages = 100;
  private Duration ackTime = Duration.ofMillis(200);
  private Duration closeTimeout = Duration.ofSeconds(5);
  private Consumer<Event> onEvent = event -> {};

  /** The configuration of one subscription. */
  record Plan(
      String roomId,
      String subscriber,
      @Nullable Start start,
      boolean untilCaughtUp,
      int concurrency,
      int readAheadMessages,
      long readAheadBytes,
      int ackMessages,
      Duration ackTime,
      Duration closeTimeout,
      Consumer<Event> onEvent) {}

  SubscriptionBuilder(UnibusClient client, Calls calls, String roomId) {
    this.client = client;
    this.calls = calls;
    this.roomId = roomId;
  }

  /**
   * The name of a durable subscriber, whose position the service keeps. Without it: none is kept.
   */
  public SubscriptionBuilder durable(String name) {
    subscriber = name;
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
    concurrency = handlers;
    return this;
  }

  /** How far the client reads ahead of the handlers (U24). Default: 256 messages, 4 MiB. */
  public SubscriptionBuilder readAhead(int messages, long bytes) {
    readAheadMessages = messages;
    readAheadBytes = bytes;
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

  /** Observes what happens, in order with the messages (U25). The callback may block. */
  public SubscriptionBuilder onEvent(Consumer<Event> callback) {
    onEvent = callback;
    return this;
  }

  /** Subscribes. The handler runs on threads of the client and may block. */
  public Subscription start(MessageHandler handler) {
    var threads = calls.connection().handlers();
    return startAsync(Handlers.blocking(handler, concurrency, threads));
  }

  /** Subscribes. The handler must not block: a message is processed when its stage completes. */
  public Subscription startAsync(AsyncMessageHandler handler) {
    return client.subscribe(new Feed(calls, plan(), handler));
  }

  /** Subscribes, to take the messages in a loop. */
  public Messages iterate() {
    concurrency = 1;
    var messages = new Messages();
    messages.begin(startAsync(messages::hand));
    return messages;
  }

  private Plan plan() {
    return new Plan(
        roomId,
        subscriber,
        start,
        untilCaughtUp,
        concurrency,
        readAheadMessages,
        readAheadBytes,
        ackMessages,
        ackTime,
        closeTimeout,
        onEvent);
  }
}
