package io.github.unibusrs;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertInstanceOf;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTimeoutPreemptively;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.github.unibusrs.v1.AcknowledgeResponse;
import io.github.unibusrs.v1.CaughtUp;
import io.github.unibusrs.v1.ConsumeCommand;
import io.github.unibusrs.v1.ConsumeRejected;
import io.github.unibusrs.v1.ConsumeRequest;
import io.github.unibusrs.v1.ConsumeResponse;
import io.grpc.Status;
import io.grpc.stub.StreamObserver;
import java.time.Duration;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import java.util.stream.LongStream;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

@Timeout(value = 30, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
class SubscriptionTest {
  private static final Duration LIMIT = Duration.ofSeconds(5);
  private FakeService service;
  private UnibusClient client;

  @BeforeEach
  void start() throws Exception {
    service = new FakeService();
    service.consume = (request, frames) -> serve(request, frames, Duration.ofSeconds(5));
    client = UnibusClient.connect(service.address());
  }

  @AfterEach
  void stop() {
    client.close();
    service.close();
  }

  /** Four messages, and a confirmation of each acknowledgement. */
  private static void serve(
      ConsumeRequest request, StreamObserver<ConsumeResponse> frames, Duration heartbeat) {
    if (request.hasOpen()) {
      frames.onNext(FakeService.opened(0, heartbeat));
      LongStream.rangeClosed(1, 4).forEach(i -> frames.onNext(FakeService.message(i)));
      if (request.getOpen().getSubscribe().getUntilCaughtUp()) {
        frames.onNext(
            ConsumeResponse.newBuilder().setCaughtUp(CaughtUp.newBuilder().setPosition(4)).build());
        frames.onNext(
            ConsumeResponse.newBuilder()
                .setClosed(com.google.rpc.Status.getDefaultInstance())
                .build());
      }
    } else if (request.hasAck()) {
      var acked = AcknowledgeResponse.newBuilder().setPosition(request.getAck().getSequence());
      frames.onNext(ConsumeResponse.newBuilder().setAcked(acked).build());
    }
  }

  private SubscriptionBuilder subscription() {
    return client.room("r").subscription().durable("d");
  }

  private void assertCloses() {
    assertTimeoutPreemptively(LIMIT, client::close);
  }

  @Test
  void aLoopThatWasLeftDoesNotHoldBackTheClose() {
    for (var message : client.room("r").messages("d")) {
      if (message.sequence() == 2) {
        break;
      }
    }
    client.close();
    assertTrue(service.commands.stream().allMatch(c -> c.getAck().getSequence() <= 1));
  }

  @Test
  void aLoopThatWasNotBegunDoesNotHoldBackTheClose() throws Exception {
    var messages = client.room("r").messages("d");
    Thread.sleep(300);
    assertCloses();
    assertTrue(!messages.hasNext());
  }

  @Test
  void aLoopOnAThreadThatEndedDoesNotHoldBackTheClose() throws Exception {
    var messages = client.room("r").messages("d");
    var loop = new Thread(messages::next);
    loop.start();
    loop.join();
    assertCloses();
  }

  @Test
  void theCloseWaitsForTheBodyOfALoopOnAnotherThread() throws Exception {
    var inBody = new CountDownLatch(1);
    var leave = new CountDownLatch(1);
    var loop =
        CompletableFuture.runAsync(
            () -> {
              for (var message : client.room("r").messages("d")) {
                inBody.countDown();
                assertEquals(1, message.sequence());
                Futures.await(CompletableFuture.runAsync(() -> await(leave)));
              }
            });
    await(inBody);
    var closed = CompletableFuture.runAsync(client::close);
    Thread.sleep(200);
    assertTrue(!closed.isDone());
    leave.countDown();
    closed.get(5, TimeUnit.SECONDS);
    loop.get(5, TimeUnit.SECONDS);
    assertEquals(1, service.commands.get(service.commands.size() - 1).getAck().getSequence());
  }

  private static void await(CountDownLatch latch) {
    try {
      assertTrue(latch.await(10, TimeUnit.SECONDS));
    } catch (InterruptedException e) {
      throw new IllegalStateException(e);
    }
  }

  @Test
  void slowHandlersOfABacklogAreNoReasonToSubscribeAgain() throws Exception {
    service.consume = (request, frames) -> serve(request, frames, Duration.ofMillis(300));
    var events = new CopyOnWriteArrayList<Event>();
    var handled = new CopyOnWriteArrayList<Long>();
    var running =
        subscription()
            .untilCaughtUp()
            .acknowledge(1, Duration.ofMillis(10))
            .onEvent(events::add)
            .start(
                message -> {
                  Thread.sleep(800);
                  handled.add(message.sequence());
                });
    running.done().get(15, TimeUnit.SECONDS);
    assertEquals(List.of(1L, 2L, 3L, 4L), handled);
    assertEquals(List.of(new Event.Opened(0, false), new Event.CaughtUp(4)), events);
    client.close();
  }

  @Test
  void severalHandlersMayShareOneThread() throws Exception {
    var thread = Executors.newSingleThreadExecutor();
    try (var single = UnibusClient.builder(service.address()).handlerExecutor(thread).build()) {
      var all = new CountDownLatch(4);
      single.room("r").subscription().concurrency(8).start(message -> all.countDown());
      assertTrue(all.await(5, TimeUnit.SECONDS));
    } finally {
      thread.shutdown();
    }
  }

  @Test
  void anExecutorThatIsShutDownStopsNothing() throws Exception {
    var executor = Executors.newSingleThreadExecutor();
    executor.shutdown();
    var all = new CountDownLatch(4);
    var own = UnibusClient.builder(service.address()).handlerExecutor(executor).build();
    own.room("r").subscribe("d", message -> all.countDown());
    assertTrue(all.await(5, TimeUnit.SECONDS));
    assertTimeoutPreemptively(LIMIT, own::close);
  }

  @Test
  @SuppressWarnings("NullAway")
  void aHandlerThatReturnsNullEndsTheSubscription() {
    var running = subscription().startAsync(message -> null);
    var failure =
        assertThrows(ExecutionException.class, () -> running.done().get(5, TimeUnit.SECONDS));
    assertInstanceOf(NullPointerException.class, failure.getCause());
    assertCloses();
  }

  @Test
  void whileTheClientClosesNothingNewBegins() throws Exception {
    var inHandler = new CountDownLatch(1);
    var leave = new CountDownLatch(1);
    client
        .room("r")
        .subscribe(
            "d",
            message -> {
              inHandler.countDown();
              await(leave);
            });
    await(inHandler);
    var closed = CompletableFuture.runAsync(client::close);
    Thread.sleep(200);
    assertThrows(IllegalStateException.class, () -> client.room("r").messages("e"));
    assertThrows(IllegalStateException.class, () -> client.room("r").publisher());
    leave.countDown();
    closed.get(5, TimeUnit.SECONDS);
  }

  @Test
  void aHandlerMayPublishWhileTheClientCloses() throws Exception {
    var publisher = client.room("r").publisher();
    var inHandler = new CountDownLatch(1);
    var leave = new CountDownLatch(1);
    var running =
        subscription()
            .start(
                message -> {
                  inHandler.countDown();
                  await(leave);
                  publisher.publish(message.bytes());
                });
    await(inHandler);
    var closed = CompletableFuture.runAsync(client::close);
    Thread.sleep(200);
    leave.countDown();
    closed.get(5, TimeUnit.SECONDS);
    running.done().get(5, TimeUnit.SECONDS);
    assertEquals(1, service.published.size());
  }

  @Test
  void aHandlerMayCloseItsSubscriptionAndItsClient() throws Exception {
    var begun = new CompletableFuture<Subscription>();
    var running =
        subscription()
            .start(
                message -> {
                  begun.get().close();
                  client.close();
                });
    begun.complete(running);
    running.done().get(5, TimeUnit.SECONDS);
    assertCloses();
  }

  @Test
  void codeThatFollowsTheEndMayCloseTheSubscription() throws Exception {
    var running = subscription().start(message -> {});
    var closed = running.done().thenRun(running::close);
    running.closeAsync().get(5, TimeUnit.SECONDS);
    closed.get(5, TimeUnit.SECONDS);
  }

  @Test
  void aSupplierThatBlocksHoldsBackNothing() {
    var leave = new CountDownLatch(1);
    var own =
        UnibusClient.builder(service.address())
            .allowPlaintextToken()
            .tokenSupplier(
                () -> {
                  await(leave);
                  return "t";
                })
            .build();
    assertTimeoutPreemptively(
        LIMIT,
        () -> {
          own.room("r").subscribe("d", message -> {});
          own.close();
        });
    leave.countDown();
  }

  @Test
  void aRefusedAcknowledgementIsRepeatedAfterAPause() throws Exception {
    var refusals = new CopyOnWriteArrayList<Long>();
    service.consume =
        (request, frames) -> {
          if (request.hasOpen()) {
            frames.onNext(FakeService.opened(0, Duration.ofSeconds(5)));
            LongStream.rangeClosed(1, 20).forEach(i -> frames.onNext(FakeService.message(i)));
          } else if (request.hasAck()) {
            refusals.add(System.nanoTime());
            var busy = Errors.status(Status.Code.RESOURCE_EXHAUSTED, "RATE_LIMITED", 1);
            var rejected =
                ConsumeRejected.newBuilder()
                    .setCommand(ConsumeCommand.CONSUME_COMMAND_ACK)
                    .setError(busy);
            frames.onNext(ConsumeResponse.newBuilder().setRejected(rejected).build());
          }
        };
    subscription()
        .acknowledge(1, Duration.ofMillis(10))
        .closeTimeout(Duration.ofMillis(100))
        .start(message -> Thread.sleep(50));
    Thread.sleep(1700);
    assertEquals(2, refusals.size());
  }

  @Test
  void wrongArgumentsAreRefusedWhereTheyAreGiven() {
    assertThrows(IllegalArgumentException.class, () -> subscription().concurrency(0));
    assertThrows(IllegalArgumentException.class, () -> subscription().readAhead(0, 1));
    assertCloses();
  }
}
