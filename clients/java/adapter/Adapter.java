import com.google.gson.JsonArray;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import io.github.unibusrs.AsyncMessageHandler;
import io.github.unibusrs.ClientBuilder;
import io.github.unibusrs.Event;
import io.github.unibusrs.History;
import io.github.unibusrs.Message;
import io.github.unibusrs.MessageHandler;
import io.github.unibusrs.Messages;
import io.github.unibusrs.Outgoing;
import io.github.unibusrs.PublishResult;
import io.github.unibusrs.Publisher;
import io.github.unibusrs.Retention;
import io.github.unibusrs.Role;
import io.github.unibusrs.Room;
import io.github.unibusrs.RoomInfo;
import io.github.unibusrs.RoomSettings;
import io.github.unibusrs.Start;
import io.github.unibusrs.Subscription;
import io.github.unibusrs.UnibusClient;
import io.github.unibusrs.UnibusException;
import java.io.BufferedReader;
import java.io.FileDescriptor;
import java.io.FileOutputStream;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.time.Duration;
import java.time.Instant;
import java.util.Base64;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.Map;
import java.util.concurrent.CancellationException;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.function.Consumer;

/** The adapter of the conformance suite: JSON lines over standard input and output. */
public final class Adapter {
  private static final PrintStream OUT = new PrintStream(new FileOutputStream(FileDescriptor.out));
  private static final ExecutorService POOL = Executors.newCachedThreadPool();

  /** What a handler throws because of `fail_at`. */
  private static final class Planned extends Exception {
    private static final long serialVersionUID = 1;
  }

  private record OpenPublisher(Publisher publisher, ExecutorService order) {}

  /** A subscription in the form of a handler, or of an iterator with its thread. */
  private record OpenSubscription(Subscription subscription, Messages messages, Thread thread) {}

  private final Map<String, OpenPublisher> publishers = new ConcurrentHashMap<>();
  private final Map<String, OpenSubscription> subscriptions = new ConcurrentHashMap<>();
  private UnibusClient client;

  private Adapter() {}

  /** Runs until standard input ends. */
  public static void main(String[] args) throws Exception {
    var adapter = new Adapter();
    var lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    for (var line = lines.readLine(); line != null; line = lines.readLine()) {
      adapter.request(new Fields(JsonParser.parseString(line).getAsJsonObject()));
    }
    if (adapter.client != null) {
      adapter.client.close();
    }
    System.exit(0);
  }

  /** Operations whose order matters begin on the thread that reads; all others run beside. */
  private void request(Fields in) {
    var publisher = in.has("publisher") ? publishers.get(in.text("publisher")) : null;
    if (publisher != null) {
      publisher.order.execute(() -> answer(in, publisher(in, publisher.publisher)));
    } else if (in.text("op").matches("connect|subscribe|publisher_open")) {
      answer(in, run(in));
    } else {
      POOL.execute(() -> answer(in, run(in)));
    }
  }

  private static void answer(Fields in, CompletableFuture<JsonObject> result) {
    result.whenComplete(
        (ok, e) -> {
          var line = new JsonObject();
          line.add("id", in.json.get("id"));
          line.add(e == null ? "ok" : "error", e == null ? ok : error(e));
          print(line);
        });
  }

  private CompletableFuture<JsonObject> publisher(Fields in, Publisher publisher) {
    try {
      switch (in.text("op")) {
        case "publisher_send" -> {
          return publisher.publish(outgoing(in)).thenApply(Adapter::published);
        }
        case "publisher_flush" -> publisher.flush();
        default -> publisher.close();
      }
      return CompletableFuture.completedFuture(new JsonObject());
    } catch (Exception e) {
      return CompletableFuture.failedFuture(e);
    }
  }

  private CompletableFuture<JsonObject> run(Fields in) {
    try {
      return CompletableFuture.completedFuture(call(in));
    } catch (Exception e) {
      return CompletableFuture.failedFuture(e);
    }
  }

