"""One type of error for everything that can go wrong (U2), and the class of every outcome (U1)."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

DOMAIN = "unibus.v1"
UNKNOWN_OUTCOME_REASONS = frozenset({"OUTCOME_UNKNOWN", "TIMEOUT", "INTERNAL"})
NEW_TOKEN_REASONS = frozenset({"UNAUTHENTICATED", "CREDENTIALS_EXPIRED"})
AGAIN_CODES = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.ABORTED,
    }
)
_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


class Outcome(enum.Enum):
    """What the client does after an outcome (U1)."""

    AGAIN = "again"
    """The same call may succeed later."""
    NEW_TOKEN = "new_token"  # noqa: S105 - a name, no password
    """The same call may succeed with another token."""
    FINAL = "final"
    """Repeating the call does not help."""


class UnibusError(Exception):
    """A failed call, an error inside a stream, or a failure of the gRPC library (U2).

    Match on `reason`, which is one of the closed list in docs/errors.md, or on `code` where `reason` is empty. Never match
    on the message.
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        *,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        fields: Iterable[str] = (),
        retry_after: float | None = None,
        outcome: Outcome | None = None,
        outcome_unknown: bool = False,
    ) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.reason = reason
        """The reason of the service. Empty if the error does not come from the service."""
        self.metadata = dict(metadata or {})
        """The values that the reason carries, such as `last_sequence` or `limit`."""
        self.fields = tuple(fields)
        """The paths of the wrong fields, for the reason INVALID_FIELD."""
        self.retry_after = retry_after
        """The pause in seconds that the service asks for."""
        self.outcome = classify(code, reason, retry_after) if outcome is None else outcome
        """The class of the outcome (U1)."""
        self.outcome_unknown = outcome_unknown
        """Whether the call may have taken effect although it failed (U11)."""
        self.message_id = ""
        """The id of the message that was published, if this error is about one (U11)."""

    def __str__(self) -> str:
        unknown = ", outcome unknown" if self.outcome_unknown else ""
        reason = f" {self.reason}" if self.reason else ""
        return f"{self.code.name}{reason}: {self.message}{unknown}"

    def __repr__(self) -> str:
        return f"UnibusError({self})"  # as in the events of a subscription


def classify(code: grpc.StatusCode, reason: str, retry_after: float | None, has_info: bool = False) -> Outcome:
    """The table of U1. An outcome with a `reason`, or with `has_info`, has an `ErrorInfo` of the domain."""
    if reason in NEW_TOKEN_REASONS:
        return Outcome.NEW_TOKEN
    if reason or has_info:
        return Outcome.FINAL if retry_after is None else Outcome.AGAIN
    if code in AGAIN_CODES:
        return Outcome.AGAIN
    return Outcome.NEW_TOKEN if code is grpc.StatusCode.UNAUTHENTICATED else Outcome.FINAL


def error_from_status(status: status_pb2.Status) -> UnibusError:
    """The error that a `google.rpc.Status` describes: of a failed call, or inside a stream."""
    code = _CODES.get(status.code, grpc.StatusCode.UNKNOWN)
    info = error_details_pb2.ErrorInfo()
    retry = error_details_pb2.RetryInfo()
    bad_request = error_details_pb2.BadRequest()
    has_info, reason, metadata, retry_after, fields = False, "", {}, None, []
    for detail in status.details:
        try:
            if detail.Unpack(info) and info.domain == DOMAIN:
                has_info, reason, metadata = True, info.reason, dict(info.metadata)
            elif detail.Unpack(retry):
                retry_after = retry.retry_delay.ToNanoseconds() / 1e9
            elif detail.Unpack(bad_request):
                fields = [violation.field for violation in bad_request.field_violations]
        except DecodeError:
            continue  # as if the detail were not there
    outcome = classify(code, reason, retry_after, has_info)
    unknown = reason in UNKNOWN_OUTCOME_REASONS if has_info else outcome is Outcome.AGAIN
    return UnibusError(
        code,
        status.message,
        reason=reason,
        metadata=metadata,
        fields=fields,
        retry_after=retry_after,
        outcome=outcome,
        outcome_unknown=unknown,
    )


def error_from_rpc(error: grpc.aio.AioRpcError) -> UnibusError:
    """The error of a call or stream that gRPC reports as failed."""
    status = status_pb2.Status(code=error.code().value[0], message=error.details() or "")
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            try:
                detailed = status_pb2.Status.FromString(value)
            except DecodeError:
                continue
            if detailed.code == status.code:
                status.details.extend(detailed.details)
    return error_from_status(status)


def timed_out(error: UnibusError) -> bool:
    """Whether no answer came in the time of the attempt."""
    return error.code is grpc.StatusCode.DEADLINE_EXCEEDED and not error.reason


def failure(code: grpc.StatusCode, message: str, *, outcome_unknown: bool = True) -> UnibusError:
    """An error that the client itself makes: a watchdog, a deadline, a supplier of tokens. It is no cancel (U3)."""
    return UnibusError(code, message, outcome_unknown=outcome_unknown)
