import io.github.unibusrs.UnibusClient;

/**
 * Prints every message of a room, for ever. When it is started again, it goes on after the last.
 */
public final class Quickstart {
  private Quickstart() {}

  /** Runs until it is interrupted. */
  public static void main(String[] args) {
    try (var client = UnibusClient.connect("http://127.0.0.1:50051");
        var orders = client.room("orders").messages("billing")) {
      Runtime.getRuntime().addShutdownHook(new Thread(client::close));
      for (var message : orders) {
        System.out.println(Long.toUnsignedString(message.sequence()) + " " + message.text());
      }
    }
  }
}
