import static java.util.concurrent.TimeUnit.MILLISECONDS;

import com.google.common.collect.*;
import com.google.common.hash.Hashing;
import com.google.gson.*;
import com.google.protobuf.ByteString;
import io.github.unibusrs.*;
import io.github.unibusrs.v1.Member;
import io.github.unibusrs.v1.Role;
import io.github.unibusrs.v1.Subscriber;
import java.io.*;
import java.nio.charset.StandardCharsets;
import java.nio.file.*;
import java.time.*;
import java.util.*;
import java.util.concurrent.*;
import java.util.function.*;
import java.util.stream.StreamSupport;

/** The adapter of the conformance suite: JSON lines over standard input and output. */
final class Adapter {
  /** The fields of all requests, as the runner writes them. */
  private static final class Request {
    int id;
    String op, address, ca, cert, key, token, tokenFile, room, member, role, sub, publisher = "";
    String subscriber, direction, startTime, endTime, sender, payload, sealed, messageId = "";
    boolean persist, plaintextToken, iterator, untilCaughtUp;
    int window = 1024, concurrency = 1, prefetch = 256, pageSize = 200, max = Integer.MAX_VALUE;
    long maxMessages, handlerMs;
    Long attemptMs, totalMs, timeoutMs, dedupeWindowMs, maxAgeMs;
    Long sequence, upTo, failAt, expectedLastSequence, afterSequence, beforeSequence;
    Map<String, String> start, headers = Map.of();
  }

  private static final Gson GSON =
      new GsonBuilder()
          .setFieldNamingPolicy(FieldNamingPolicy.LOWER_CASE_WITH_UNDERSCORES)
          .setLongSerializationPolicy(LongSerializationPolicy.STRING)
          .registerTypeAdapter(Instant.class, Adapter.<Instant>text(Instant::toString))
          .registerTypeAdapter(Duration.class, Adapter.<Duration>text(Duration::toString))
          .registerTypeHierarchyAdapter(
              ByteString.class, Adapter.<ByteString>text(b -> base64(b.toByteArray())))
          .registerTypeHierarchyAdapter(
              Throwable.class,
              (JsonSerializer<Throwable>) (e, t, g) -> g.serialize(error(e, "ADAPTER")))
          .create();

  private static final PrintStream OUT =
      new PrintStream(new FileOutputStream(FileDescriptor.out), false, StandardCharsets.UTF_8);
  private static final ExecutorService POOL = Executors.newCachedThreadPool();
  private final Map<String, Publisher> publishers = new ConcurrentHashMap<>();

  /** What is done with a publisher is done in order, on a thread of its own. */
  private final Map<String, ExecutorService> orders = new ConcurrentHashMap<>();

  /** How to end each subscription: in order, or by a cancel. */
  private final Map<String, Runnable> closes = new ConcurrentHashMap<>();

  private final Map<String, Runnable> cancels = new ConcurrentHashMap<>();
  private UnibusClient client;

  public static void main(String[] args) throws Exception {
    // Loads most classes, so that a scenario with short times does not measure that.
    try (var nowhere = UnibusClient.connect("http://127.0.0.1:9")) {
      nowhere.room("r").withTimeout(Duration.ofMillis(100)).info();
    } catch (UnibusException e) {
      // Nobody listens there.
    }
    var adapter = new Adapter();
    var lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    lines.lines().forEach(line -> adapter.answer(GSON.fromJson(line, Request.class)));
    if (adapter.client != null) {
      adapter.client.close();
    }
    System.exit(0);
  }

  /** What takes no time begins on the thread that reads; all others run beside. */
  private void answer(Request in) {
    Function<String, ExecutorService> alone = name -> Executors.newSingleThreadExecutor();
    var beside = in.publisher.isEmpty() ? POOL : orders.computeIfAbsent(in.publisher, alone);
    Executor where = in.op.matches("hello|connect|subscribe") ? Runnable::run : beside;
    where.execute(
        () -> {
          try {
            var ok = call(in, in.room == null || client == null ? null : client.room(in.room));
            var later =
                ok instanceof CompletableFuture<?> f ? f : CompletableFuture.completedFuture(ok);
            later.whenComplete((value, e) -> answer(in, value, e));
          } catch (Exception e) {
            answer(in, null, e);
          }
        });
  }

