package io.github.unibusrs;

import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.protobuf.StatusProto;
import java.time.Duration;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.jspecify.annotations.Nullable;

/**
 * The one type of error (U2): a failed call, an error inside a stream, or a failure of the library.
 *
 * <p>A cancel by the program is no error of this type: it is a {@link
 * java.util.concurrent.CancellationException} (U3).
 */
public final class UnibusException extends RuntimeException {
  private static final long serialVersionUID = 1;
  private static final String DOMAIN = "unibus.v1";

  /** The classes of outcomes (U1). */
  public enum Outcome {
    /** The same request may succeed later. */
    AGAIN,
    /** The request may succeed with another token. */
    NEW_TOKEN,
    /** Repeating the request unchanged does not help. */
    FINAL
  }

  private final Status.Code code;
  private final Details details;
  private final Outcome outcome;
  private final boolean outcomeUnknown;
  private final String messageId;

  private UnibusException(
      String message,
      @Nullable Throwable cause,
      Status.Code code,
      Details details,
      Outcome outcome,
      boolean outcomeUnknown,
      String messageId) {
    super(message, cause);
    this.code = code;
    this.details = details;
    this.outcome = outcome;
    this.outcomeUnknown = outcomeUnknown;
    this.messageId = messageId;
  }

  /** The error of a call that ended with this status and these trailers. */
  static UnibusException of(Status status, @Nullable Metadata trailers) {
    var details = Details.NONE;
    try {
      var sent = StatusProto.fromStatusAndTrailers(status, trailers);
      details = Details.of(sent.getDetailsList());
    } catch (IllegalArgumentException malformed) {
      // Then there are no details.
    }
    return of(status.getCode(), describe(status), details, status.getCause());
  }

  /** What happened, with the cause that the library knows: it only says `io exception` itself. */
  private static String describe(Status status) {
    var text = status.getDescription() == null ? "" : status.getDescription();
    var cause = status.getCause();
    while (cause != null && cause.getCause() != null) {
      cause = cause.getCause();
    }
    return cause == null ? text : (text.isEmpty() ? "" : text + ": ") + cause;
  }

  /** The error that a frame of a stream carries. */
  static UnibusException of(com.google.rpc.Status status) {
    return of(
        Status.fromCodeValue(status.getCode()).getCode(),
        status.getMessage(),
        Details.of(status.getDetailsList()),
        null);
  }

  /** A failure that the client itself found. */
  static UnibusException of(Status.Code code, String message) {
    return of(code, message, Details.NONE, null);
  }

  private static UnibusException of(
      Status.Code code, String text, Details details, @Nullable Throwable cause) {
    var outcome = classify(code, details);
    var unknown = leavesOpen(details.reason, outcome);
    return new UnibusException(text, cause, code, details, outcome, unknown, "");
  }

  /** A failure before anything was sent: it is repeated, and nothing was done. */
  static UnibusException notSent(String message, @Nullable Throwable cause) {
    return new UnibusException(
        message, cause, Status.Code.UNAVAILABLE, Details.NONE, Outcome.AGAIN, false, "");
  }

  /** The table of U1. */
  private static Outcome classify(Status.Code code, Details details) {
    var reason = details.reason;
    if (reason != null) {
      var isToken = reason.equals("UNAUTHENTICATED") || reason.equals("CREDENTIALS_EXPIRED");
      var retry = details.retryAfter == null ? Outcome.FINAL : Outcome.AGAIN;
      return isToken ? Outcome.NEW_TOKEN : retry;
    }
    return switch (code) {
      case UNAVAILABLE, DEADLINE_EXCEEDED, CANCELLED, UNKNOWN, INTERNAL, ABORTED -> Outcome.AGAIN;
      case UNAUTHENTICATED -> Outcome.NEW_TOKEN;
      default -> Outcome.FINAL;
    };
  }

  /** Whether the request may have taken effect (U11). */
  private static boolean leavesOpen(@Nullable String reason, Outcome outcome) {
    return reason == null
        ? outcome == Outcome.AGAIN
        : Set.of("OUTCOME_UNKNOWN", "TIMEOUT", "INTERNAL").contains(reason);
  }

  /** The same error, of the class final. */
  UnibusException asFinal() {
    return copy(this, Outcome.FINAL, outcomeUnknown, messageId);
  }

  /** The same error for a message: earlier attempts may have left its outcome unknown. */
  UnibusException forMessage(String id, boolean unknown) {
    return copy(this, outcome, unknown, id);
  }

  /** The same error with the stack of the current thread, for a call that blocks. */
  UnibusException here() {
    return copy(this, outcome, outcomeUnknown, messageId);
  }

  private static UnibusException copy(
      UnibusException e, Outcome outcome, boolean unknown, String messageId) {
    return new UnibusException(e.text(), e, e.code, e.details, outcome, unknown, messageId);
  }

  private String text() {
    return String.valueOf(super.getMessage());
  }

  /** The code of gRPC. */
  public Status.Code getCode() {
    return code;
  }

  /** The reason of {@code ErrorInfo}, as in {@code docs/errors.md}; empty without one. */
  public String getReason() {
    return details.reason == null ? "" : details.reason;
  }

  /** The metadata of {@code ErrorInfo}. */
  public Map<String, String> getMetadata() {
    return details.metadata;
  }

  /** The paths of the wrong fields, from {@code BadRequest}, with what is wrong. */
  public Map<String, String> getFields() {
    return details.fields;
  }

  /** The time of {@code RetryInfo}. */
  public @Nullable Duration getRetryAfter() {
    return details.retryAfter;
  }

  /** The class of the outcome (U1). */
  public Outcome getOutcome() {
    return outcome;
  }

  /** Whether the request may have taken effect although it failed (U11). */
  public boolean isOutcomeUnknown() {
    return outcomeUnknown;
  }

  /** The id of the message that could not be published, to look for it; empty otherwise. */
  public String getMessageId() {
    return messageId;
  }

  @Override
  public String getMessage() {
    var id = messageId.isEmpty() ? "" : " (message id " + messageId + ")";
    var unknown = outcomeUnknown ? ", outcome unknown" : "";
    var reason = getReason().isEmpty() ? "" : " " + getReason();
    return code + reason + ": " + text() + unknown + id;
  }

  /** The details that the service attaches to a status; without a reason it was not the service. */
  private record Details(
      @Nullable String reason,
      Map<String, String> metadata,
      Map<String, String> fields,
      @Nullable Duration retryAfter)
      implements java.io.Serializable {
    static final Details NONE = new Details(null, Map.of(), Map.of(), null);

    static Details of(List<Any> list) {
      ErrorInfo info = null;
      var fields = new LinkedHashMap<String, String>();
      Duration delay = null;
      for (var any : list) {
        try {
          if (any.is(ErrorInfo.class)) {
            var found = any.unpack(ErrorInfo.class);
            info = found.getDomain().equals(DOMAIN) ? found : info;
          } else if (any.is(BadRequest.class)) {
            for (var wrong : any.unpack(BadRequest.class).getFieldViolationsList()) {
              fields.put(wrong.getField(), wrong.getDescription());
            }
          } else if (any.is(RetryInfo.class)) {
            delay = Wire.duration(any.unpack(RetryInfo.class).getRetryDelay());
          }
        } catch (InvalidProtocolBufferException malformed) {
          // A detail that cannot be read is no detail.
        }
      }
      return new Details(
          info == null ? null : info.getReason(),
          info == null ? Map.of() : Map.copyOf(info.getMetadataMap()),
          Collections.unmodifiableMap(fields),
          delay);
    }
  }
}