  private JsonObject call(Fields in) throws Exception {
    var out = new JsonObject();
    var room = client == null || !in.has("room") ? null : client.room(in.text("room"));
    switch (in.text("op")) {
      case "hello" -> {
        out.addProperty("language", "java");
        out.addProperty("runtime", System.getProperty("java.vm.version"));
        var grpc = io.grpc.ManagedChannel.class.getPackage().getImplementationVersion();
        out.addProperty("library", "unibus-client 0.1.0, grpc-java " + grpc);
      }
      case "connect" -> client = connect(in);
      case "create_room" -> {
        var retention =
            Retention.NONE
                .withMaxMessages(in.number("max_messages", 0))
                .withMaxAge(in.has("max_age_ms") ? in.millis("max_age_ms") : null);
        var settings = in.flag("persist") ? RoomSettings.persisted() : RoomSettings.ephemeral();
        settings = settings.withRetention(retention);
        if (in.has("dedupe_window_ms")) {
          settings = settings.withDedupeWindow(in.millis("dedupe_window_ms"));
        }
        var id = in.text("room");
        out.addProperty(
            "room",
            (id.isEmpty() ? client.createRoom(settings) : client.createRoom(id, settings)).id());
      }
      case "get_room" -> describe(room.info(), out);
      case "delete_room" -> room.delete();
      case "purge_room" -> {
        if (in.has("up_to")) {
          room.purgeUpTo(in.sequence("up_to"));
        } else {
          room.purge();
        }
      }
      case "delete_message" -> room.deleteMessage(in.sequence("sequence"));
      case "publish" -> {
        var limited = in.has("timeout_ms") ? room.withTimeout(in.millis("timeout_ms")) : room;
        out = published(limited.publish(outgoing(in)));
      }
      case "publisher_open" -> {
        var window = (int) in.number("window", Publisher.Options.DEFAULT.messages());
        var publisher = room.publisher(Publisher.Options.DEFAULT.withMessages(window));
        var order = Executors.newSingleThreadExecutor();
        publishers.put(in.text("publisher"), new OpenPublisher(publisher, order));
      }
      case "subscribe" -> subscribe(in, room);
      case "unsubscribe" -> {
        var open = subscriptions.get(in.text("sub"));
        if (open.messages != null) {
          open.messages.close();
        } else {
          open.subscription.close();
        }
      }
      case "cancel" -> {
        var open = subscriptions.get(in.text("sub"));
        if (open.thread != null) {
          open.thread.interrupt();
        } else {
          open.subscription.done().cancel(true);
        }
      }
      case "history" -> history(in, room.history(), out);
      case "add_member" ->
          room.addMember(in.text("member"), Role.valueOf(in.text("role").toUpperCase()));
      case "remove_member" -> room.removeMember(in.text("member"));
      case "list_members" -> {
        var list = new JsonArray();
        for (var member : room.members()) {
          var entry = new JsonObject();
          entry.addProperty("member", member.memberId());
          entry.addProperty("role", member.role().name().toLowerCase());
          list.add(entry);
        }
        out.add("members", list);
      }
      case "seek" ->
          out.addProperty("position", text(room.seek(in.text("subscriber"), in.start())));
      case "list_subscribers" -> {
        var list = new JsonArray();
        for (var subscriber : room.subscribers()) {
          var entry = new JsonObject();
          entry.addProperty("subscriber", subscriber.subscriber());
          entry.addProperty("position", text(subscriber.position()));
          entry.addProperty("lag", text(subscriber.lag()));
          entry.addProperty("open", subscriber.isOpen());
          list.add(entry);
        }
        out.add("subscribers", list);
      }
      case "seal" ->
          out.addProperty(
              "sealed",
              base64(
                  Encryption.seal(
                      in.bytes("key"), in.text("room"), in.text("sender"), in.bytes("payload"))));
      case "open" ->
          out.addProperty(
              "payload",
              base64(
                  Encryption.open(
                      in.bytes("key"), in.text("room"), in.text("sender"), in.bytes("sealed"))));
      case "close" -> client.close();
      default -> throw new IllegalArgumentException("unknown op " + in.text("op"));
    }
    return out;
  }

  private static UnibusClient connect(Fields in) {
    ClientBuilder builder = UnibusClient.builder(in.text("address"));
    if (in.has("ca")) {
      builder.trustedAuthorities(Path.of(in.text("ca")));
    }
    if (in.has("cert")) {
      builder.clientCertificate(Path.of(in.text("cert")), Path.of(in.text("key")));
    }
    if (in.has("token")) {
      builder.token(in.text("token"));
    }
    if (in.has("token_file")) {
      builder.tokenSupplier(() -> Files.readString(Path.of(in.text("token_file"))).strip());
    }
    if (in.flag("plaintext_token")) {
      builder.allowPlaintextToken();
    }
    if (in.has("attempt_ms")) {
      builder.attemptTimeout(in.millis("attempt_ms"));
    }
    if (in.has("total_ms")) {
      builder.callTimeout(in.millis("total_ms")).publishTimeout(in.millis("total_ms"));
    }
    return builder.build();
  }

  private static Outgoing outgoing(Fields in) {
    var message = Outgoing.of(in.bytes("payload")).withMessageId(in.text("message_id"));
    if (in.has("headers")) {
      var headers = new HashMap<String, String>();
      var json = in.json.getAsJsonObject("headers");
      json.entrySet().forEach(h -> headers.put(h.getKey(), h.getValue().getAsString()));
      message = message.withHeaders(headers);
    }
    return in.has("expected_last_sequence")
        ? message.withExpectedLastSequence(in.sequence("expected_last_sequence"))
        : message;
  }

