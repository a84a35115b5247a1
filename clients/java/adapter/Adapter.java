import com.google.gson.Gson;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import io.github.unibusrs.*;
import java.io.BufferedReader;
import java.io.FileDescriptor;
import java.io.FileOutputStream;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.*;
import java.security.MessageDigest;
import java.time.*;
import java.util.*;
import java.util.concurrent.*;
import java.util.stream.StreamSupport;

/** The adapter of the conformance suite: JSON lines over standard input and output. */
public final class Adapter {
  private static final PrintStream OUT = new PrintStream(new FileOutputStream(FileDescriptor.out));
  private static final Gson GSON = new Gson();
  private static final ExecutorService POOL = Executors.newCachedThreadPool();
  private final Map<String, Publisher> publishers = new ConcurrentHashMap<>();

  /** What is done with a publisher is done in order, on a thread of its own. */
  private final Map<String, Executor> orders = new ConcurrentHashMap<>();

  /** How to end each subscription: in order, or by a cancel. */
  private final Map<String, Runnable> closes = new ConcurrentHashMap<>();

  private final Map<String, Runnable> cancels = new ConcurrentHashMap<>();
  private UnibusClient client;

  private Adapter() {}

  /** What a handler throws because of `fail_at`. */
  private static final class Planned extends Exception {
    private static final long serialVersionUID = 1;
  }

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

  /** What takes no time begins on the thread that reads; all others run beside. */
  private void request(Fields in) {
    var isQuick = in.text("op").matches("hello|connect|subscribe|publisher_open");
    Executor where = isQuick ? Runnable::run : orders.getOrDefault(in.text("publisher"), POOL);
    where.execute(
        () -> {
          CompletableFuture<?> result;
          try {
            var ok = call(in, in.has("room") ? client.room(in.text("room")) : null);
            result =
                ok instanceof CompletableFuture<?> f ? f : CompletableFuture.completedFuture(ok);
          } catch (Throwable e) {
            result = CompletableFuture.failedFuture(e);
          }
          result.whenComplete(
              (ok, e) ->
                  print(
                      e == null
                          ? map("id", in.id(), "ok", ok)
                          : map("id", in.id(), "error", error(e))));
        });
  }

