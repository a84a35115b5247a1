package io.github.unibusrs;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNotNull;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.Test;

class UnansweredTest {
  @Test
  void afterABreakMessagesAreSentAgainInTheirOrderBeforeLaterOnes() {
    var unanswered = filled(4);
    sendAll(unanswered, 3);
    var first = unanswered.firstSent();
    assertNotNull(first);
    unanswered.remove(first);
    unanswered.repeatAll();
    assertEquals(List.of(2L, 3L, 4L), sendAll(unanswered, 9));
  }

  @Test
  void aRefusedMessageIsSentAgainInItsPlace() {
    var unanswered = filled(4);
    sendAll(unanswered, 4);
    var second = unanswered.all(entry -> true).get(1);
    var third = unanswered.all(entry -> true).get(2);
    unanswered.repeat(second);
    unanswered.remove(third);
    unanswered.repeatAll();
    assertEquals(List.of(1L, 2L, 4L), sendAll(unanswered, 9));
  }

  @Test
  void theBoundsCountMessagesAndBytes() {
    var options = new Publisher.Options(3, 10, Duration.ZERO);
    var unanswered = new Unanswered();
    assertFalse(unanswered.isFull(options, 99), "one message may be larger than the bound");
    unanswered.add(Outgoing.of("123456"));
    assertFalse(unanswered.isFull(options, 4));
    assertTrue(unanswered.isFull(options, 5));
    unanswered.add(Outgoing.of(""));
    unanswered.add(Outgoing.of(""));
    assertTrue(unanswered.isFull(options, 0));
    unanswered.all(entry -> true).forEach(unanswered::remove);
    assertTrue(unanswered.isEmpty());
    assertFalse(unanswered.isFull(options, 10));
    assertNull(unanswered.oldest(0));
  }

  private static Unanswered filled(int messages) {
    var unanswered = new Unanswered();
    for (var i = 0; i < messages; i++) {
      unanswered.add(Outgoing.of("x"));
    }
    return unanswered;
  }

  private static List<Long> sendAll(Unanswered unanswered, int most) {
    var numbers = new ArrayList<Long>();
    for (var i = 0; i < most; i++) {
      var entry = unanswered.nextToSend();
      if (entry == null) {
        break;
      }
      entry.isSent = true;
      numbers.add(entry.number);
    }
    return numbers;
  }
}
