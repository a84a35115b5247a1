package io.github.unibusrs;

import com.google.protobuf.Any;
import com.google.protobuf.Duration;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import com.google.rpc.Status;

/** Statuses as the service sends them. */
final class Errors {
  private Errors() {}

  static Status status(io.grpc.Status.Code code, String reason) {
    var info = ErrorInfo.newBuilder().setDomain("unibus.v1").setReason(reason);
    return Status.newBuilder().setCode(code.value()).addDetails(Any.pack(info.build())).build();
  }

  static Status status(io.grpc.Status.Code code, String reason, long retrySeconds) {
    var retry =
        RetryInfo.newBuilder().setRetryDelay(Duration.newBuilder().setSeconds(retrySeconds));
    return status(code, reason).toBuilder().addDetails(Any.pack(retry.build())).build();
  }
}
