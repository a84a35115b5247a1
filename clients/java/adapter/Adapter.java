import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import io.github.unibusrs.*;
import java.io.*;
import java.nio.charset.StandardCharsets;
import java.nio.file.*;
import java.security.MessageDigest;
import java.time.*;
import java.util.*;
import java.util.concurrent.*;
import java.util.stream.StreamSupport;

/** The adapter of the conformance suite: JSON lines over standard input and output. */
final class Adapter {
  private static final ExecutorService POOL = Executors.newCachedThreadPool();
  private final Map<String, Publisher> publishers = new ConcurrentHashMap<>();

  /** What is done with a publisher is done in order, on a thread of its own. */
  private final Map<String, Executor> orders = new ConcurrentHashMap<>();

  /** How to end each subscription: in order, or by a cancel. */
  private final Map<String, Runnable> closes = new ConcurrentHashMap<>();

  private final Map<String, Runnable> cancels = new ConcurrentHashMap<>();
  private UnibusClient client;

  public static void main(String[] args) throws Exception {
    warmUp();
    var adapter = new Adapter();
    var lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    for (var line = lines.readLine(); line != null; line = lines.readLine()) {
      adapter.request(new Lines.Fields(JsonParser.parseString(line).getAsJsonObject()));
    }
    if (adapter.client != null) {
      adapter.client.close();
    }
    System.exit(0);
  }

  /** Loads most classes, so that a scenario with short times does not measure that. */
  private static void warmUp() {
    try (var nowhere = UnibusClient.connect("http://127.0.0.1:9")) {
      nowhere.room("r").withTimeout(Duration.ofMillis(100)).info();
    } catch (UnibusException e) {
      // Nobody listens there.
    }
  }

  /** What takes no time begins on the thread that reads; all others run beside. */
  private void request(Lines.Fields in) {
    var isQuick = in.text("op").matches("hello|connect|subscribe|publisher_open");
    Executor where = isQuick ? Runnable::run : orders.getOrDefault(in.text("publisher"), POOL);
    where.execute(
        () -> {
          CompletableFuture<?> result;
          try {
            var ok =
                call(in, in.has("room") && client != null ? client.room(in.text("room")) : null);
            result =
                ok instanceof CompletableFuture<?> f ? f : CompletableFuture.completedFuture(ok);
          } catch (Throwable e) {
            result = CompletableFuture.failedFuture(e);
          }
          var id = in.json().get("id");
          result.whenComplete(
              (ok, e) -> Lines.print("id", id, e == null ? "ok" : "error", e == null ? ok : e));
        });
  }

  private static JsonObject done(Runnable task) {
    task.run();
    return Lines.json();
  }

  private Object call(Lines.Fields in, Room room) throws Exception {
    var publisher = publishers.get(in.text("publisher"));
    return switch (in.text("op")) {
      case "hello" -> hello();
      case "connect" -> done(() -> client = connect(in));
      case "create_room" -> Lines.json("room", createRoom(in, settings(in)).id());
      case "get_room" -> Lines.room(room.info());
      case "delete_room" -> done(room::delete);
      case "purge_room" ->
          Lines.json(
              "purged", in.has("up_to") ? room.purgeUpTo(in.sequence("up_to")) : room.purge());
      case "delete_message" -> done(() -> room.deleteMessage(in.sequence("sequence")));
      case "publish" -> within(in, room).publish(outgoing(in));
      case "publisher_open" -> done(() -> openPublisher(in, room));
      case "publisher_send" -> publisher.publish(outgoing(in));
      case "publisher_flush" -> done(publisher::flush);
      case "publisher_close" -> done(publisher::close);
      case "subscribe" -> done(() -> subscribe(in, in.text("sub"), room));
      case "unsubscribe" -> done(closes.get(in.text("sub")));
      case "cancel" -> done(cancels.get(in.text("sub")));
      case "history" -> history(in, room.history());
      case "add_member" ->
          room.addMember(in.text("member"), Role.valueOf(in.text("role").toUpperCase()));
      case "remove_member" -> done(() -> room.removeMember(in.text("member")));
      case "list_members" -> members(room);
      case "seek" -> Lines.json("position", room.seek(in.text("subscriber"), in.start()));
      case "list_subscribers" -> subscribers(room);
      case "seal" -> {
        var payload = in.bytes("payload");
        yield Lines.json(
            "sealed",
            Encryption.seal(in.bytes("key"), in.text("room"), in.text("sender"), payload));
      }
      case "open" -> {
        var sealed = in.bytes("sealed");
        yield Lines.json(
            "payload",
            Encryption.open(in.bytes("key"), in.text("room"), in.text("sender"), sealed));
      }
      case "close" -> done(client::close);
      default -> throw new IllegalArgumentException("unknown op " + in.text("op"));
    };
  }

  private static JsonObject hello() {
    var grpc = io.grpc.ManagedChannel.class.getPackage().getImplementationVersion();
    var java = System.getProperty("java.version");
    return Lines.json("language", "java", "runtime", java, "library", "grpc-java " + grpc);
  }

