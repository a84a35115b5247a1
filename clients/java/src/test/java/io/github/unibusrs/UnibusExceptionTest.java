package io.github.unibusrs;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.protobuf.Any;
import com.google.protobuf.ByteString;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import io.github.unibusrs.UnibusException.Outcome;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.protobuf.StatusProto;
import java.io.IOException;
import java.net.ConnectException;
import java.time.Duration;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class UnibusExceptionTest {
  @ParameterizedTest
  @CsvSource({
    // code, reason, RetryInfo, class, unknown
    "UNAUTHENTICATED, UNAUTHENTICATED, false, NEW_TOKEN, false",
    "UNAUTHENTICATED, CREDENTIALS_EXPIRED, true, NEW_TOKEN, false",
    "ABORTED, CONFLICT, true, AGAIN, false",
    "ABORTED, TAKEN_OVER, false, FINAL, false",
    "RESOURCE_EXHAUSTED, RATE_LIMITED, true, AGAIN, false",
    "RESOURCE_EXHAUSTED, LIMIT_REACHED, false, FINAL, false",
    "UNAVAILABLE, DRAINING, true, AGAIN, false",
    "DEADLINE_EXCEEDED, OUTCOME_UNKNOWN, true, AGAIN, true",
    "DEADLINE_EXCEEDED, TIMEOUT, true, AGAIN, true",
    "INTERNAL, INTERNAL, false, FINAL, true",
    "UNAVAILABLE, '', false, AGAIN, true",
    "DEADLINE_EXCEEDED, '', false, AGAIN, true",
    "CANCELLED, '', false, AGAIN, true",
    "UNKNOWN, '', false, AGAIN, true",
    "INTERNAL, '', false, AGAIN, true",
    "ABORTED, '', false, AGAIN, true",
    "UNAUTHENTICATED, '', false, NEW_TOKEN, false",
    "RESOURCE_EXHAUSTED, '', false, FINAL, false",
    "NOT_FOUND, '', false, FINAL, false",
    "UNIMPLEMENTED, '', false, FINAL, false",
  })
  void everyOutcomeHasOneClass(
      Status.Code code, String reason, boolean retry, Outcome outcome, boolean unknown) {
    var status = com.google.rpc.Status.newBuilder().setCode(code.value());
    if (!reason.isEmpty()) {
      status.addDetails(info(reason, "unibus.v1"));
    }
    if (retry) {
      status.addDetails(Any.pack(retryInfo()));
    }
    var inStream = UnibusException.of(status.build());
    assertEquals(outcome, inStream.getOutcome());
    assertEquals(unknown, inStream.isOutcomeUnknown());

    var failed = StatusProto.toStatusRuntimeException(status.build());
    var ofCall = UnibusException.of(failed.getStatus(), failed.getTrailers());
    assertEquals(outcome, ofCall.getOutcome());
    assertEquals(reason, ofCall.getReason());
  }

  @Test
  void theDetailsOfAnotherDomainDoNotCount() {
    var status =
        com.google.rpc.Status.newBuilder()
            .setCode(Status.Code.UNAVAILABLE.value())
            .addDetails(info("ROOM_NOT_FOUND", "example.com"))
            .build();
    var error = UnibusException.of(status);
    assertEquals("", error.getReason());
    assertEquals(Outcome.AGAIN, error.getOutcome());
  }

  @Test
  void anErrorInfoWithoutAReasonIsOneOfTheService() {
    var status =
        com.google.rpc.Status.newBuilder()
            .setCode(Status.Code.UNAVAILABLE.value())
            .addDetails(info("", "unibus.v1"));
    var error = UnibusException.of(status.build());
    assertEquals(Outcome.FINAL, error.getOutcome());
    assertFalse(error.isOutcomeUnknown());
    status.setCode(Status.Code.NOT_FOUND.value()).addDetails(Any.pack(retryInfo()));
    assertEquals(Outcome.AGAIN, UnibusException.of(status.build()).getOutcome());
  }

  @Test
  void whatIsNotOfTheServiceKeepsItsPause() {
    var status =
        com.google.rpc.Status.newBuilder()
            .setCode(Status.Code.UNAVAILABLE.value())
            .addDetails(Any.pack(retryInfo()))
            .build();
    assertEquals(Duration.ofMillis(1500), UnibusException.of(status).getRetryAfter());
  }

  @Test
  void anErrorTellsAllDetails() {
    var wrong = BadRequest.FieldViolation.newBuilder().setField("room_id").setDescription("empty");
    var status =
        com.google.rpc.Status.newBuilder()
            .setCode(Status.Code.INVALID_ARGUMENT.value())
            .addDetails(Any.pack(BadRequest.newBuilder().addFieldViolations(wrong).build()))
            .addDetails(info("INVALID_FIELD", "unibus.v1"))
            .addDetails(Any.pack(retryInfo()))
            .addDetails(Any.newBuilder().setTypeUrl("type.googleapis.com/x.Unknown").build())
            .build();
    var error = UnibusException.of(status);
    assertEquals(Map.of("room_id", "empty"), error.getFields());
    assertEquals(Map.of("position", "7"), error.getMetadata());
    assertEquals(Duration.ofMillis(1500), error.getRetryAfter());
  }

  @Test
  void detailsThatCannotBeReadAreNoDetails() {
    var trailers = new Metadata();
    var key = Metadata.Key.of("grpc-status-details-bin", Metadata.BINARY_BYTE_MARSHALLER);
    trailers.put(key, new byte[] {1, 2, 3});
    var error = UnibusException.of(Status.NOT_FOUND.withDescription("gone"), trailers);
    assertEquals("NOT_FOUND: gone", error.getMessage());
    var broken = info("X", "unibus.v1").toBuilder().setValue(ByteString.copyFromUtf8("!")).build();
    var status = com.google.rpc.Status.newBuilder().setCode(99).addDetails(broken).build();
    assertEquals("", UnibusException.of(status).getReason());
    assertEquals(Outcome.AGAIN, UnibusException.of(status).getOutcome());
  }

  @Test
  void anErrorOfTheLibraryTellsItsCause() {
    var refused = new IOException(new ConnectException("Connection refused"));
    var status = Status.UNAVAILABLE.withDescription("io exception").withCause(refused);
    assertEquals(
        "UNAVAILABLE: io exception: java.net.ConnectException: Connection refused, outcome unknown",
        UnibusException.of(status, null).getMessage());
  }

  @Test
  void whatAnEarlierAttemptLeftOpenStaysUnknown() {
    var error = UnibusException.of(Status.Code.NOT_FOUND, "gone").forMessage("id", true);
    assertTrue(error.isOutcomeUnknown());
    assertEquals("id", error.getMessageId());
    assertFalse(UnibusException.notSent("no token", null).isOutcomeUnknown());
  }

  private static Any info(String reason, String domain) {
    return Any.pack(
        ErrorInfo.newBuilder()
            .setReason(reason)
            .setDomain(domain)
            .putMetadata("position", "7")
            .build());
  }

  private static RetryInfo retryInfo() {
    return RetryInfo.newBuilder().setRetryDelay(Wire.duration(Duration.ofMillis(1500))).build();
  }
}
