package io.github.unibusrs;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTimeoutPreemptively;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.protobuf.UnsafeByteOperations;
import io.github.unibusrs.UnibusException.Outcome;
import io.github.unibusrs.v1.GetRoomResponse;
import io.github.unibusrs.v1.PublishStreamResponse;
import io.grpc.Status;
import io.grpc.netty.shaded.io.grpc.netty.NettyChannelBuilder;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledThreadPoolExecutor;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.stream.IntStream;
import java.util.stream.Stream;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

@Timeout(value = 30, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
class PublisherTest {
  private static final Duration SHORT = Duration.ofMillis(500);
  private FakeService service;
  private UnibusClient client;

  @BeforeEach
  void start() throws Exception {
    service = new FakeService();
    client = UnibusClient.connect(service.address());
  }

  @AfterEach
  void stop() {
    service.publishStream = (request, answers) -> answers.onNext(FakeService.stored(request));
    client.close();
    service.close();
  }

  private Publisher publisher() {
    return client.room("r").publisher(Publisher.Options.DEFAULT.withCloseTimeout(SHORT));
  }

  private static List<CompletableFuture<PublishResult>> publish(Publisher publisher, int count) {
    return IntStream.range(0, count).mapToObj(i -> publisher.publish(new byte[1])).toList();
  }

  private static UnibusException failure(CompletableFuture<PublishResult> future) throws Exception {
    return Futures.error(future.handle((v, e) -> e).get(10, TimeUnit.SECONDS));
  }

  @Test
  void everyUnansweredMessageFailsWithAnUnknownOutcomeWhenTheClientIsClosed() throws Exception {
    service.publishStream = (request, answers) -> {};
    var futures = publish(publisher(), 1024);
    client.close();
    for (var future : futures) {
      assertTrue(failure(future).isOutcomeUnknown());
    }
  }

  @Test
  void theClientClosesAllItsPublishersAtTheSameTime() {
    service.publishStream = (request, answers) -> {};
    IntStream.range(0, 20).forEach(i -> publish(publisher(), 1));
    assertTimeoutPreemptively(SHORT.multipliedBy(4), client::close);
  }

  @Test
  void aCallbackMayCloseItsPublisherAndMayNotFlushIt() throws Exception {
    var publisher = client.room("r").publisher();
    var flushed = new CompletableFuture<Void>();
    var gate = new CompletableFuture<Void>();
    publisher
        .publish(new byte[1])
        .thenAccept(
            result -> {
              gate.join();
              try {
                publisher.flush();
              } catch (IllegalStateException e) {
                flushed.completeExceptionally(e);
              }
              publisher.close();
            });
    var second = publisher.publish(new byte[1]);
    gate.complete(null);
    assertEquals(2, second.get(5, TimeUnit.SECONDS).sequence());
    assertTrue(flushed.isCompletedExceptionally());
    assertThrows(IllegalStateException.class, () -> publisher.publish(new byte[1]));
  }

  @Test
  void aRoomWithASmallWindowGetsWhatWaitedForANewStream() throws Exception {
    service.room = FakeService.room(true, Duration.ofSeconds(5));
    var broken = new AtomicInteger();
    service.publishStream =
        (request, answers) -> {
          if (request.getCorrelationId() == 2 && broken.getAndIncrement() == 0) {
            throw Status.UNAVAILABLE.asRuntimeException();
          }
          answers.onNext(FakeService.stored(request));
        };
    var publisher = publisher();
    publisher.publish(new byte[1]).get(5, TimeUnit.SECONDS);
    var second = publisher.publish(new byte[1]);
    while (broken.get() == 0) {
      Thread.sleep(1);
    }
    Thread.sleep(20);
    var third = publisher.publish(new byte[1]);
    assertTrue(failure(second).isOutcomeUnknown(), "the window is shorter than an attempt");
    assertEquals(3, third.get(5, TimeUnit.SECONDS).sequence());
  }

  @Test
  void afterRoomNotFoundThePublisherAsksForTheRoomAgain() throws Exception {
    service.room = FakeService.room(false, Duration.ZERO);
    service.publishStream =
        (request, answers) ->
            answers.onNext(
                request.getCorrelationId() == 1
                    ? PublishStreamResponse.newBuilder()
                        .setCorrelationId(1)
                        .setError(Errors.status(Status.Code.NOT_FOUND, "ROOM_NOT_FOUND"))
                        .build()
                    : FakeService.stored(request));
    var publisher = publisher();
    assertEquals("ROOM_NOT_FOUND", failure(publisher.publish(new byte[1])).getReason());
    service.room = FakeService.room(true, Duration.ofMinutes(2));
    publisher.publish(new byte[1]).get(5, TimeUnit.SECONDS);
    assertEquals("", service.published.get(0).getMessageId());
    assertFalse(service.published.get(1).getMessageId().isEmpty());
  }

  @Test
  void aPauseThatIsTooLongForTheMessagesFailsThemAtOnce() throws Exception {
    var limited = Errors.status(Status.Code.RESOURCE_EXHAUSTED, "RATE_LIMITED", 7200);
    service.publishStream =
        (request, answers) ->
            answers.onNext(
                PublishStreamResponse.newBuilder()
                    .setCorrelationId(request.getCorrelationId())
                    .setError(limited)
                    .build());
    var publisher = client.room("r").publisher();
    for (var future : publish(publisher, 2)) {
      var error = failure(future);
      assertEquals("RATE_LIMITED", error.getReason());
      assertFalse(error.isOutcomeUnknown());
    }
    assertTimeoutPreemptively(SHORT.multipliedBy(4), publisher::close);
  }

  @Test
  void theTimeForTheRoomAndTheTokenIsThatOfOneAttempt() throws Exception {
    service.getRoom =
        answer -> {
          sleep(1200);
          FakeService.succeed(answer, GetRoomResponse.newBuilder().setRoom(service.room).build());
        };
    var asked = new AtomicInteger();
    var interrupted = new CompletableFuture<Long>();
    try (var own =
        UnibusClient.builder(service.address())
            .allowPlaintextToken()
            .attemptTimeout(Duration.ofSeconds(2))
            .tokenSupplier(
                () -> {
                  try {
                    Thread.sleep(asked.incrementAndGet() == 2 ? 10_000 : 0);
                  } catch (InterruptedException e) {
                    interrupted.complete(System.nanoTime());
                  }
                  return "t";
                })
            .build()) {
      var began = System.nanoTime();
      var published = own.room("r").publisher().publish(new byte[1]);
      var waited = Duration.ofNanos(interrupted.get(10, TimeUnit.SECONDS) - began);
      assertTrue(waited.compareTo(Duration.ofMillis(2800)) < 0, waited::toString);
      published.get(10, TimeUnit.SECONDS);
    }
  }

  private static void sleep(long millis) {
    try {
      Thread.sleep(millis);
    } catch (InterruptedException e) {
      throw new IllegalStateException(e);
    }
  }

  @Test
  void aMessageWithoutAnAnswerFailsWhenTheTimeOfThePublishIsUp() throws Exception {
    service.publishStream = (request, answers) -> {};
    var time = Duration.ofSeconds(1);
    try (var own = UnibusClient.builder(service.address()).publishTimeout(time).build()) {
      var published = own.room("r").publisher().publish(new byte[1]);
      var error = Futures.error(published.handle((v, e) -> e).get(6, TimeUnit.SECONDS));
      assertTrue(error.isOutcomeUnknown());
    }
  }

  @Test
  void aTokenThatAStreamRefusedIsNotSentAgain() throws Exception {
    var refused = Errors.status(Status.Code.UNAUTHENTICATED, "CREDENTIALS_EXPIRED");
    service.publishStream =
        (request, answers) ->
            answers.onNext(
                PublishStreamResponse.newBuilder()
                    .setCorrelationId(request.getCorrelationId())
                    .setError(refused)
                    .build());
    try (var own =
        UnibusClient.builder(service.address())
            .allowPlaintextToken()
            .tokenSupplier(() -> "t")
            .build()) {
      var error = failure(own.room("r").publisher().publish(new byte[1]));
      assertEquals("CREDENTIALS_EXPIRED", error.getReason());
      assertEquals(Outcome.FINAL, error.getOutcome());
      assertEquals(1, service.published.size());
    }
  }

  @Test
  void aMessageThatIsTooLargeForTheStreamFailsAlone() throws Exception {
    var publisher = publisher();
    var large = Outgoing.of(UnsafeByteOperations.unsafeWrap(new byte[64 << 20]));
    assertEquals(Outcome.FINAL, failure(publisher.publish(large)).getOutcome());
    assertEquals(1, publisher.publish(new byte[1]).get(5, TimeUnit.SECONDS).sequence());
  }

  @Test
  void noMessageOvertakesOneThatWaitsForSpace() throws Exception {
    service.publishStream = (request, answers) -> {};
    var limits = new Publisher.Options(1024, 10, SHORT);
    var publisher = client.room("r").publisher(limits);
    publisher.publish(new byte[8]);
    var waits = new Thread(() -> publisher.publish(new byte[8]));
    waits.start();
    while (waits.getState() != Thread.State.WAITING) {
      sleep(1);
    }
    var overtakes = new CompletableFuture<Void>();
    var later =
        new Thread(
            () -> {
              publisher.publish(new byte[0]);
              overtakes.complete(null);
            });
    later.setUncaughtExceptionHandler((thread, e) -> {});
    waits.setUncaughtExceptionHandler((thread, e) -> {});
    later.start();
    assertThrows(TimeoutException.class, () -> overtakes.get(500, TimeUnit.MILLISECONDS));
    publisher.close();
    later.join();
    waits.join();
  }

  @Test
  void futuresCompleteInOrder() {
    var publisher = publisher();
    var order = new ArrayList<Integer>();
    var all =
        IntStream.range(0, 500)
            .mapToObj(i -> publisher.publish(new byte[1]).thenRun(() -> order.add(i)));
    all.toList().forEach(CompletableFuture::join);
    assertEquals(Stream.iterate(0, i -> i + 1).limit(500).toList(), order);
  }

  @Test
  void limitsThatLetNothingPassAreRefused() {
    var some = Publisher.Options.DEFAULT;
    assertThrows(IllegalArgumentException.class, () -> some.withMessages(0));
    assertThrows(IllegalArgumentException.class, () -> some.withBytes(-1));
  }

  @Test
  void aPublisherHasOneTimer() throws Exception {
    var address = service.address().replace("http://", "");
    var channel = NettyChannelBuilder.forTarget(address).usePlaintext().build();
    var threads = Executors.newCachedThreadPool();
    var timer = new ScheduledThreadPoolExecutor(1);
    var connection =
        new Connection(channel, new Credentials.Source(null, null), threads, threads, timer);
    try (var own = new UnibusClient(new Calls(connection, Settings.DEFAULT))) {
      var publisher = own.room("r").publisher();
      for (var i = 0; i < 200; i++) {
        publisher.publish(new byte[1]).get(5, TimeUnit.SECONDS);
      }
      assertTrue(timer.getQueue().size() <= 2, timer.getQueue().size() + " timers");
    }
  }
}