  private static UnibusClient connect(Lines.Fields in) {
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

  private static RoomSettings settings(Lines.Fields in) {
    var bounds = Retention.NONE.withMaxMessages(in.number("max_messages", 0));
    bounds = in.has("max_age_ms") ? bounds.withMaxAge(in.millis("max_age_ms")) : bounds;
    var kind = in.flag("persist") ? RoomSettings.persisted() : RoomSettings.ephemeral();
    var window = "dedupe_window_ms";
    return (in.has(window) ? kind.withDedupeWindow(in.millis(window)) : kind).withRetention(bounds);
  }

  private Room createRoom(Lines.Fields in, RoomSettings settings) {
    return in.has("room")
        ? client.createRoom(in.text("room"), settings)
        : client.createRoom(settings);
  }

  private static Room within(Lines.Fields in, Room room) {
    return in.has("timeout_ms") ? room.withTimeout(in.millis("timeout_ms")) : room;
  }

  private static Outgoing outgoing(Lines.Fields in) {
    var message =
        Outgoing.of(in.bytes("payload"))
            .withMessageId(in.text("message_id"))
            .withHeaders(in.headers());
    var last = "expected_last_sequence";
    return in.has(last) ? message.withExpectedLastSequence(in.sequence(last)) : message;
  }

  private void openPublisher(Lines.Fields in, Room room) {
    var limits = Publisher.Options.DEFAULT.withMessages((int) in.number("window", 1024));
    publishers.put(in.text("publisher"), room.publisher(limits));
    orders.put(in.text("publisher"), Executors.newSingleThreadExecutor());
  }

  private void subscribe(Lines.Fields in, String sub, Room room) {
    var builder =
        room.subscription()
            .onEvent(event -> Lines.print("sub", sub, "event", Lines.event(event)))
            .concurrency((int) in.number("concurrency", 1));
    in.with("subscriber", builder::durable);
    in.with("prefetch", messages -> builder.readAhead(Integer.parseInt(messages), 4 << 20));
    in.with("start", start -> builder.from(in.start()));
    if (in.flag("until_caught_up")) {
      builder.untilCaughtUp();
    }
    MessageHandler begin = m -> Lines.print("sub", sub, "message", m);
    MessageHandler finish =
        m -> {
          Thread.sleep(in.number("handler_ms", 0));
          if (in.text("fail_at").equals(Long.toUnsignedString(m.sequence()))) {
            throw new Lines.Planned();
          }
          Lines.print("sub", sub, "done", m.sequence());
        };
    if (in.flag("iterator")) {
      var messages = builder.iterate();
      var loop = new Thread(() -> loop(sub, messages, begin, finish));
      closes.put(sub, messages::close);
      cancels.put(sub, loop::interrupt);
      loop.start();
      return;
    }
    MessageHandler both =
        m -> {
          begin.handle(m);
          finish.handle(m);
        };
    // With several handlers at once, one thread begins them, so that the lines are in order.
    AsyncMessageHandler beside =
        m -> {
          begin.handle(m);
          return run(finish, m);
        };
    var isOne = in.number("concurrency", 1) == 1;
    var started = isOne ? builder.start(both) : builder.startAsync(beside);
    closes.put(sub, started::close);
    cancels.put(sub, () -> started.done().cancel(true));
    started.done().whenComplete((v, e) -> started.closeAsync().thenRun(() -> Lines.ended(sub, e)));
  }

  private static CompletionStage<?> run(MessageHandler handler, Message message) {
    var result = new CompletableFuture<Void>();
    POOL.execute(
        () -> {
          try {
            handler.handle(message);
            result.complete(null);
          } catch (Exception e) {
            result.completeExceptionally(e);
          }
        });
    return result;
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
    Lines.ended(sub, failure);
  }

  private static JsonObject members(Room room) {
    var all = StreamSupport.stream(room.members().spliterator(), false);
    return Lines.json(
        "members",
        all.map(m -> Lines.json("member", m.memberId(), "role", m.role().name().toLowerCase()))
            .toList());
  }

  private static JsonObject subscribers(Room room) {
    var all = StreamSupport.stream(room.subscribers().spliterator(), false);
    return Lines.json("subscribers", all.map(Lines::subscriber).toList());
  }

  private static JsonObject history(Lines.Fields in, History history) throws Exception {
    var backwards = in.text("direction").equals("backwards");
    var walk =
        (backwards ? history.backwards() : history).pageSize((int) in.number("page_size", 200));
    walk = in.has("after_sequence") ? walk.afterSequence(in.sequence("after_sequence")) : walk;
    walk = in.has("before_sequence") ? walk.beforeSequence(in.sequence("before_sequence")) : walk;
    walk = in.has("start_time") ? walk.since(Instant.parse(in.text("start_time"))) : walk;
    walk = in.has("end_time") ? walk.until(Instant.parse(in.text("end_time"))) : walk;
    var messages = walk.stream().limit(in.number("max", Long.MAX_VALUE)).iterator();
    var digest = MessageDigest.getInstance("SHA-256");
    long first = 0, last = 0, count = 0;
    var ordered = true;
    for (; messages.hasNext(); count++) {
      var message = messages.next();
      var order = Long.compareUnsigned(message.sequence(), last);
      ordered &= count == 0 || (backwards ? order < 0 : order > 0);
      last = message.sequence();
      first = count == 0 ? last : first;
      digest.update((Long.toUnsignedString(last) + "\n").getBytes(StandardCharsets.UTF_8));
      digest.update(message.bytes());
    }
    var json = Lines.json("count", count, "first", first, "last", last, "ordered", ordered);
    json.addProperty("digest", HexFormat.of().formatHex(digest.digest()));
    return json;
  }
}
