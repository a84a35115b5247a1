package io.github.unibusrs;

import static org.junit.jupiter.api.Assertions.assertEquals;

import com.google.protobuf.Any;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import com.google.rpc.Status;
import io.github.unibusrs.v1.GetRoomResponse;
import java.util.concurrent.atomic.AtomicInteger;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class RoomsTest {
  @Test
  void roomsThatWereNotUsedForLongAreForgotten() throws Exception {
    var asked = new AtomicInteger();
    try (var service = new FakeService();
        var client = UnibusClient.connect(service.address())) {
      service.getRoom =
          answer -> {
            asked.incrementAndGet();
            FakeService.succeed(answer, GetRoomResponse.newBuilder().setRoom(service.room).build());
          };
      for (var i = 0; i < 1500; i++) {
        client.room("room-" + i).publish(new byte[1]);
      }
      client.room("room-1499").publish(new byte[1]);
      assertEquals(1500, asked.get());
      client.room("room-0").publish(new byte[1]);
      assertEquals(1501, asked.get());
    }
  }

  @ParameterizedTest
  @CsvSource({
    "ROOM_NOT_PERSISTED, '', true",
    "INVALID_FIELD, message_id, true",
    "INVALID_FIELD, publish.message_id, true",
    "INVALID_FIELD, payload, false",
    "ROOM_NOT_FOUND, '', false",
  })
  void anErrorThatSaysThatTheRoomHasNoIdsIsRecognised(String reason, String field, boolean noIds) {
    var wrong = BadRequest.FieldViolation.newBuilder().setField(field);
    var info = ErrorInfo.newBuilder().setDomain("unibus.v1").setReason(reason);
    var error =
        UnibusException.of(
            Status.newBuilder()
                .setCode(3)
                .addDetails(Any.pack(info.build()))
                .addDetails(Any.pack(BadRequest.newBuilder().addFieldViolations(wrong).build()))
                .build());
    assertEquals(noIds, Rooms.saysNoIds(error));
  }
}