  private static void answer(Request in, Object ok, Throwable e) {
    print("id", in.id, e == null ? "ok" : "error", e != null ? e : ok == null ? Map.of() : ok);
  }

  private static synchronized void print(String key, Object value, String what, Object content) {
    OUT.println(GSON.toJson(Map.of(key, value, what, content)));
    OUT.flush();
  }

  private static Object run(Runnable task) {
    task.run();
    return null;
  }

  private Object call(Request in, Room room) throws Exception {
    var publisher = publishers.get(in.publisher);
    return switch (in.op) {
      case "hello" -> hello();
      case "connect" -> run(() -> client = connect(in));
      case "create_room" -> Map.of("room", createRoom(in).id());
      case "get_room" -> info(room.info());
      case "delete_room" -> run(room::delete);
      case "purge_room" -> run(in.upTo == null ? room::purge : () -> room.purgeUpTo(in.upTo));
      case "delete_message" -> run(() -> room.deleteMessage(in.sequence));
      case "publish" -> within(in, room).publish(message(in));
      case "publisher_open" -> run(() -> publishers.put(in.publisher, room.publisher(limits(in))));
      case "publisher_send" -> publisher.publish(message(in));
      case "publisher_flush" -> run(publisher::flush);
      case "publisher_close" -> run(publisher::close);
      case "subscribe" -> run(() -> subscribe(in, room));
      case "unsubscribe" -> run(closes.get(in.sub));
      case "cancel" -> run(cancels.get(in.sub));
      case "history" -> history(in, room.history().pageSize(in.pageSize));
      case "add_member" ->
          run(() -> room.addMember(in.member, Role.valueOf("ROLE_" + in.role.toUpperCase())));
      case "remove_member" -> run(() -> room.removeMember(in.member));
      case "list_members" -> list("members", room.members(), Adapter::member);
      case "seek" -> Map.of("position", room.seek(in.subscriber, start(in.start)));
      case "list_subscribers" -> list("subscribers", room.subscribers(), Adapter::subscriber);
      case "seal", "open" -> encryption(in);
      case "close" -> run(client::close);
      default -> throw new IllegalArgumentException("unknown op " + in.op);
    };
  }

  private static Map<String, String> hello() {
    var grpc = io.grpc.ManagedChannel.class.getPackage().getImplementationVersion();
    var java = System.getProperty("java.version");
    return Map.of("language", "java", "runtime", java, "library", "grpc-java " + grpc);
  }

  private static UnibusClient connect(Request in) {
    var builder = UnibusClient.builder(in.address);
    with(in.ca, ca -> builder.trustedAuthorities(Path.of(ca)));
    with(in.cert, cert -> builder.clientCertificate(Path.of(cert), Path.of(in.key)));
    with(in.token, builder::token);
    with(in.tokenFile, f -> builder.tokenSupplier(() -> Files.readString(Path.of(f)).strip()));
    with(in.attemptMs, ms -> builder.attemptTimeout(Duration.ofMillis(ms)));
    with(in.totalMs, ms -> builder.callTimeout(Duration.ofMillis(ms)));
    with(in.totalMs, ms -> builder.publishTimeout(Duration.ofMillis(ms)));
    return (in.plaintextToken ? builder.allowPlaintextToken() : builder).build();
  }

  private static <T> void with(T field, Consumer<T> use) {
    Optional.ofNullable(field).ifPresent(use);
  }

