//! Makes every `Status` that the service returns.

use std::collections::HashMap;

use prost::Message;
use tonic::Status;
use tonic_types::{ErrorDetails, StatusExt, pb};
use tracing::{debug, error};

use crate::{
    error::{Code, Error, Reason},
    metrics,
};

const DOMAIN: &str = "unibus.v1";
/// Maximum characters of an error message of the gRPC library that a caller receives.
const LIBRARY_MESSAGE_CHARS_MAX: usize = 256;

/// Returns the status that answers `error`, and writes `error` to the log.
#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
pub(crate) fn status(error: Error) -> Status {
    record(&error);
    let metadata: HashMap<_, _> =
        error.metadata().iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
    let mut details = ErrorDetails::new();
    details.set_error_info(error.reason().name(), DOMAIN, metadata);
    for violation in error.violations() {
        details.add_bad_request_violation(&violation.field, &violation.description);
    }
    if let Some(delay) = error.retry_after() {
        details.set_retry_info(Some(delay));
    }
    Status::with_error_details(code(error.reason().code()), error.message(), details)
}

/// The status as a protobuf message, for an outcome in a response that is itself OK.
pub(super) fn as_message(error: Error) -> pb::Status {
    let status = self::status(error);
    // the details of a status are this message, encoded
    pb::Status::decode(status.details()).unwrap_or_else(|_| pb::Status {
        code: status.code().into(),
        message: status.message().to_owned(),
        details: Vec::new(),
    })
}

/// Adds a reason to a status that the gRPC library made; `None` for `OK` and for a status that already has details.
pub(crate) fn explained(status: &Status) -> Option<Status> {
    if status.code() == tonic::Code::Ok || !status.details().is_empty() {
        return None;
    }
    let library_message: String = status.message().chars().take(LIBRARY_MESSAGE_CHARS_MAX).collect();
    let error = match status.code() {
        tonic::Code::Unimplemented if library_message.is_empty() => {
            Error::new(Reason::NotSupported, "the method does not exist; reflection lists the existing ones")
        }
        tonic::Code::Unimplemented => {
            Error::new(Reason::NotSupported, format!("the request cannot be read: {library_message}"))
        }
        // the service's own errors have a reason, so this is a fault that the library has found in the request
        _ => Error::new(Reason::RequestMalformed, format!("the request cannot be read: {library_message}")),
    };
    Some(self::status(error))
}

/// The status in these headers or trailers, for the metrics; `None` when they contain none.
pub(crate) fn outcome_of(headers: &http::HeaderMap) -> Option<metrics::GrpcCode> {
    let status = headers.get(Status::GRPC_STATUS)?;
    let number = status.to_str().ok().and_then(|status| status.trim().parse().ok());
    Some(number.map_or(metrics::GrpcCode::Unknown, metrics::GrpcCode::of))
}

/// The reason in the details of the status in these headers or trailers.
pub(crate) fn reason_of(headers: &http::HeaderMap) -> Option<Reason> {
    let info = Status::from_header_map(headers)?.get_details_error_info()?;
    Reason::ALL.iter().copied().find(|reason| reason.name() == info.reason)
}

/// The status `OK` as a protobuf message.
pub(super) fn ok() -> pb::Status {
    pb::Status::default()
}

/// Logs the error with the causes that the caller does not receive.
fn record(error: &Error) {
    let causes = error.causes();
    let reason = error.reason();
    if reason == Reason::Internal {
        error!(
            reason = reason.name(),
            message = error.message(),
            ?causes,
            "a call failed with an internal error; please report it"
        );
    } else {
        debug!(reason = reason.name(), message = error.message(), ?causes, "a call failed");
    }
}

fn code(code: Code) -> tonic::Code {
    match code {
        Code::Unauthenticated => tonic::Code::Unauthenticated,
        Code::PermissionDenied => tonic::Code::PermissionDenied,
        Code::InvalidArgument => tonic::Code::InvalidArgument,
        Code::NotFound => tonic::Code::NotFound,
        Code::AlreadyExists => tonic::Code::AlreadyExists,
        Code::FailedPrecondition => tonic::Code::FailedPrecondition,
        Code::OutOfRange => tonic::Code::OutOfRange,
        Code::Aborted => tonic::Code::Aborted,
        Code::ResourceExhausted => tonic::Code::ResourceExhausted,
        Code::Unimplemented => tonic::Code::Unimplemented,
        Code::Unavailable => tonic::Code::Unavailable,
        Code::DeadlineExceeded => tonic::Code::DeadlineExceeded,
        Code::Internal => tonic::Code::Internal,
    }
}