  private static JsonObject published(PublishResult result) {
    var out = new JsonObject();
    out.addProperty("sequence", text(result.sequence()));
    out.addProperty("duplicate", result.duplicate());
    out.addProperty("message_id", result.messageId());
    return out;
  }

  private static void describe(RoomInfo info, JsonObject out) {
    out.addProperty("persist", info.persist());
    var window = info.dedupeWindow();
    out.addProperty("dedupe_window_ms", window == null ? 0 : window.toMillis());
    out.addProperty("first_sequence", text(info.firstSequence()));
    out.addProperty("last_sequence", text(info.lastSequence()));
    out.addProperty("messages", text(info.messages()));
  }

  private void subscribe(Fields in, Room room) {
    var sub = in.text("sub");
    var builder = room.subscription().onEvent(event -> print(line(sub, "event", event(event))));
    if (in.has("subscriber")) {
      builder.durable(in.text("subscriber"));
    }
    if (in.has("start")) {
      builder.from(in.start());
    }
    if (in.flag("until_caught_up")) {
      builder.untilCaughtUp();
    }
    if (in.has("prefetch")) {
      builder.readAhead((int) in.number("prefetch", 256), 4 << 20);
    }
    Consumer<Message> begin = message -> print(line(sub, "message", message(message)));
    MessageHandler finish =
        message -> {
          Thread.sleep(in.number("handler_ms", 0));
          if (in.has("fail_at") && in.sequence("fail_at") == message.sequence()) {
            throw new Planned();
          }
          var done = new JsonObject();
          done.addProperty("sub", sub);
          done.addProperty("done", text(message.sequence()));
          print(done);
        };
    MessageHandler handler =
        message -> {
          begin.accept(message);
          finish.handle(message);
        };
    if (in.flag("iterator")) {
      var messages = builder.iterate();
      var thread = new Thread(() -> iterate(sub, messages, handler));
      subscriptions.put(sub, new OpenSubscription(messages.subscription(), messages, thread));
      thread.start();
    } else {
      var concurrency = (int) in.number("concurrency", 1);
      builder.concurrency(concurrency);
      // With several handlers at once, the lines are in order only if one thread begins them.
      var started =
          concurrency == 1 ? builder.start(handler) : builder.startAsync(begun(begin, finish));
      subscriptions.put(sub, new OpenSubscription(started, null, null));
      started
          .done()
          .whenComplete((v, e) -> started.closeAsync().thenRun(() -> print(ended(sub, e))));
    }
  }

  private static AsyncMessageHandler begun(Consumer<Message> begin, MessageHandler finish) {
    return message -> {
      begin.accept(message);
      return CompletableFuture.runAsync(
          () -> {
            try {
              finish.handle(message);
            } catch (Exception e) {
              throw new CompletionException(e);
            }
          },
          POOL);
    };
  }

  private static void iterate(String sub, Messages messages, MessageHandler handler) {
    Throwable failure = null;
    try (messages) {
      for (var message : messages) {
        handler.handle(message);
      }
    } catch (InterruptedException e) {
      failure = new CancellationException();
    } catch (Exception e) {
      failure = e;
    }
    print(ended(sub, failure));
  }

  private static JsonObject ended(String sub, Throwable failure) {
    var end = new JsonObject();
    if (failure != null) {
      end.add("error", error(failure));
    }
    return line(sub, "ended", end);
  }

  private static JsonObject line(String sub, String name, JsonObject value) {
    var line = new JsonObject();
    line.addProperty("sub", sub);
    line.add(name, value);
    return line;
  }

  private static JsonObject message(Message m) {
    var out = new JsonObject();
    out.addProperty("sequence", text(m.sequence()));
    out.addProperty("payload", base64(m.bytes()));
    var headers = new JsonObject();
    m.headers().forEach(headers::addProperty);
    out.add("headers", headers);
    out.addProperty("message_id", m.messageId());
    out.addProperty("sender", m.sender());
    out.addProperty("cursor", m.cursor());
    out.addProperty("published_at", m.publishedAt().toString());
    return out;
  }

  private static JsonObject event(Event event) {
    var out = new JsonObject();
    if (event instanceof Event.Opened e) {
      out.addProperty("type", "opened");
      out.addProperty("position", text(e.position()));
      out.addProperty("resumed", e.resumed());
    } else if (event instanceof Event.CaughtUp e) {
      out.addProperty("type", "caught_up");
      out.addProperty("position", text(e.position()));
    } else if (event instanceof Event.Gap e) {
      out.addProperty("type", "gap");
      out.addProperty("from", text(e.from()));
      out.addProperty("to", text(e.to()));
      out.addProperty("reason", e.reason());
      out.addProperty("dropped", text(e.dropped()));
    } else if (event instanceof Event.Moved e) {
      out.addProperty("type", "moved");
      out.addProperty("position", text(e.position()));
    } else if (event instanceof Event.Recreated) {
      out.addProperty("type", "recreated");
    } else if (event instanceof Event.Disconnected e) {
      out.addProperty("type", "disconnected");
      out.add("error", error(e.error()));
      out.addProperty("pause_ms", e.pause().toMillis());
    }
    return out;
  }

