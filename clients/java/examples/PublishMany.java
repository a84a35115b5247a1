import io.github.unibusrs.Outgoing;
import io.github.unibusrs.RoomSettings;
import io.github.unibusrs.UnibusClient;
import io.github.unibusrs.UnibusException;
import java.util.Map;

/**
 * Publishes a thousand messages without waiting for each answer, and prints which were not stored.
 */
public final class PublishMany {
  private PublishMany() {}

  /** Publishes, and ends when every message is answered. */
  public static void main(String[] args) {
    try (var client = UnibusClient.connect("http://127.0.0.1:50051");
        var publisher = client.createRoom("orders", RoomSettings.persisted()).publisher()) {
      for (var i = 1; i <= 1000; i++) {
        var message = Outgoing.of("order " + i).withHeaders(Map.of("kind", "order"));
        publisher
            .publish(message)
            .whenComplete(
                (result, failure) -> {
                  if (failure instanceof UnibusException e) {
                    System.err.println(e.getMessage());
                  }
                });
      }
    }
  }
}
