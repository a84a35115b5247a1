package io.github.unibusrs;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNotNull;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.protobuf.ByteString;
import io.github.unibusrs.v1.Opened;
import io.grpc.Status;
import java.time.Instant;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class ProgressTest {
  @ParameterizedTest
  @CsvSource({
    // the order in which handlers of 1 to 4 return, and the watermark after each
    "1 2 3 4, 1 2 3 4",
    "4 3 2 1, 0 0 0 4",
    "2 1 4 3, 0 2 2 4",
    "1 3 4 2, 1 1 1 4",
  })
  void anAcknowledgementCoversNoRunningHandler(String returns, String watermarks) {
    var progress = opened(true, 0);
    var tickets =
        List.of(take(progress, 1), take(progress, 2), take(progress, 3), take(progress, 4));
    var acknowledged = 0L;
    for (var i = 0; i < 4; i++) {
      progress.done(tickets.get(Integer.parseInt(returns.split(" ")[i]) - 1));
      acknowledged = progress.owesAck() ? progress.ack() : acknowledged;
      assertEquals(Long.parseLong(watermarks.split(" ")[i]), acknowledged);
    }
    assertFalse(progress.isFlushed());
    progress.acked(4);
    assertTrue(progress.isFlushed());
  }

  @Test
  void sequencesAreUnsigned() {
    var last = Long.MAX_VALUE;
    var progress = opened(true, last - 1);
    progress.done(take(progress, last));
    progress.done(take(progress, last + 1));
    progress.done(take(progress, -1));
    assertTrue(progress.owesAck());
    assertEquals(-1, progress.ack());
    assertNull(progress.take(message(last)));
  }

  @Test
  void afterAReconnectionNothingComesTwice() {
    var progress = opened(true, 0);
    var first = take(progress, 1);
    take(progress, 2);
    progress.done(first);
    progress.ack();
    // The acknowledgement was lost: the service resumes at 0, and it is owed again.
    assertEquals(List.of(new Event.Opened(0, true)), progress.opened(frame(0, true), false));
    assertTrue(progress.owesAck());
    assertNull(progress.take(message(1)));
    assertNull(progress.take(message(2)));
    assertNotNull(progress.take(message(3)));
  }

  @Test
  void aMoveBackDeliversAgainAndForgetsRunningHandlers() {
    var progress = opened(true, 0);
    var running = take(progress, 5);
    assertEquals(List.of(new Event.Moved(2)), progress.opened(frame(2, true), true));
    progress.done(running);
    assertFalse(progress.owesAck());
    assertNotNull(progress.take(message(3)));
  }

  @Test
  void aConfirmationFromBeforeAMoveBackCoversNothingAfterIt() {
    var progress = opened(true, 0);
    progress.done(take(progress, 5));
    progress.ack();
    progress.opened(frame(2, true), true);
    progress.acked(5);
    progress.done(take(progress, 3));
    assertEquals(3, progress.ack());
    assertFalse(progress.isFlushed());
    assertEquals(List.of(new Event.Opened(2, true)), progress.opened(frame(2, true), false));
  }

  @Test
  void aPositionBeforeTheLastConfirmedOneIsAMove() {
    var progress = opened(true, 0);
    progress.done(take(progress, 5));
    progress.ack();
    progress.acked(5);
    var events = progress.opened(frame(4, true), false);
    assertEquals(List.of(new Event.Opened(4, true), new Event.Moved(4)), events);
    assertNotNull(progress.take(message(5)));
  }

  @Test
  void aDeletedSubscriberGoesOnAfterTheLastProcessedMessageOfTheSameLog() {
    var progress = new Progress(true, Start.onlyNew());
    assertEquals(Start.onlyNew().toWire(), progress.start().toWire());
    progress.opened(frame(4, false), false);
    assertEquals(Start.afterCursor("opened 4").toWire(), progress.start().toWire());
    var first = take(progress, 5);
    take(progress, 6);
    progress.done(first);
    assertEquals(Start.afterCursor("c5").toWire(), progress.start().toWire());
    assertEquals(List.of(new Event.Opened(5, false)), progress.opened(frame(5, false), false));
    assertNull(progress.take(message(6)));
    assertNotNull(progress.take(message(7)));
  }

  @Test
  void anExpiredCursorOfADeletedSubscriberShowsANewLog() {
    var progress = opened(true, 0);
    progress.done(take(progress, 5));
    var expired = UnibusException.of(Errors.status(Status.Code.NOT_FOUND, "CURSOR_EXPIRED"));
    assertTrue(progress.isNewLog(expired));
    progress.recreated();
    assertEquals(Start.all().toWire(), progress.start().toWire());
  }

  @Test
  void withoutANameItResumesAfterTheCursor() {
    var progress = new Progress(false, Start.onlyNew());
    assertEquals(Start.onlyNew().toWire(), progress.start().toWire());
    progress.opened(frame(7, false), false);
    assertEquals(Start.afterCursor("opened 7").toWire(), progress.start().toWire());
    take(progress, 10);
    assertEquals(Start.afterCursor("c10").toWire(), progress.start().toWire());
    progress.recreated();
    assertEquals(Start.all().toWire(), progress.start().toWire());
  }

  @Test
  void anEphemeralRoomReportsWhatWasLostMeanwhile() {
    var progress = new Progress(false, null);
    var frame = Opened.getDefaultInstance();
    assertEquals(List.of(new Event.Opened(0, false)), progress.opened(frame, false));
    assertNotNull(progress.take(message(0)));
    assertNotNull(progress.take(message(0)));
    assertEquals(new Event.Gap(0, 0, "DISCONNECTED", 0), progress.opened(frame, false).get(1));
    assertEquals(Start.unset().toWire(), progress.start().toWire());
  }

  @ParameterizedTest
  @CsvSource({
    // delivered up to, gap, what is reported
    "0, 1, 3, 1, 3",
    "3, 1, 3, 0, 0",
    "2, 1, 3, 3, 3",
    "3, 4, 6, 4, 6",
  })
  void aGapIsReportedOnce(long delivered, long from, long to, long reportedFrom, long reportedTo) {
    var progress = opened(false, 0);
    if (delivered > 0) {
      take(progress, delivered);
    }
    var gap = progress.missing(new Event.Gap(from, to, "PURGED", 0));
    assertEquals(
        reportedTo == 0 ? null : new Event.Gap(reportedFrom, reportedTo, "PURGED", 0), gap);
    assertNull(progress.missing(new Event.Gap(from, to, "PURGED", 0)));
  }

  private static Progress opened(boolean durable, long position) {
    var progress = new Progress(durable, null);
    progress.opened(frame(position, false), false);
    return progress;
  }

  private static Opened frame(long position, boolean resumed) {
    return Opened.newBuilder()
        .setPosition(position)
        .setFirstSequence(1)
        .setLastSequence(-1)
        .setResumed(resumed)
        .setCursor("opened " + position)
        .build();
  }

  private static Message message(long sequence) {
    return new Message(sequence, ByteString.EMPTY, Map.of(), Instant.EPOCH, "", "", "c" + sequence);
  }

  private static Progress.Ticket take(Progress progress, long sequence) {
    var ticket = progress.take(message(sequence));
    assertNotNull(ticket);
    return ticket;
  }
}