  private static void history(Fields in, History history, JsonObject out) throws Exception {
    var backwards = in.text("direction").equals("backwards");
    var walk = backwards ? history.backwards() : history;
    walk = in.has("after_sequence") ? walk.afterSequence(in.sequence("after_sequence")) : walk;
    walk = in.has("before_sequence") ? walk.beforeSequence(in.sequence("before_sequence")) : walk;
    walk = in.has("start_time") ? walk.since(Instant.parse(in.text("start_time"))) : walk;
    walk = in.has("end_time") ? walk.until(Instant.parse(in.text("end_time"))) : walk;
    walk = in.has("page_size") ? walk.pageSize((int) in.number("page_size", 200)) : walk;
    var max = in.number("max", Long.MAX_VALUE);
    var digest = MessageDigest.getInstance("SHA-256");
    long count = 0;
    long first = 0;
    long last = 0;
    var ordered = true;
    for (var messages = walk.iterator(); count < max && messages.hasNext(); count++) {
      var message = messages.next();
      var order = Long.compareUnsigned(message.sequence(), last);
      ordered &= count == 0 || (backwards ? order < 0 : order > 0);
      first = count == 0 ? message.sequence() : first;
      last = message.sequence();
      digest.update((text(last) + "\n").getBytes(StandardCharsets.UTF_8));
      digest.update(message.bytes());
    }
    out.addProperty("count", count);
    out.addProperty("first", text(first));
    out.addProperty("last", text(last));
    out.addProperty("ordered", ordered);
    out.addProperty("digest", HexFormat.of().formatHex(digest.digest()));
  }

  private static JsonObject error(Throwable failure) {
    var cause =
        failure instanceof CompletionException && failure.getCause() != null
            ? failure.getCause()
            : failure;
    var out = new JsonObject();
    var metadata = new JsonObject();
    var fields = new JsonArray();
    var code =
        cause instanceof Planned
            ? "HANDLER"
            : cause instanceof CancellationException ? "CANCELLED" : "ADAPTER";
    if (cause instanceof UnibusException e) {
      code = e.getCode().name();
      e.getMetadata().forEach(metadata::addProperty);
      e.getFields().keySet().forEach(fields::add);
    }
    var known = cause instanceof UnibusException e ? e : null;
    out.addProperty("code", code);
    out.addProperty("reason", known == null ? "" : known.getReason());
    out.addProperty("class", known == null ? "final" : known.getOutcome().name().toLowerCase());
    out.addProperty("outcome_unknown", known != null && known.isOutcomeUnknown());
    out.addProperty("cancelled", cause instanceof CancellationException);
    out.addProperty("message", String.valueOf(cause));
    out.add("metadata", metadata);
    out.add("fields", fields);
    return out;
  }

  private static String text(long unsigned) {
    return Long.toUnsignedString(unsigned);
  }

  private static String base64(byte[] bytes) {
    return Base64.getEncoder().encodeToString(bytes);
  }

  private static void print(JsonObject line) {
    synchronized (OUT) {
      OUT.write(
          (line + "\n").getBytes(StandardCharsets.UTF_8),
          0,
          (line + "\n").getBytes(StandardCharsets.UTF_8).length);
      OUT.flush();
    }
  }

  /** The fields of a request. */
  private record Fields(JsonObject json) {
    boolean has(String name) {
      return json.has(name) && !json.get(name).isJsonNull();
    }

    String text(String name) {
      return has(name) ? json.get(name).getAsString() : "";
    }

    boolean flag(String name) {
      return has(name) && json.get(name).getAsBoolean();
    }

    long number(String name, long otherwise) {
      return has(name) ? json.get(name).getAsLong() : otherwise;
    }

    Duration millis(String name) {
      return Duration.ofMillis(number(name, 0));
    }

    long sequence(String name) {
      return Long.parseUnsignedLong(text(name));
    }

    byte[] bytes(String name) {
      return Base64.getDecoder().decode(text(name));
    }

    Start start() {
      var start = new Fields(json.getAsJsonObject(has("start") ? "start" : "position"));
      return start.has("all")
          ? Start.all()
          : start.has("new")
              ? Start.onlyNew()
              : start.has("after_sequence")
                  ? Start.afterSequence(start.sequence("after_sequence"))
                  : start.has("after_cursor")
                      ? Start.afterCursor(start.text("after_cursor"))
                      : start.has("since")
                          ? Start.since(Instant.parse(start.text("since")))
                          : Start.last(start.sequence("last"));
    }
  }
}
