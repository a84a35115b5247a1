package io.github.unibusrs;

import static org.junit.jupiter.api.Assertions.assertEquals;

import com.google.protobuf.Any;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import com.google.rpc.Status;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class RoomsTest {
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
