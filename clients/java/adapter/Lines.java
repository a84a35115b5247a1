import com.google.gson.*;
import io.github.unibusrs.*;
import java.io.*;
import java.nio.charset.StandardCharsets;
import java.time.*;
import java.util.*;
import java.util.concurrent.*;

/** The lines of JSON that the adapter reads and writes. */
final class Lines {
  private static final PrintStream OUT = new PrintStream(new FileOutputStream(FileDescriptor.out));

  private static final Gson GSON = new Gson();

  /** What a handler throws because of `fail_at`. */
  static final class Planned extends Exception {
    static final long serialVersionUID = 1;
  }

  private Lines() {}

  static void ended(String sub, Throwable failure) {
    print("sub", sub, "ended", failure == null ? json() : json("error", error(failure)));
  }

  static JsonObject message(Message m) {
    return json(
        "sequence",
        m.sequence(),
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

  static JsonObject published(PublishResult r) {
    return json("sequence", r.sequence(), "duplicate", r.duplicate(), "message_id", r.messageId());
  }

  static JsonObject event(Event event) {
    if (event instanceof Event.Opened e) {
      return json("type", "opened", "position", e.position(), "resumed", e.resumed());
    } else if (event instanceof Event.CaughtUp e) {
      return json("type", "caught_up", "position", e.position());
    } else if (event instanceof Event.Gap e) {
      return json(
          "type",
          "gap",
          "from",
          e.from(),
          "to",
          e.to(),
          "reason",
          e.reason(),
          "dropped",
          e.dropped());
    } else if (event instanceof Event.Moved e) {
      return json("type", "moved", "position", e.position());
    } else if (event instanceof Event.Disconnected e) {
      return json(
          "type",
          "disconnected",
          "error",
          error(e.error()),
          "pause_ms",
          (int) e.pause().toMillis());
    }
    return json("type", "recreated");
  }

  static JsonObject error(Throwable failure) {
    var cause =
        failure instanceof CompletionException && failure.getCause() != null
            ? failure.getCause()
            : failure;
    if (cause instanceof UnibusException e) {
      return json(
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
    var code = cause instanceof Planned ? "HANDLER" : isCancel ? "CANCELLED" : "ADAPTER";
    return json(
        "code",
        code,
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
        json(),
        "fields",
        List.of());
  }

  static JsonObject json(Object... pairs) {
    var json = new JsonObject();
    for (var i = 0; i < pairs.length; i += 2) {
      var value = pairs[i + 1];
      json.add(
          (String) pairs[i],
          value instanceof Long n
              ? new JsonPrimitive(Long.toUnsignedString(n))
              : GSON.toJsonTree(value));
    }
    return json;
  }

  static String base64(byte[] bytes) {
    return Base64.getEncoder().encodeToString(bytes);
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
      return has(name)
          ? json.get(name).isJsonPrimitive()
              ? json.get(name).getAsString()
              : json.get(name).toString()
          : "";
    }

    void with(String name, java.util.function.Consumer<String> use) {
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