  private Object call(Fields in, Room room) throws Exception {
    var none = Map.of();
    switch (in.text("op")) {
      case "hello":
        var grpc =
            "grpc-java " + io.grpc.ManagedChannel.class.getPackage().getImplementationVersion();
        return map(
            "language", "java", "runtime", System.getProperty("java.version"), "library", grpc);
      case "connect":
        client = connect(in);
        return none;
      case "create_room":
        var bounds = Retention.NONE.withMaxMessages(in.number("max_messages", 0));
        bounds = in.has("max_age_ms") ? bounds.withMaxAge(in.millis("max_age_ms")) : bounds;
        var settings = in.flag("persist") ? RoomSettings.persisted() : RoomSettings.ephemeral();
        settings = settings.withRetention(bounds);
        settings =
            in.has("dedupe_window_ms")
                ? settings.withDedupeWindow(in.millis("dedupe_window_ms"))
                : settings;
        return map(
            "room",
            (in.has("room") ? client.createRoom(room.id(), settings) : client.createRoom(settings))
                .id());
      case "get_room":
        var info = room.info();
        var window = Optional.ofNullable(info.dedupeWindow()).map(Duration::toMillis).orElse(0L);
        return map(
            "persist",
            info.persist(),
            "dedupe_window_ms",
            window,
            "first_sequence",
            text(info.firstSequence()),
            "last_sequence",
            text(info.lastSequence()),
            "messages",
            text(info.messages()));
      case "delete_room":
        room.delete();
        return none;
      case "purge_room":
        var purged = in.has("up_to") ? room.purgeUpTo(in.sequence("up_to")) : room.purge();
        return map("purged", text(purged));
      case "delete_message":
        room.deleteMessage(in.sequence("sequence"));
        return none;
      case "publish":
        var limited = in.has("timeout_ms") ? room.withTimeout(in.millis("timeout_ms")) : room;
        return published(limited.publish(outgoing(in)));
      case "publisher_open":
        var limits = Publisher.Options.DEFAULT.withMessages((int) in.number("window", 1024));
        publishers.put(in.text("publisher"), room.publisher(limits));
        orders.put(in.text("publisher"), Executors.newSingleThreadExecutor());
        return none;
      case "publisher_send":
        return publishers
            .get(in.text("publisher"))
            .publish(outgoing(in))
            .thenApply(Adapter::published);
      case "publisher_flush":
        publishers.get(in.text("publisher")).flush();
        return none;
      case "publisher_close":
        publishers.get(in.text("publisher")).close();
        return none;
      case "subscribe":
        subscribe(in, in.text("sub"), room);
        return none;
      case "unsubscribe":
        closes.get(in.text("sub")).run();
        return none;
      case "cancel":
        cancels.get(in.text("sub")).run();
        return none;
      case "history":
        return history(in, room.history());
      case "add_member":
        room.addMember(in.text("member"), Role.valueOf(in.text("role").toUpperCase()));
        return none;
      case "remove_member":
        room.removeMember(in.text("member"));
        return none;
      case "list_members":
        var members = StreamSupport.stream(room.members().spliterator(), false);
        return map(
            "members",
            members
                .map(m -> map("member", m.memberId(), "role", m.role().name().toLowerCase()))
                .toList());
      case "seek":
        return map("position", text(room.seek(in.text("subscriber"), in.start())));
      case "list_subscribers":
        var all = StreamSupport.stream(room.subscribers().spliterator(), false);
        return map(
            "subscribers",
            all.map(
                    s ->
                        map(
                            "subscriber",
                            s.subscriber(),
                            "position",
                            text(s.position()),
                            "lag",
                            text(s.lag()),
                            "open",
                            s.isOpen()))
                .toList());
      case "seal":
        return map(
            "sealed",
            base64(
                Encryption.seal(
                    in.bytes("key"), in.text("room"), in.text("sender"), in.bytes("payload"))));
      case "open":
        return map(
            "payload",
            base64(
                Encryption.open(
                    in.bytes("key"), in.text("room"), in.text("sender"), in.bytes("sealed"))));
      case "close":
        client.close();
        return none;
      default:
        throw new IllegalArgumentException("unknown op " + in.text("op"));
    }
  }

  private static UnibusClient connect(Fields in) {
    var builder = UnibusClient.builder(in.text("address"));
    in.with("ca", ca -> builder.trustedAuthorities(Path.of(ca)));
    in.with("cert", cert -> builder.clientCertificate(Path.of(cert), Path.of(in.text("key"))));
    in.with("token", builder::token);
    in.with(
        "token_file", file -> builder.tokenSupplier(() -> Files.readString(Path.of(file)).strip()));
    in.with("attempt_ms", ms -> builder.attemptTimeout(in.millis("attempt_ms")));
    in.with(
        "total_ms",
        ms -> builder.callTimeout(in.millis("total_ms")).publishTimeout(in.millis("total_ms")));
    return (in.flag("plaintext_token") ? builder.allowPlaintextToken() : builder).build();
  }

  private static Outgoing outgoing(Fields in) {
    var message = Outgoing.of(in.bytes("payload")).withMessageId(in.text("message_id"));
    var headers = new HashMap<String, String>();
    if (in.has("headers")) {
      in.json
          .getAsJsonObject("headers")
          .entrySet()
          .forEach(h -> headers.put(h.getKey(), h.getValue().getAsString()));
    }
    message = message.withHeaders(headers);
    var last = "expected_last_sequence";
    return in.has(last) ? message.withExpectedLastSequence(in.sequence(last)) : message;
  }

  private static Map<String, Object> published(PublishResult r) {
    return map(
        "sequence", text(r.sequence()), "duplicate", r.duplicate(), "message_id", r.messageId());
  }