  private Room createRoom(Request in) {
    var room = in.persist ? RoomSettings.persisted() : RoomSettings.ephemeral();
    room = in.maxMessages == 0 ? room : room.withMaxMessages(in.maxMessages);
    room = in.maxAgeMs == null ? room : room.withMaxAge(Duration.ofMillis(in.maxAgeMs));
    var window = in.dedupeWindowMs;
    room = window == null ? room : room.withDedupeWindow(Duration.ofMillis(window));
    return in.room == null ? client.createRoom(room) : client.createRoom(in.room, room);
  }

  private static Map<String, ?> info(io.github.unibusrs.v1.Room room) {
    var state = room.getState();
    return Map.of(
        "persist", room.getPersist(),
        "dedupe_window_ms", (int) room.getDedupeWindow().getSeconds() * 1000,
        "first_sequence", state.getFirstSequence(),
        "last_sequence", state.getLastSequence(),
        "messages", state.getMessages());
  }

  private static Map<String, ?> member(Member it) {
    var role = it.getRole().name().replace("ROLE_", "").toLowerCase();
    return Map.of("member", it.getMemberId(), "role", role);
  }

  private static Map<String, ?> subscriber(Subscriber it) {
    return Map.of(
        "subscriber", it.getSubscriber(),
        "position", it.getPosition(),
        "lag", it.getLag(),
        "open", it.getOpen());
  }

  private static <T> Map<String, ?> list(String name, Iterable<T> all, Function<T, ?> json) {
    return Map.of(name, StreamSupport.stream(all.spliterator(), false).map(json).toList());
  }

  private static Room within(Request in, Room room) {
    return in.timeoutMs == null ? room : room.withTimeout(Duration.ofMillis(in.timeoutMs));
  }

  private static Outgoing message(Request in) {
    var message = Outgoing.of(bytes(in.payload)).withMessageId(in.messageId);
    var last = in.expectedLastSequence;
    message = last == null ? message : message.withExpectedLastSequence(last);
    return message.withHeaders(in.headers);
  }

  private static Map<String, ?> encryption(Request in) throws Exception {
    var key = bytes(in.key);
    return in.op.equals("seal")
        ? Map.of("sealed", base64(Encryption.seal(key, in.room, in.sender, bytes(in.payload))))
        : Map.of("payload", base64(Encryption.open(key, in.room, in.sender, bytes(in.sealed))));
  }

  private static byte[] bytes(String base64) {
    return Base64.getDecoder().decode(base64);
  }

  private static String base64(byte[] bytes) {
    return Base64.getEncoder().encodeToString(bytes);
  }

  private static Map<String, ?> history(Request in, History all) {
    var backwards = "backwards".equals(in.direction);
    all = backwards ? all.backwards() : all;
    all = in.afterSequence == null ? all : all.afterSequence(in.afterSequence);
    all = in.beforeSequence == null ? all : all.beforeSequence(in.beforeSequence);
    all = in.startTime == null ? all : all.since(Instant.parse(in.startTime));
    all = in.endTime == null ? all : all.until(Instant.parse(in.endTime));
    var digest = Hashing.sha256().newHasher();
    var found = new ArrayList<Long>();
    all.stream()
        .limit(in.max)
        .forEach(
            message -> {
              found.add(message.sequence());
              digest.putString(message.sequence() + "\n", StandardCharsets.UTF_8);
              digest.putBytes(message.bytes());
            });
    Comparator<Long> order = backwards ? Comparator.reverseOrder() : Comparator.naturalOrder();
    return Map.of(
        "count", String.valueOf(found.size()),
        "first", Iterables.getFirst(found, 0L),
        "last", Iterables.getLast(found, 0L),
        "ordered", Comparators.isInStrictOrder(found, order),
        "digest", digest.hash().toString());
  }

