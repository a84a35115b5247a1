import copy
import pickle

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from unibus import Outcome, UnibusError
from unibus._errors import error_from_status

AGAIN, NEW_TOKEN, FINAL = Outcome.AGAIN, Outcome.NEW_TOKEN, Outcome.FINAL


def status(code: grpc.StatusCode, reason: str, retry: bool = False, domain: str = "unibus.v1") -> status_pb2.Status:
    made = status_pb2.Status(code=code.value[0], message="text")
    if reason:
        made.details.add().Pack(error_details_pb2.ErrorInfo(reason=reason, domain=domain, metadata={"position": "7"}))
    if retry:
        made.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=Duration(seconds=1, nanos=500_000_000)))
    return made


@pytest.mark.parametrize(
    ("code", "reason", "retry", "outcome", "unknown"),
    [
        ("UNAUTHENTICATED", "UNAUTHENTICATED", False, NEW_TOKEN, False),
        ("UNAUTHENTICATED", "CREDENTIALS_EXPIRED", False, NEW_TOKEN, False),
        ("UNAUTHENTICATED", "CREDENTIALS_EXPIRED", True, NEW_TOKEN, False),
        ("UNAVAILABLE", "NATS_UNAVAILABLE", True, AGAIN, False),
        ("UNAVAILABLE", "DRAINING", True, AGAIN, False),
        ("ABORTED", "CONFLICT", True, AGAIN, False),
        ("ABORTED", "TAKEN_OVER", False, FINAL, False),
        ("ABORTED", "ROOM_RECREATED", False, FINAL, False),
        ("RESOURCE_EXHAUSTED", "RATE_LIMITED", True, AGAIN, False),
        ("RESOURCE_EXHAUSTED", "STORAGE_FULL", False, FINAL, False),
        ("DEADLINE_EXCEEDED", "OUTCOME_UNKNOWN", True, AGAIN, True),
        ("DEADLINE_EXCEEDED", "TIMEOUT", True, AGAIN, True),
        ("INTERNAL", "INTERNAL", False, FINAL, True),
        ("NOT_FOUND", "ROOM_NOT_FOUND", False, FINAL, False),
        ("UNAVAILABLE", "", False, AGAIN, True),
        ("DEADLINE_EXCEEDED", "", False, AGAIN, True),
        ("CANCELLED", "", False, AGAIN, True),
        ("UNKNOWN", "", False, AGAIN, True),
        ("INTERNAL", "", False, AGAIN, True),
        ("ABORTED", "", False, AGAIN, True),
        ("UNAUTHENTICATED", "", False, NEW_TOKEN, False),
        ("RESOURCE_EXHAUSTED", "", False, FINAL, False),
        ("RESOURCE_EXHAUSTED", "", True, FINAL, False),
        ("PERMISSION_DENIED", "", False, FINAL, False),
        ("UNIMPLEMENTED", "", False, FINAL, False),
    ],
)
def test_every_outcome_has_its_class(code: str, reason: str, retry: bool, outcome: Outcome, unknown: bool) -> None:
    error = error_from_status(status(grpc.StatusCode[code], reason, retry))
    assert (error.outcome, error.outcome_unknown) == (outcome, unknown)
    assert (error.code.name, error.reason) == (code, reason)


def test_the_reason_of_another_domain_does_not_count() -> None:
    error = error_from_status(status(grpc.StatusCode.UNAVAILABLE, "TAKEN_OVER", domain="example.com"))
    assert (error.reason, error.outcome) == ("", AGAIN)


@pytest.mark.parametrize(("retry", "outcome"), [(False, FINAL), (True, AGAIN)])
def test_an_error_info_of_the_service_counts_without_a_reason_too(retry: bool, outcome: Outcome) -> None:
    made = status(grpc.StatusCode.UNAVAILABLE, "", retry)
    made.details.add().Pack(error_details_pb2.ErrorInfo(domain="unibus.v1"))
    error = error_from_status(made)
    assert (error.outcome, error.outcome_unknown) == (outcome, False)


def test_details_are_read() -> None:
    made = status(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", retry=True)
    violation = error_details_pb2.BadRequest.FieldViolation(field="room_id", description="too long")
    made.details.add().Pack(error_details_pb2.BadRequest(field_violations=[violation]))
    made.details.add(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff")
    error = error_from_status(made)
    assert error.fields == ("room_id",)
    assert error.metadata == {"position": "7"}
    assert error.retry_after == 1.5


def test_a_code_of_a_newer_grpc_is_unknown() -> None:
    assert error_from_status(status_pb2.Status(code=99)).code is grpc.StatusCode.UNKNOWN


def test_errors_can_be_copied_and_pickled() -> None:
    error = error_from_status(status(grpc.StatusCode.ABORTED, "CONFLICT", retry=True))
    error.message_id = "m"
    for twin in (copy.copy(error), pickle.loads(pickle.dumps(error))):  # noqa: S301
        assert isinstance(twin, UnibusError)
        assert vars(twin) == vars(error)
        assert str(twin) == "ABORTED CONFLICT: text"
        assert repr(twin) == "UnibusError(ABORTED CONFLICT: text)"
