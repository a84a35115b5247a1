//! Makes every `Status` that the service answers with.

use std::{collections::HashMap, error::Error as _};

use prost::Message;
use tonic::Status;
use tonic_types::{ErrorDetails, StatusExt, pb};
use tracing::{debug, error};

use crate::error::{Code, Error, Reason};

/// The domain of every `ErrorInfo`.
const DOMAIN: &str = "unibus.v1";
/// Characters of what the gRPC library says that a caller hears.
const LIBRARY_MESSAGE_CHARS_MAX: usize = 256;

impl From<Error> for Status {
    fn from(error: Error) -> Self {
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
        Self::with_error_details(code(error.reason().code()), error.message(), details)
    }
}

/// The same status as a message of its own, for an outcome within a response.
pub(super) fn in_band(error: Error) -> pb::Status {
    let status = Status::from(error);
    // the details of a status are this very message, encoded
    pb::Status::decode(status.details()).unwrap_or_else(|_| pb::Status {
        code: status.code().into(),
        message: status.message().to_owned(),
        details: Vec::new(),
    })
}

/// The status as the service says it, if it is one of the gRPC library's, which has no reason.
pub(crate) fn explained(status: &Status) -> Option<Status> {
    if status.code() == tonic::Code::Ok || !status.details().is_empty() {
        return None;
    }
    let said: String = status.message().chars().take(LIBRARY_MESSAGE_CHARS_MAX).collect();
    let error = match status.code() {
        tonic::Code::Unimplemented if said.is_empty() => {
            Error::new(Reason::NotSupported, "the method does not exist; reflection lists the existing ones")
        }
        tonic::Code::Unimplemented => Error::new(Reason::NotSupported, format!("the request cannot be read: {said}")),
        // the service's own have a reason, so what is left is what the library finds in a request
        _ => Error::new(Reason::RequestMalformed, format!("the request cannot be read: {said}")),
    };
    Some(error.into())
}

/// That nothing went wrong, as a message.
pub(super) fn ok() -> pb::Status {
    pb::Status::default()
}

/// The log has what the caller does not hear.
fn record(error: &Error) {
    let mut causes = Vec::new();
    let mut source = error.source();
    while let Some(cause) = source {
        causes.push(cause.to_string());
        source = cause.source();
    }
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
