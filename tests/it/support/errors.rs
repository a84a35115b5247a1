//! What a status says beside its code: the reason, the wrong fields, the metadata.

use tonic::{Code, Status};
use tonic_types::StatusExt;

/// A status in a message as one that ends a call.
pub(crate) fn status(message: &tonic_types::pb::Status) -> Status {
    let details = prost::Message::encode_to_vec(message);
    Status::with_details(message.code.into(), message.message.clone(), details.into())
}

/// The `ErrorInfo` reason; panics when there is none, or not of this service.
pub(crate) fn reason(status: &Status) -> String {
    let info = status.get_details_error_info().unwrap_or_else(|| panic!("no ErrorInfo in {status:?}"));
    assert_eq!(info.domain, "unibus.v1", "{status:?}");
    info.reason
}

/// The fields that `BadRequest` names, in its order.
pub(crate) fn fields(status: &Status) -> Vec<String> {
    let violations = status.get_details_bad_request();
    let violations = violations.map(|bad_request| bad_request.field_violations);
    violations.unwrap_or_default().into_iter().map(|violation| violation.field).collect()
}

/// Whether `BadRequest` names this field, or an entry or a part of it (`headers` for `headers[x]`).
pub(crate) fn names_field(status: &Status, field: &str) -> bool {
    fields(status)
        .iter()
        .any(|named| named.strip_prefix(field).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '['])))
}

/// One entry of the `ErrorInfo` metadata; panics when it is not there.
pub(crate) fn metadata(status: &Status, key: &str) -> String {
    let info = status.get_details_error_info();
    info.and_then(|mut info| info.metadata.remove(key)).unwrap_or_else(|| panic!("no metadata {key} in {status:?}"))
}

/// Asserts that a call failed with this code and reason, and gives the status back for a closer look.
#[track_caller]
pub(crate) fn assert_status<T: std::fmt::Debug>(result: Result<T, Status>, code: Code, expected: &str) -> Status {
    let status = result.expect_err(&format!("{code:?} {expected}"));
    assert_eq!(status.code(), code, "{status:?}");
    assert_eq!(reason(&status), expected, "{status:?}");
    status
}

/// Asserts that a call was refused because of this field, and of no other.
#[track_caller]
pub(crate) fn assert_field<T: std::fmt::Debug>(result: Result<T, Status>, field: &str, case: &str) {
    let status = result.expect_err(case);
    let status = assert_status::<()>(Err(status), Code::InvalidArgument, "INVALID_FIELD");
    assert!(names_field(&status, field), "{case}: {status:?}");
    assert_eq!(fields(&status).len(), 1, "{case}: {status:?}");
}