  private void subscribe(Fields in, String sub, Room room) {
    var builder =
        room.subscription().onEvent(event -> print(map("sub", sub, "event", event(event))));
    in.with("subscriber", builder::durable);
    in.with("prefetch", messages -> builder.readAhead(Integer.parseInt(messages), 4 << 20));
    if (in.has("start")) {
      builder.from(in.start());
    }
    if (in.flag("until_caught_up")) {
      builder.untilCaughtUp();
    }
    MessageHandler begin = m -> print(map("sub", sub, "message", message(m)));
    MessageHandler finish =
        m -> {
          Thread.sleep(in.number("handler_ms", 0));
          if (in.text("fail_at").equals(text(m.sequence()))) {
            throw new Planned();
          }
          print(map("sub", sub, "done", text(m.sequence())));
        };
    if (in.flag("iterator")) {
      var messages = builder.iterate();
      var loop = new Thread(() -> loop(sub, messages, begin, finish));
      closes.put(sub, messages::close);
      cancels.put(sub, loop::interrupt);
      loop.start();
      return;
    }
    // One thread begins the handlers, so that the lines are in order also if several run at once.
    var several = in.number("concurrency", 1) > 1;
    var started =
        !several
            ? builder.start(
                m -> {
                  begin.handle(m);
                  finish.handle(m);
                })
            : builder
                .concurrency((int) in.number("concurrency", 1))
                .startAsync(
                    m -> {
                      begin.handle(m);
                      return CompletableFuture.supplyAsync(() -> run(finish, m), POOL)
                          .thenCompose(f -> f);
                    });
    closes.put(sub, started::close);
    cancels.put(sub, () -> started.done().cancel(true));
    started.done().whenComplete((v, e) -> started.closeAsync().thenRun(() -> print(ended(sub, e))));
  }

  private static CompletableFuture<Void> run(MessageHandler handler, Message message) {
    try {
      handler.handle(message);
      return CompletableFuture.completedFuture(null);
    } catch (Exception e) {
      return CompletableFuture.failedFuture(e);
    }
  }

  private static void loop(
      String sub, Messages messages, MessageHandler begin, MessageHandler finish) {
    Throwable failure = null;
    try (messages) {
      for (var message : messages) {
        begin.handle(message);
        finish.handle(message);
      }
    } catch (Exception e) {
      failure = e instanceof InterruptedException ? new CancellationException() : e;
    }
    print(ended(sub, failure));
  }

  private static Map<String, Object> ended(String sub, Throwable failure) {
    return map("sub", sub, "ended", failure == null ? Map.of() : map("error", error(failure)));
  }

  private static Map<String, Object> message(Message m) {
    return map(
        "sequence",
        text(m.sequence()),
        "payload",
        base64(m.bytes()),
        "headers",
        m.headers(),
        "message_id",
        m.messageId(),
        "sender",
        m.sender(),
        "cursor",
        m.cursor(),
        "published_at",
        m.publishedAt().toString());
  }

  private static Map<String, Object> event(Event event) {
    if (event instanceof Event.Opened e) {
      return map("type", "opened", "position", text(e.position()), "resumed", e.resumed());
    } else if (event instanceof Event.CaughtUp e) {
      return map("type", "caught_up", "position", text(e.position()));
    } else if (event instanceof Event.Gap e) {
      return map(
          "type",
          "gap",
          "from",
          text(e.from()),
          "to",
          text(e.to()),
          "reason",
          e.reason(),
          "dropped",
          text(e.dropped()));
    } else if (event instanceof Event.Moved e) {
      return map("type", "moved", "position", text(e.position()));
    } else if (event instanceof Event.Disconnected e) {
      return map(
          "type", "disconnected", "error", error(e.error()), "pause_ms", e.pause().toMillis());
    }
    return map("type", "recreated");
  }

