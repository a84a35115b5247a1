//! Errors of requests to the JetStream API, and their meaning for a caller.

use async_nats::jetstream::{self, ErrorCode};

use super::embedded::EmbeddedError;
use crate::{
    error::{Error, Limit, Reason},
    metrics::NatsFailure,
};

/// An error of a request to the JetStream API.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    #[error("not connected")]
    Disconnected,
    #[error("nobody answers")]
    NoResponders,
    #[error("no answer in time")]
    TimedOut,
    #[error(transparent)]
    Refused(#[from] jetstream::Error),
    #[error(transparent)]
    Other(Box<dyn std::error::Error + Send + Sync>),
}

impl ApiError {
    /// The error code, if JetStream refused the request.
    pub(crate) fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused(error) => Some(error.error_code()),
            Self::Disconnected | Self::NoResponders | Self::TimedOut | Self::Other(_) => None,
        }
    }

    /// The kind of the error, for the metrics.
    pub(super) fn failure(&self) -> NatsFailure {
        match self {
            Self::Disconnected => NatsFailure::Disconnected,
            Self::NoResponders => NatsFailure::NoResponders,
            Self::TimedOut => NatsFailure::TimedOut,
            Self::Refused(_) => NatsFailure::Refused,
            Self::Other(_) => NatsFailure::Other,
        }
    }

    pub(crate) fn is(&self, code: ErrorCode) -> bool {
        self.code() == Some(code)
    }
}

impl From<ApiError> for Error {
    fn from(error: ApiError) -> Self {
        match &error {
            ApiError::Disconnected | ApiError::NoResponders => unavailable().because(error),
            ApiError::TimedOut => {
                Self::new(Reason::Timeout, "NATS did not answer in time; calling again is safe").because(error)
            }
            ApiError::Refused(refusal) => refused(refusal).because(error),
            ApiError::Other(_) => Error::internal().because(error),
        }
    }
}

/// Returns true if the server or the account has no storage left.
pub(crate) fn is_full(error: &jetstream::Error) -> bool {
    matches!(
        error.error_code(),
        ErrorCode::STORAGE_RESOURCES_EXCEEDED
            | ErrorCode::ACCOUNT_RESOURCES_EXCEEDED
            | ErrorCode::INSUFFICIENT_RESOURCES
    )
}

/// Returns true if the server's disk has no space. The error code then names only the failed operation.
fn is_disk_full(error: &jetstream::Error) -> bool {
    let text = error.to_string();
    ["no space left on device", "error creating store"].iter().any(|sign| text.contains(sign))
}

/// Returns true if the server has a limit on the window of message ids. The error code covers every wrong setting.
fn is_window_too_long(error: &jetstream::Error) -> bool {
    error.to_string().contains("duplicates window can not be larger then server limit")
}

/// Converts refusals of JetStream that the operation does not handle itself. Codes: nats-server `errors.json`.
fn refused(error: &jetstream::Error) -> Error {
    const SYSTEM_UNAVAILABLE: u64 = 10008;
    match error.error_code() {
        ErrorCode::STREAM_SUBJECT_OVERLAP => Error::new(
            Reason::SubjectTaken,
            "`subject`: belongs to another stream on the NATS server; choose another subject",
        ),
        ErrorCode::MAXIMUM_CONSUMERS_LIMIT => Error::limit_reached(
            Limit::NatsConsumers,
            "the room has as many NATS consumers (durable subscribers and open readers) as JetStream allows; \
             raise max_consumers of the NATS account, and then of the stream of the room",
        ),
        ErrorCode::MAXIMUM_STREAMS_LIMIT => Error::limit_reached(
            Limit::NatsStreams,
            "the NATS account has as many streams as it may have; raise max_streams of the account",
        ),
        _ if is_full(error) || error.error_code() == ErrorCode::STREAM_STORE_FAILED || is_disk_full(error) => {
            Error::new(
                Reason::StorageFull,
                "the NATS server or account has no storage left; remove messages, bound the retention of rooms, or raise max_file",
            )
        }
        ErrorCode::STREAM_INVALID_CONFIG if is_window_too_long(error) => Error::field(
            "dedupe_window",
            "is longer than the NATS server allows; give a shorter one, or raise duplicate_window in its jetstream limits",
        ),
        ErrorCode::STREAM_REPLICAS_NOT_SUPPORTED | ErrorCode::CLUSTER_NO_PEERS => Error::new(
            Reason::ReplicasUnavailable,
            "`replicas`: the NATS cluster has too few servers; give a smaller number",
        ),
        // the stream is being deleted or created again; the next read of its state creates it if it is missing
        ErrorCode::STREAM_NOT_FOUND | ErrorCode(SYSTEM_UNAVAILABLE) => unavailable(),
        _ if error.code() == 503 => unavailable(),
        _ => Error::internal(),
    }
}

pub(crate) fn unavailable() -> Error {
    Error::new(Reason::NatsUnavailable, "NATS cannot be reached at this moment; nothing was done, call again")
}

impl From<EmbeddedError> for Error {
    fn from(error: EmbeddedError) -> Self {
        Self::new(Reason::Internal, error.to_string()).because(error)
    }
}
