package io.github.unibusrs;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.github.unibusrs.UnibusException.Outcome;
import io.github.unibusrs.v1.GetRoomResponse;
import io.grpc.Status;
import java.time.Duration;
import java.time.temporal.ChronoUnit;
import java.util.concurrent.CancellationException;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.stream.Stream;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

@Timeout(value = 30, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
class CallsTest {
  private FakeService service;

  @BeforeEach
  void start() throws Exception {
    service = new FakeService();
  }

  @AfterEach
  void stop() {
    service.close();
  }

  private ClientBuilder builder() {
    return UnibusClient.builder(service.address()).allowPlaintextToken();
  }

  private static void fail(
      io.grpc.stub.StreamObserver<GetRoomResponse> answer, com.google.rpc.Status status) {
    answer.onError(FakeService.failure(status));
  }

  @ParameterizedTest
  @ValueSource(longs = {Long.MAX_VALUE, 7200, 0, -5, Long.MIN_VALUE})
  void anyRetryInfoKeepsTheTimeOfTheCall(long seconds) {
    var status = Errors.status(Status.Code.RESOURCE_EXHAUSTED, "RATE_LIMITED", seconds);
    service.getRoom = answer -> fail(answer, status);
    try (var client = builder().callTimeout(Duration.ofSeconds(3)).build()) {
      var call = client.room("r").async().info().orTimeout(5, TimeUnit.SECONDS);
      var error = Futures.error(call.handle((v, e) -> e).join());
      assertEquals("RATE_LIMITED", error.getReason());
    }
  }

  @Test
  void aTokenThatNoHeaderCanCarryIsNeverSent() {
    try (var client = builder().tokenSupplier(() -> "secret\n").build()) {
      var call = client.room("r").withTimeout(Duration.ofSeconds(3)).async().info();
      var error = Futures.error(call.orTimeout(5, TimeUnit.SECONDS).handle((v, e) -> e).join());
      assertTrue(error.getMessage().contains("token"), error.getMessage());
      assertFalse(error.getMessage().contains("secret"));
    }
    assertThrows(UnibusException.class, () -> builder().token("secret\n"));
  }

  @Test
  void theTimeOfTheSupplierCountsForTheAttempt() {
    service.getRoom = answer -> {};
    try (var client =
        builder()
            .tokenSupplier(
                () -> {
                  Thread.sleep(1800);
                  return "t";
                })
            .build()) {
      var room = client.room("r").withTimeout(Duration.ofSeconds(2));
      var began = System.nanoTime();
      assertThrows(UnibusException.class, room::info);
      assertTrue(System.nanoTime() - began < 3_000_000_000L);
    }
  }

  @Test
  void aSupplierThatHangsIsInterrupted() throws Exception {
    var interrupted = new CompletableFuture<Void>();
    var timeout = Duration.ofMillis(300);
    try (var client =
        builder()
            .attemptTimeout(timeout)
            .callTimeout(timeout)
            .tokenSupplier(
                () -> {
                  try {
                    Thread.sleep(60_000);
                  } catch (InterruptedException e) {
                    interrupted.complete(null);
                  }
                  return "t";
                })
            .build()) {
      assertEquals(
          Outcome.AGAIN, assertThrows(UnibusException.class, client.room("r")::info).getOutcome());
      interrupted.get(5, TimeUnit.SECONDS);
    }
  }

  @Test
  void aPublishThatWaitsForTheLookupOfAnotherHasItsOwnTime() throws Exception {
    var lookups = new AtomicInteger();
    service.getRoom =
        answer -> {
          if (lookups.incrementAndGet() > 1) {
            FakeService.succeed(answer, GetRoomResponse.newBuilder().setRoom(service.room).build());
          }
        };
    try (var client =
        builder()
            .attemptTimeout(Duration.ofSeconds(2))
            .callTimeout(Duration.ofSeconds(2))
            .build()) {
      var room = client.room("r");
      room.async().publish(Outgoing.of("a"));
      Thread.sleep(1400);
      room.async().publish(Outgoing.of("b")).get(5, TimeUnit.SECONDS);
    }
  }

  @Test
  void theErrorBeforeAnAttemptThatWasCutIsReported() {
    var calls = new AtomicInteger();
    var status = Errors.status(Status.Code.RESOURCE_EXHAUSTED, "RATE_LIMITED", 0);
    service.getRoom =
        answer -> {
          if (calls.incrementAndGet() == 1) {
            fail(answer, status);
          }
        };
    try (var client = builder().callTimeout(Duration.ofSeconds(2)).build()) {
      var error = assertThrows(UnibusException.class, client.room("r")::info);
      assertEquals("RATE_LIMITED", error.getReason());
      assertTrue(error.isOutcomeUnknown());
      assertEquals(2, calls.get());
    }
  }

  @Test
  void codeThatFollowsACallRunsOnAThreadOfTheClient() {
    try (var client =
        builder()
            .attemptTimeout(Duration.ofMillis(300))
            .callTimeout(Duration.ofMillis(300))
            .tokenSupplier(() -> new CompletableFuture<String>().get())
            .build()) {
      var call = client.room("r").async().info();
      var thread = call.handle((room, e) -> Thread.currentThread().getName()).join();
      assertTrue(thread.startsWith("unibus-"), thread);
    }
  }

  @Test
  void anyTimeIsAllowed() {
    var ever = ChronoUnit.FOREVER.getDuration();
    try (var client =
        builder().attemptTimeout(ever).callTimeout(ever).publishTimeout(ever).build()) {
      client.room("r").info();
      client.room("r").publish(Outgoing.of("a"));
      var options = Publisher.Options.DEFAULT.withCloseTimeout(ever);
      try (var publisher = client.room("r").publisher(options)) {
        publisher.publish(Outgoing.of("b"));
      }
    }
  }

  @Test
  void manyMayCloseAtOnce() {
    for (var i = 0; i < 30; i++) {
      var client = builder().build();
      var publisher = client.room("r").publisher();
      publisher.publish(new byte[1]);
      var closes =
          Stream.generate(() -> CompletableFuture.runAsync(client::close))
              .limit(4)
              .toArray(CompletableFuture<?>[]::new);
      CompletableFuture.allOf(closes).join();
      publisher.closeAsync().join();
    }
  }

  @Test
  void aCallOfAClosedClientIsACancel() {
    var client = builder().build();
    var room = client.room("r");
    room.publish(Outgoing.of("a"));
    client.close();
    client.close();
    assertThrows(CancellationException.class, room::info);
    assertThrows(CancellationException.class, () -> room.publish(Outgoing.of("b")));
    assertThrows(IllegalStateException.class, room::publisher);
    assertThrows(IllegalStateException.class, () -> room.messages("d"));
  }
}
