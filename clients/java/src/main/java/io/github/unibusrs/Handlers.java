package io.github.unibusrs;

import java.util.ArrayDeque;
import java.util.Objects;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.Executor;
import java.util.concurrent.locks.ReentrantLock;
import java.util.function.Consumer;
import org.jspecify.annotations.Nullable;

/**
 * Gives what came to the program: messages and events in order, so many at once as it wants (U23,
 * U25). Uses the lock of its feed, and never holds it while code of the program runs.
 */
final class Handlers {
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

  /**
   * How messages are given to the program.
   *
   * @param concurrency how many handlers may run at once
   * @param blocks whether a handler keeps its thread: the next one then begins on another thread
   */
  record Mode(AsyncMessageHandler handler, int concurrency, boolean blocks) {
    static Mode blocking(MessageHandler handler, int concurrency) {
      AsyncMessageHandler async =
          message -> {
            handler.handle(message);
            return CompletableFuture.completedFuture(null);
          };
      return new Mode(async, concurrency, concurrency > 1);
    }
  }

  private final ReentrantLock lock;
  private final Executor threads;
  private final Mode mode;
  private final Consumer<Event> onEvent;
  private final Listener listener;
  private final ArrayDeque<Item> queue = new ArrayDeque<>();
  private boolean dispatching;
  private boolean stopped;
  private int running;

  Handlers(
      ReentrantLock lock, Executor threads, Mode mode, Consumer<Event> onEvent, Listener listener) {
    this.lock = lock;
    this.threads = threads;
    this.mode = mode;
    this.onEvent = onEvent;
    this.listener = listener;
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
    if (!dispatching && !stopped && !queue.isEmpty() && running < mode.concurrency) {
      dispatching = true;
      threads.execute(this::run);
    }
  }

  /** Gives items to the program, one after the other, as long as handlers may begin. */
  private void run() {
    for (var item = next(); item != null; item = next()) {
      give(item);
      if (isApart(item)) {
        return;
      }
    }
  }

  /** Whether the next item is given on another thread, since this one may be kept. */
  private boolean isApart(Item item) {
    return mode.blocks && item instanceof Arrived;
  }

  private @Nullable Item next() {
    lock.lock();
    try {
      var item = stopped || running >= mode.concurrency ? null : queue.peek();
      if (item instanceof End end) {
        if (running == 0) {
          stop();
          listener.ended(end.error);
        }
        item = null;
      }
      if (item != null) {
        queue.remove();
        running++;
      }
      dispatching = item != null && !isApart(item);
      if (item != null) {
        dispatch();
      }
      return item;
    } finally {
      lock.unlock();
    }
  }

  private void give(Item item) {
    Inside.run(
        this,
        () -> {
          CompletionStage<?> stage;
          try {
            stage = begin(item);
          } catch (Throwable e) {
            stage = CompletableFuture.failedFuture(e);
          }
          stage.whenComplete((value, e) -> handled(item, e));
        });
  }

  private CompletionStage<?> begin(Item item) throws Exception {
    if (item instanceof Arrived arrived) {
      return Objects.requireNonNull(
          mode.handler.handle(arrived.message), "the handler returned null");
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
}
