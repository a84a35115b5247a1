import com.google.gson.*;
import com.google.gson.annotations.SerializedName;
import com.google.protobuf.ByteString;
import io.github.unibusrs.*;
import java.io.*;
import java.nio.charset.StandardCharsets;
import java.time.*;
import java.util.*;
import java.util.concurrent.*;
import java.util.function.*;

/** The lines of JSON that the adapter reads and writes. */
final class Lines {
  private static final PrintStream OUT = new PrintStream(new FileOutputStream(FileDescriptor.out));

  /** Records become objects; sequences become text, times in milliseconds become numbers. */
  private static final Gson GSON =
      new GsonBuilder()
          .setFieldNamingPolicy(FieldNamingPolicy.LOWER_CASE_WITH_UNDERSCORES)
          .registerTypeAdapter(long.class, Lines.<Long>text(Long::toUnsignedString))
          .registerTypeAdapter(Long.class, Lines.<Long>text(Long::toUnsignedString))
          .registerTypeAdapter(Instant.class, Lines.<Instant>text(Instant::toString))
          .registerTypeAdapter(byte[].class, Lines.<byte[]>text(Lines::base64))
          .registerTypeHierarchyAdapter(
              ByteString.class, Lines.<ByteString>text(b -> base64(b.toByteArray())))
          .registerTypeAdapter(
              Duration.class,
              (JsonSerializer<Duration>) (d, type, gson) -> new JsonPrimitive((int) d.toMillis()))
          .registerTypeHierarchyAdapter(
              Throwable.class, (JsonSerializer<Throwable>) (e, type, gson) -> error(e))
          .create();

  /** What a handler throws because of `fail_at`. */
  static final class Planned extends Exception {
    static final long serialVersionUID = 1;
  }

  /** ERROR of the protocol. */
  private record Failure(
      String code,
      String reason,
      @SerializedName("class") String outcome,
      boolean outcomeUnknown,
      boolean cancelled,
      String message,
      Map<String, String> metadata,
      Set<String> fields) {}

  private Lines() {}

  private static <T> JsonSerializer<T> text(Function<T, String> format) {
    return (value, type, gson) -> new JsonPrimitive(format.apply(value));
  }

  private static String base64(byte[] bytes) {
    return Base64.getEncoder().encodeToString(bytes);
  }

  static JsonObject json(Object... pairs) {
    var json = new JsonObject();
    for (var i = 0; i < pairs.length; i += 2) {
      json.add((String) pairs[i], GSON.toJsonTree(pairs[i + 1]));
    }
    return json;
  }

  static JsonObject room(io.github.unibusrs.v1.Room room) {
    var state = room.getState();
    var json = json("first_sequence", state.getFirstSequence());
    json.add("last_sequence", GSON.toJsonTree(state.getLastSequence()));
    json.add("messages", GSON.toJsonTree(state.getMessages()));
    json.addProperty("persist", room.getPersist());
    json.addProperty("dedupe_window_ms", room.getDedupeWindow().getSeconds() * 1000);
    return json;
  }

  static JsonObject subscriber(io.github.unibusrs.v1.Subscriber s) {
    var json = json("subscriber", s.getSubscriber(), "position", s.getPosition());
    json.add("lag", GSON.toJsonTree(s.getLag()));
    json.addProperty("open", s.getOpen());
    return json;
  }

  static JsonObject event(Event event) {
    var json = GSON.toJsonTree(event).getAsJsonObject();
    var name = event.getClass().getSimpleName();
    json.addProperty("type", name.replaceAll("(?<=.)([A-Z])", "_$1").toLowerCase());
    if (json.has("pause")) {
      json.add("pause_ms", json.remove("pause"));
    }
    return json;
  }

  static JsonElement error(Throwable failure) {
    var inner = failure instanceof CompletionException ? failure.getCause() : null;
    var cause = inner == null ? failure : inner;
    if (cause instanceof UnibusException e) {
      var outcome = e.getOutcome().name().toLowerCase();
      var fields = e.getFields().keySet();
      return GSON.toJsonTree(
          new Failure(
              e.getCode().name(),
              e.getReason(),
              outcome,
              e.isOutcomeUnknown(),
              false,
              e.getMessage(),
              e.getMetadata(),
              fields));
    }
    var isCancel = cause instanceof CancellationException;
    var code = cause instanceof Planned ? "HANDLER" : isCancel ? "CANCELLED" : "ADAPTER";
    var text = String.valueOf(cause);
    return GSON.toJsonTree(
        new Failure(code, "", "final", false, isCancel, text, Map.of(), Set.of()));
  }

  static void ended(String sub, Throwable failure) {
    print("sub", sub, "ended", failure == null ? json() : json("error", failure));
  }

  static void print(Object... pairs) {
    var bytes = (json(pairs) + "\n").getBytes(StandardCharsets.UTF_8);
    synchronized (OUT) {
      OUT.write(bytes, 0, bytes.length);
      OUT.flush();
    }
  }

  /** The fields of a request. */
  record Fields(JsonObject json) {
    boolean has(String name) {
      return json.has(name) && !json.get(name).isJsonNull();
    }

    String text(String name) {
      return !has(name)
          ? ""
          : json.get(name).isJsonPrimitive() ? json.get(name).getAsString() : "{}";
    }

    void with(String name, Consumer<String> use) {
      Optional.of(text(name)).filter(text -> !text.isEmpty()).ifPresent(use);
    }

    boolean flag(String name) {
      return text(name).equals("true");
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

    Map<String, String> headers() {
      var headers = new HashMap<String, String>();
      if (has("headers")) {
        json.getAsJsonObject("headers").asMap().forEach((k, v) -> headers.put(k, v.getAsString()));
      }
      return headers;
    }

    Start start() {
      var start = new Fields(json.getAsJsonObject("start"));
      var kind = start.json.keySet().iterator().next();
      return switch (kind) {
        case "all" -> Start.all();
        case "new" -> Start.onlyNew();
        case "after_sequence" -> Start.afterSequence(start.sequence(kind));
        case "after_cursor" -> Start.afterCursor(start.text(kind));
        case "since" -> Start.since(Instant.parse(start.text(kind)));
        default -> Start.last(start.sequence(kind));
      };
    }
  }
}
