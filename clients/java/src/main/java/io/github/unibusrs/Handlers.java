package io.github.unibusrs;

import java.util.ArrayDeque;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.Executor;
import java.util.concurrent.locks.ReentrantLock;
import java.util.function.Consumer;
import java.util.function.Function;
import org.jspecify.annotations.Nullable;

/**
 * Gives what came to the program: messages and events in order, so many at once as it wants (U23,
 * U25). Uses the lock of its feed, and never holds it while code of the program runs.
 */
final class Handlers {
  /** Whether a handler runs on this thread: it cannot wait for itself. */
  private static final ThreadLocal<Boolean> RUNNING = ThreadLocal.withInitial(() -> false);

  /** What waits for the program. */
  sealed interface Item {}

  /** A message. */
  record Arrived(Message message, Progress.Ticket ticket) implements Item {}

  /** An event. */
  record Happened(Event event) implements Item {}

  /** The end; null: in order. */
  record End(@Nullable UnibusException error) implements Item {}

  /** What the feed learns, with its lock. */
  interface Listener {
    /** The program has taken the item: it returned, or threw this. */
    void handled(Item item, @Nullable Throwable thrown);

    /** Everything before the end was taken. */
    void ended(@Nullable UnibusException error);
  }

  private final ReentrantLock lock;
  private final Executor threads;
  private final int concurrency;
  private final AsyncMessageHandler handler;
  private final Consumer<Event> onEvent;
  private final Listener listener;
  private final ArrayDeque<Item> queue = new ArrayDeque<>();
  private boolean dispatching;
  private boolean stopped;
  private int running;

  Handlers(
      ReentrantLock lock,
      Executor threads,
      int concurrency,
      AsyncMessageHandler handler,
      Consumer<Event> onEvent,
      Listener listener) {
    this.lock = lock;
    this.threads = threads;
    this.concurrency = concurrency;
    this.handler = handler;
    this.onEvent = onEvent;
    this.listener = listener;
  }

  static boolean isInHandler() {
    return RUNNING.get();
  }

  void add(Item item) {
    queue.add(item);
    dispatch();
  }

  /** Forgets the messages that were not begun. */
  void dropMessages(Consumer<Message> dropped) {
    for (var item : queue) {
      if (item instanceof Arrived arrived) {
        dropped.accept(arrived.message);
      }
    }
    queue.removeIf(item -> item instanceof Arrived);
  }

  /** Begins nothing any more. */
  void stop() {
    stopped = true;
    queue.clear();
  }

  boolean isStopped() {
    return stopped;
  }

  boolean isIdle() {
    return running == 0;
  }

  private void dispatch() {
    if (!dispatching && !stopped && !queue.isEmpty() && running < concurrency) {
      dispatching = true;
      threads.execute(this::run);
    }
  }

  /** Gives items to the program, one after the other, as long as handlers may begin. */
  private void run() {
    for (var item = next(); item != null; item = next()) {
      var begun = item;
      inHandler(() -> give(begun)).whenComplete((value, e) -> handled(begun, e));
    }
  }

  private @Nullable Item next() {
    lock.lock();
    try {
      var item = stopped || running >= concurrency ? null : queue.peek();
      if (item == null) {
        dispatching = false;
      } else if (item instanceof End end) {
        if (running == 0) {
          stop();
          listener.ended(end.error);
        }
        dispatching = false;
        item = null;
      } else {
        queue.remove();
        running++;
      }
      return item;
    } finally {
      lock.unlock();
    }
  }

  private CompletionStage<?> give(Item item) throws Exception {
    if (item instanceof Arrived arrived) {
      return handler.handle(arrived.message);
    }
    if (item instanceof Happened happened) {
      onEvent.accept(happened.event);
    }
    return CompletableFuture.completedFuture(null);
  }

  private void handled(Item item, @Nullable Throwable thrown) {
    lock.lock();
    try {
      running--;
      listener.handled(item, thrown == null ? null : Futures.cause(thrown));
      dispatch();
    } finally {
      lock.unlock();
    }
  }

  /** Code of the program. */
  private interface Code {
    CompletionStage<?> run() throws Exception;
  }

  private static CompletionStage<?> inHandler(Code code) {
    var before = RUNNING.get();
    RUNNING.set(true);
    try {
      return code.run();
    } catch (Throwable e) {
      return CompletableFuture.failedFuture(e);
    } finally {
      RUNNING.set(before);
    }
  }

  /**
   * A handler that blocks, as one that does not. If several may run at once, each has a thread of
   * its own; the next one is begun when this thread runs, so that they begin in order.
   */
  static AsyncMessageHandler blocking(MessageHandler handler, int concurrency, Executor threads) {
    Function<Message, CompletionStage<?>> here =
        message ->
            inHandler(
                () -> {
                  handler.handle(message);
                  return CompletableFuture.completedFuture(null);
                });
    if (concurrency == 1) {
      return here::apply;
    }
    return message -> {
      var begun = new CountDownLatch(1);
      var stage =
          CompletableFuture.supplyAsync(
                  () -> {
                    begun.countDown();
                    return here.apply(message);
                  },
                  threads)
              .thenCompose(s -> s);
      begun.await();
      return stage;
    };
  }
}
