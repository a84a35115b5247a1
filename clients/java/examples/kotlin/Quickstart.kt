import io.github.unibusrs.Event
import io.github.unibusrs.Start
import io.github.unibusrs.UnibusClient

/** Prints every message of a room, and what happens to the subscription. */
fun main() {
    UnibusClient.connect("http://127.0.0.1:50051").use { client ->
        client.room("orders").subscription()
            .durable("billing")
            .from(Start.all())
            .onEvent { event ->
                when (event) {
                    is Event.Gap -> println("missing ${event.from.toULong()} to ${event.to.toULong()}")
                    is Event.Disconnected -> println("again in ${event.pause}: ${event.error.reason}")
                    else -> {}
                }
            }
            .start { message -> println("${message.sequence.toULong()} ${message.text()}") }
            .await()
    }
}
