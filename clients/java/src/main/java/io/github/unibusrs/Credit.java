package io.github.unibusrs;

import io.github.unibusrs.v1.ConsumeCredit;
import io.github.unibusrs.v1.ConsumeOpen;

/** How much a subscription reads ahead of its handlers (U24). Does no I/O. */
final class Credit {
  private final int messages;
  private final long bytes;

  /** What was not given back: it waits, or its handlers run. */
  private int heldMessages;

  private long heldBytes;
  private int owedMessages;
  private long owedBytes;

  Credit(int messages, long bytes) {
    this.messages = messages;
    this.bytes = bytes;
  }

  /** A new stream gets what is left. */
  void open(ConsumeOpen.Builder open) {
    owedMessages = 0;
    owedBytes = 0;
    open.setCreditMessages(Math.max(1, messages - heldMessages))
        .setCreditBytes(Math.max(1, bytes - heldBytes));
  }

  void take(Message message) {
    heldMessages++;
    heldBytes += message.payload().size();
  }

  void giveBack(Message message) {
    heldMessages--;
    heldBytes -= message.payload().size();
    owedMessages++;
    owedBytes += message.payload().size();
  }

  /** Whether so much was given back that the service should know. */
  boolean isMuch() {
    return owedMessages * 4L >= messages || owedBytes * 4 >= bytes;
  }

  /** What was given back since the last time. */
  ConsumeCredit.Builder owed() {
    var owed = ConsumeCredit.newBuilder().setMessages(owedMessages).setBytes(owedBytes);
    owedMessages = 0;
    owedBytes = 0;
    return owed;
  }
}
