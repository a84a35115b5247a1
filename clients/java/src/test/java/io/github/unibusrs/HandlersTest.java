package io.github.unibusrs;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertSame;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.protobuf.ByteString;
import java.time.Instant;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.Executor;
import java.util.concurrent.locks.ReentrantLock;
import org.jspecify.annotations.Nullable;
import org.junit.jupiter.api.Test;

class HandlersTest {
  private final List<String> seen = new ArrayList<>();
  private final List<CompletableFuture<Void>> running = new ArrayList<>();
  private @Nullable Throwable thrown;
  private boolean ended;

  @Test
  void messagesAndEventsComeInOrderAndOneAtATime() {
    var handlers = handlers(1);
    add(handlers, 1);
    handlers.add(new Handlers.Happened(new Event.CaughtUp(1)));
    add(handlers, 2);
    assertEquals(List.of("1"), seen);
    running.get(0).complete(null);
    assertEquals(List.of("1", "CaughtUp[position=1]", "2"), seen);
  }

  @Test
  void soManyHandlersRunAtOnceAsAllowed() {
    var handlers = handlers(2);
    add(handlers, 1);
    add(handlers, 2);
    add(handlers, 3);
    assertEquals(List.of("1", "2"), seen);
    running.get(1).complete(null);
    assertEquals(List.of("1", "2", "3"), seen);
  }

  @Test
  void theEndWaitsForRunningHandlers() {
    var handlers = handlers(2);
    add(handlers, 1);
    handlers.add(new Handlers.End(null));
    assertFalse(ended);
    running.get(0).complete(null);
    assertTrue(ended);
  }

  @Test
  void whatAHandlerThrowsIsToldAndAStopBeginsNothing() {
    var handlers = handlers(1);
    add(handlers, 1);
    add(handlers, 2);
    handlers.stop();
    var failure = new IllegalStateException("planned");
    running.get(0).completeExceptionally(failure);
    assertSame(failure, thrown);
    assertEquals(List.of("1"), seen);
    assertTrue(handlers.isIdle());
  }

  @Test
  void aBlockingHandlerThatThrowsFailsItsMessage() {
    var failure = new Exception("planned");
    MessageHandler throwing =
        message -> {
          assertTrue(Inside.any());
          throw failure;
        };
    for (var concurrency : List.of(1, 2)) {
      var handlers = handlers(Handlers.Mode.blocking(throwing, concurrency));
      add(handlers, 1);
      assertSame(failure, thrown);
      assertTrue(handlers.isIdle());
    }
    assertFalse(Inside.any());
  }

  @Test
  void blockingHandlersThatMayRunAtOnceEachHaveAThread() {
    var tasks = new ArrayDeque<Runnable>();
    var handlers =
        handlers(
            Handlers.Mode.blocking(
                message -> {
                  seen.add("begin " + message.sequence());
                  while (!tasks.isEmpty()) {
                    tasks.remove().run();
                  }
                  seen.add("end " + message.sequence());
                },
                2),
            tasks::add);
    add(handlers, 1);
    add(handlers, 2);
    handlers.add(new Handlers.Happened(new Event.CaughtUp(2)));
    tasks.remove().run();
    assertEquals(List.of("begin 1", "begin 2", "end 2", "CaughtUp[position=2]", "end 1"), seen);
  }

  private Handlers handlers(int concurrency) {
    AsyncMessageHandler handler =
        message -> {
          seen.add(String.valueOf(message.sequence()));
          running.add(new CompletableFuture<>());
          return running.get(running.size() - 1);
        };
    return handlers(new Handlers.Mode(handler, concurrency, false));
  }

  private Handlers handlers(Handlers.Mode mode) {
    return handlers(mode, Runnable::run);
  }

  private Handlers handlers(Handlers.Mode mode, Executor threads) {
    var listener =
        new Handlers.Listener() {
          @Override
          public void handled(Handlers.Item item, @Nullable Throwable e) {
            thrown = e;
          }

          @Override
          public void ended(@Nullable UnibusException error) {
            ended = true;
          }
        };
    return new Handlers(
        new ReentrantLock(), threads, mode, event -> seen.add(event.toString()), listener);
  }

  private static void add(Handlers handlers, long sequence) {
    var ticket = new Progress(false, null).take(message(sequence));
    if (ticket != null) {
      handlers.add(new Handlers.Arrived(message(sequence), ticket));
    }
  }

  private static Message message(long sequence) {
    return new Message(sequence, ByteString.EMPTY, Map.of(), Instant.EPOCH, "", "", "");
  }
}