  private static Map<String, Object> history(Fields in, History history) throws Exception {
    var backwards = in.text("direction").equals("backwards");
    var walk =
        (backwards ? history.backwards() : history).pageSize((int) in.number("page_size", 200));
    walk = in.has("after_sequence") ? walk.afterSequence(in.sequence("after_sequence")) : walk;
    walk = in.has("before_sequence") ? walk.beforeSequence(in.sequence("before_sequence")) : walk;
    walk = in.has("start_time") ? walk.since(Instant.parse(in.text("start_time"))) : walk;
    walk = in.has("end_time") ? walk.until(Instant.parse(in.text("end_time"))) : walk;
    var digest = MessageDigest.getInstance("SHA-256");
    long first = 0, last = 0, count = 0;
    var ordered = true;
    for (var i = walk.iterator();
        count < in.number("max", Long.MAX_VALUE) && i.hasNext();
        count++) {
      var message = i.next();
      var order = Long.compareUnsigned(message.sequence(), last);
      ordered &= count == 0 || (backwards ? order < 0 : order > 0);
      last = message.sequence();
      first = count == 0 ? last : first;
      digest.update((text(last) + "\n").getBytes(StandardCharsets.UTF_8));
      digest.update(message.bytes());
    }
    return map(
        "count",
        text(count),
        "first",
        text(first),
        "last",
        text(last),
        "ordered",
        ordered,
        "digest",
        HexFormat.of().formatHex(digest.digest()));
  }

  private static Map<String, Object> error(Throwable failure) {
    var cause =
        failure instanceof CompletionException && failure.getCause() != null
            ? failure.getCause()
            : failure;
    if (cause instanceof UnibusException e) {
      return map(
          "code",
          e.getCode().name(),
          "reason",
          e.getReason(),
          "class",
          e.getOutcome().name().toLowerCase(),
          "outcome_unknown",
          e.isOutcomeUnknown(),
          "cancelled",
          false,
          "message",
          e.getMessage(),
          "metadata",
          e.getMetadata(),
          "fields",
          e.getFields().keySet());
    }
    var isCancel = cause instanceof CancellationException;
    return map(
        "code",
        cause instanceof Planned ? "HANDLER" : isCancel ? "CANCELLED" : "ADAPTER",
        "reason",
        "",
        "class",
        "final",
        "outcome_unknown",
        false,
        "cancelled",
        isCancel,
        "message",
        String.valueOf(cause),
        "metadata",
        Map.of(),
        "fields",
        List.of());
  }

  private static Map<String, Object> map(Object... pairs) {
    var map = new LinkedHashMap<String, Object>();
    for (var i = 0; i < pairs.length; i += 2) {
      map.put((String) pairs[i], pairs[i + 1]);
    }
    return map;
  }

  private static String text(long unsigned) {
    return Long.toUnsignedString(unsigned);
  }

  private static String base64(byte[] bytes) {
    return Base64.getEncoder().encodeToString(bytes);
  }

  private static void print(Object line) {
    var bytes = (GSON.toJson(line) + "\n").getBytes(StandardCharsets.UTF_8);
    synchronized (OUT) {
      OUT.write(bytes, 0, bytes.length);
      OUT.flush();
    }
  }

  /** The fields of a request. */
  private record Fields(JsonObject json) {
    Object id() {
      return json.get("id");
    }

    boolean has(String name) {
      return json.has(name) && !json.get(name).isJsonNull();
    }

    String text(String name) {
      return has(name) ? json.get(name).getAsString() : "";
    }

    void with(String name, java.util.function.Consumer<String> use) {
      if (has(name)) {
        use.accept(text(name));
      }
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
      var at = new Fields(json.getAsJsonObject("start"));
      return at.has("all")
          ? Start.all()
          : at.has("new")
              ? Start.onlyNew()
              : at.has("after_sequence")
                  ? Start.afterSequence(at.sequence("after_sequence"))
                  : at.has("after_cursor")
                      ? Start.afterCursor(at.text("after_cursor"))
                      : at.has("since")
                          ? Start.since(Instant.parse(at.text("since")))
                          : Start.last(at.sequence("last"));
    }
  }
}