  private void subscribe(Request in, Room room) {
    var builder =
        room.subscription()
            .onEvent(event -> print("sub", in.sub, "event", event(event)))
            .concurrency(in.concurrency)
            .readAhead(in.prefetch, 4 << 20);
    with(in.subscriber, builder::durable);
    with(in.start, start -> builder.from(start(start)));
    if (in.untilCaughtUp) {
      builder.untilCaughtUp();
    }
    if (in.iterator) {
      var messages = builder.iterate();
      var loop = new Thread(() -> loop(in, messages));
      closes.put(in.sub, messages::close);
      cancels.put(in.sub, loop::interrupt);
      loop.start();
      return;
    }
    // With several handlers at once, one thread begins them, so that the lines are in order.
    AsyncMessageHandler beside =
        message -> {
          print("sub", in.sub, "message", message);
          var later = CompletableFuture.delayedExecutor(in.handlerMs, MILLISECONDS, POOL);
          return CompletableFuture.runAsync(() -> finish(in, message), later);
        };
    var isOne = in.concurrency == 1;
    var running = isOne ? builder.start(m -> handle(in, m)) : builder.startAsync(beside);
    closes.put(in.sub, running::close);
    cancels.put(in.sub, () -> running.done().cancel(true));
    running.done().whenComplete((v, e) -> running.closeAsync().thenRun(() -> ended(in, e)));
  }

  private static void handle(Request in, Message message) throws InterruptedException {
    print("sub", in.sub, "message", message);
    Thread.sleep(in.handlerMs);
    finish(in, message);
  }

  private static void finish(Request in, Message message) {
    if (in.failAt != null && in.failAt == message.sequence()) {
      throw new IllegalStateException("planned");
    }
    print("sub", in.sub, "done", message.sequence());
  }

  private static void loop(Request in, Messages messages) {
    Throwable failure = null;
    try (messages) {
      for (var message : messages) {
        handle(in, message);
      }
    } catch (Exception e) {
      failure = e instanceof InterruptedException ? new CancellationException() : e;
    }
    ended(in, failure);
  }

  private static void ended(Request in, Throwable e) {
    print("sub", in.sub, "ended", e == null ? Map.of() : Map.of("error", error(e, "HANDLER")));
  }

  private static Start start(Map<String, String> start) {
    var kind = start.keySet().iterator().next();
    var value = start.get(kind);
    return switch (kind) {
      case "all" -> Start.all();
      case "new" -> Start.onlyNew();
      case "after_sequence" -> Start.afterSequence(Long.parseLong(value));
      case "after_cursor" -> Start.afterCursor(value);
      case "since" -> Start.since(Instant.parse(value));
      default -> Start.last(Long.parseLong(value));
    };
  }

  private static JsonObject event(Event event) {
    var json = GSON.toJsonTree(event).getAsJsonObject();
    var name = event.getClass().getSimpleName().toLowerCase();
    json.addProperty("type", name.replace("caughtup", "caught_up"));
    if (event instanceof Event.Disconnected broken) {
      json.addProperty("pause_ms", (int) broken.pause().toMillis());
    }
    return json;
  }

  private static <T> JsonSerializer<T> text(Function<T, String> format) {
    return (value, type, gson) -> new JsonPrimitive(format.apply(value));
  }

  /** ERROR of the protocol. */
  private static Map<String, ?> error(Throwable e, String otherwise) {
    if (e instanceof CompletionException && e.getCause() != null) {
      return error(e.getCause(), otherwise);
    }
    if (e instanceof UnibusException error) {
      return Map.of(
          "code", error.getCode(),
          "reason", error.getReason(),
          "class", error.getOutcome().name().toLowerCase(),
          "outcome_unknown", error.isOutcomeUnknown(),
          "message", error.getMessage(),
          "metadata", error.getMetadata(),
          "fields", error.getFields().keySet());
    }
    var isCancel = e instanceof CancellationException;
    var code = isCancel ? "CANCELLED" : otherwise;
    return Map.of("code", code, "class", "final", "cancelled", isCancel, "message", "" + e);
  }

  private static Publisher.Options limits(Request in) {
    return Publisher.Options.DEFAULT.withMessages(in.window);
  }
}
