package io.github.unibusrs;

/** Handles messages. */
@FunctionalInterface
public interface MessageHandler {
  /**
   * Handles a message, and may block. When the method returns, the message is processed (U19). If
   * it throws, the subscription ends with what it threw, and the message comes again (U21).
   */
  void handle(Message message) throws Exception;
}
