package io.github.unibusrs;

import java.util.concurrent.CompletionStage;

/** Handles messages without blocking. */
@FunctionalInterface
public interface AsyncMessageHandler {
  /**
   * Begins to handle a message; must not block. When the stage completes, the message is processed
   * (U19). If it fails, the subscription ends with its failure, and the message comes again (U21).
   */
  CompletionStage<?> handle(Message message) throws Exception;
}
