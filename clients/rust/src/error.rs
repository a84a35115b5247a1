//! What can go wrong, and what to do about it (U1, U2, U3).

use std::{collections::HashMap, error::Error as StdError, fmt, iter, time::Duration};

use prost::Message as _;
use tonic::{Code, Status, TimeoutExpired};
use tonic_types::{ErrorDetail, RpcStatusExt};

/// The domain of the reasons of the service.
const DOMAIN: &str = "unibus.v1";

/// The outcome of a call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What to do after an error (U1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// The same call may succeed later.
    Again,
    /// The same call may succeed with another token.
    NewToken,
    /// The same call does not succeed.
    Final,
}

/// A failed call, an error inside a stream, or a failure of the transport: all are this type (U2).
///
/// Match on [`reason`](Self::reason), then on [`code`](Self::code), never on the message. The reasons are those of
/// [docs/errors.md](https://github.com/unibus-rs/unibus/blob/main/docs/errors.md).
#[derive(Clone)]
pub struct Error(Box<Report>);

/// A wrong field of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldViolation {
    /// The path of the field in the request, such as `retention.max_age`.
    pub field: String,
    /// What is wrong with it.
    pub description: String,
}

#[derive(Clone)]
struct Report {
    code: Code,
    reason: String,
    message: String,
    metadata: HashMap<String, String>,
    fields: Vec<FieldViolation>,
    retry_after: Option<Duration>,
    class: Class,
    is_outcome_unknown: bool,
    is_cancelled: bool,
    message_id: String,
}

impl Error {
    /// The gRPC code.
    #[must_use]
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// The reason that the service gave. Empty if the error is not one of the service.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.0.reason
    }

    /// A text for people.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The values that belong to the reason, such as `last_sequence` of `SEQUENCE_MISMATCH`.
    #[must_use]
    pub fn metadata(&self) -> &HashMap<String, String> {
        &self.0.metadata
    }

    /// The wrong fields of the request.
    #[must_use]
    pub fn fields(&self) -> &[FieldViolation] {
        &self.0.fields
    }

    /// When the same call may succeed, if the service said so.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// What to do after this error (U1). The client has already done it, as far as its time allowed.
    #[must_use]
    pub fn class(&self) -> Class {
        self.0.class
    }

    /// Whether the call may have taken effect although it failed (U11).
    #[must_use]
    pub fn is_outcome_unknown(&self) -> bool {
        self.0.is_outcome_unknown
    }

    /// Whether the program itself ended the call: it closed the client or the publisher (U3).
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.is_cancelled
    }

    /// The id of the message that could not be published. Empty for other errors, and in an ephemeral room. If the outcome
    /// is unknown, a message with this id may be stored (U11).
    #[must_use]
    pub fn message_id(&self) -> &str {
        &self.0.message_id
    }

    /// A failure that the client itself noticed. It has no `ErrorInfo`.
    pub(crate) fn local(code: Code, message: impl Into<String>) -> Self {
        Self::new(code, message.into(), Vec::new())
    }

    /// The program closed what the call belongs to.
    pub(crate) fn cancelled(message: &str) -> Self {
        let mut error = Self::unsent(Code::Cancelled, message).finally();
        error.0.is_cancelled = true;
        error
    }

    /// Nothing was sent.
    pub(crate) fn unsent(code: Code, message: impl Into<String>) -> Self {
        Self::local(code, message).undone()
    }

    /// The call did nothing for which the program would have to look.
    pub(crate) fn undone(mut self) -> Self {
        self.0.is_outcome_unknown = false;
        self
    }

    /// The program gave a value that no call accepts.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::local(Code::InvalidArgument, message)
    }

    /// A `google.rpc.Status` inside a stream.
    pub(crate) fn from_frame(status: &tonic_types::Status) -> Self {
        Self::new(Code::from(status.code), status.message.clone(), details(status))
    }

    /// The error of a call. The outcome stays unknown if that of an earlier attempt was.
    pub(crate) fn after(mut self, was_unknown: bool) -> Self {
        self.0.is_outcome_unknown |= was_unknown;
        self
    }

    /// An attempt that had no time says less than the one before it (U9).
    pub(crate) fn unless_cut_short(self, was_cut_short: bool, last_error: Option<Self>) -> Self {
        match last_error {
            Some(last_error) if was_cut_short && self.is_late() => last_error,
            _ => self,
        }
    }

    /// Whether nothing came in the time of an attempt.
    pub(crate) fn is_late(&self) -> bool {
        self.code() == Code::DeadlineExceeded && self.reason().is_empty()
    }

    /// The error of a message with this id.
    pub(crate) fn of_message(mut self, id: &str, was_unknown: bool) -> Self {
        id.clone_into(&mut self.0.message_id);
        self.after(was_unknown)
    }

    /// The token was refused, and there is no other one.
    pub(crate) fn finally(mut self) -> Self {
        self.0.class = Class::Final;
        self
    }

    fn new(code: Code, message: String, details: Vec<ErrorDetail>) -> Self {
        let (mut info, mut retry_info, mut fields) = (None, None, Vec::new());
        for detail in details {
            match detail {
                ErrorDetail::ErrorInfo(found) if found.domain == DOMAIN => info = Some(found),
                ErrorDetail::RetryInfo(found) => retry_info = Some(found),
                ErrorDetail::BadRequest(wrong) => fields.extend(wrong.field_violations.into_iter().map(Into::into)),
                _ => {}
            }
        }
        let reason = info.as_ref().map(|info| &*info.reason);
        let class = classify(code, reason, retry_info.is_some());
        let is_outcome_unknown = match reason {
            None => class == Class::Again,
            Some(reason) => matches!(reason, "OUTCOME_UNKNOWN" | "TIMEOUT" | "INTERNAL"),
        };
        let (reason, metadata) = info.map(|info| (info.reason, info.metadata)).unwrap_or_default();
        Self(Box::new(Report {
            code,
            reason,
            message,
            metadata,
            fields,
            retry_after: retry_info.and_then(|info| info.retry_delay),
            class,
            is_outcome_unknown,
            is_cancelled: false,
            message_id: String::new(),
        }))
    }
}

/// The details of a status. One that nobody can read hides no other.
fn details(status: &tonic_types::Status) -> Vec<ErrorDetail> {
    let one = |detail| tonic_types::Status { details: vec![detail], ..tonic_types::Status::default() };
    status.details.iter().flat_map(|detail| one(detail.clone()).get_error_details_vec()).collect()
}

impl From<tonic_types::FieldViolation> for FieldViolation {
    fn from(tonic_types::FieldViolation { field, description, .. }: tonic_types::FieldViolation) -> Self {
        Self { field, description }
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        let details = tonic_types::Status::decode(status.details()).map(|status| details(&status)).unwrap_or_default();
        let causes = || iter::successors(status.source(), |&error| error.source());
        let code = match status.code() {
            // the deadline of the call, which is no cancel (U3)
            Code::Cancelled if causes().any(<dyn StdError>::is::<TimeoutExpired>) => Code::DeadlineExceeded,
            // the connection broke, which is no cancel either
            Code::Cancelled if status.source().is_some() => Code::Unavailable,
            // the library's code for a message that is larger than the receive limit (U7); the service's has details
            Code::OutOfRange if details.is_empty() => Code::ResourceExhausted,
            code => code,
        };
        let message = match causes().last().map(ToString::to_string) {
            Some(cause) if !status.message().contains(&cause) => format!("{}: {cause}", status.message()),
            _ => status.message().to_owned(),
        };
        Self::new(code, message, details)
    }
}

/// The class of an outcome (U1). `reason` is that of the service.
fn classify(code: Code, reason: Option<&str>, has_retry_info: bool) -> Class {
    use Code::{Aborted, Cancelled, DeadlineExceeded, Internal, Unauthenticated, Unavailable, Unknown};
    match (reason, code) {
        (Some("UNAUTHENTICATED" | "CREDENTIALS_EXPIRED"), _) | (None, Unauthenticated) => Class::NewToken,
        (None, Unavailable | DeadlineExceeded | Cancelled | Unknown | Internal | Aborted) => Class::Again,
        (Some(_), _) if has_retry_info => Class::Again,
        _ => Class::Final,
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { code, reason, message, .. } = self.0.as_ref();
        match reason.as_str() {
            "" => write!(f, "{code:?}: {message}")?,
            reason => write!(f, "{code:?} {reason}: {message}")?,
        }
        match (self.is_outcome_unknown(), self.message_id()) {
            (false, _) => Ok(()),
            (true, "") => f.write_str("; the outcome is unknown"),
            (true, id) => write!(f, "; the outcome of message {id} is unknown"),
        }
    }
}

/// The same text as `Display`: a `main` that returns the error prints it this way.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl StdError for Error {}

#[cfg(test)]
mod tests {
    use tonic_types::{ErrorDetails, StatusExt};

    use super::*;

    fn service(code: Code, reason: &str, retry: bool) -> Error {
        let mut details = ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new());
        if retry {
            details.set_retry_info(Some(Duration::from_millis(100)));
        }
        Status::with_error_details(code, "text", details).into()
    }

    #[test]
    fn the_reason_decides_never_the_code_alone() {
        use Class::{Again, Final, NewToken};
        for (code, reason, retry, class, unknown) in [
            (Code::Unauthenticated, "UNAUTHENTICATED", false, NewToken, false),
            (Code::Unauthenticated, "CREDENTIALS_EXPIRED", true, NewToken, false),
            (Code::Aborted, "TAKEN_OVER", false, Final, false),
            (Code::Aborted, "ROOM_RECREATED", false, Final, false),
            (Code::Aborted, "CONFLICT", true, Again, false),
            (Code::ResourceExhausted, "RATE_LIMITED", true, Again, false),
            (Code::ResourceExhausted, "LIMIT_REACHED", false, Final, false),
            (Code::DeadlineExceeded, "OUTCOME_UNKNOWN", true, Again, true),
            (Code::DeadlineExceeded, "TIMEOUT", true, Again, true),
            (Code::Internal, "INTERNAL", false, Final, true),
            (Code::Unavailable, "DRAINING", true, Again, false),
        ] {
            let error = service(code, reason, retry);
            assert_eq!((error.class(), error.is_outcome_unknown()), (class, unknown), "{reason}");
            assert_eq!(error.reason(), reason);
        }
    }

    #[test]
    fn without_a_reason_of_the_service_the_code_decides() {
        use Class::{Again, Final, NewToken};
        for (code, class) in [
            (Code::Unavailable, Again),
            (Code::DeadlineExceeded, Again),
            (Code::Cancelled, Again),
            (Code::Unknown, Again),
            (Code::Internal, Again),
            (Code::Aborted, Again),
            (Code::Unauthenticated, NewToken),
            (Code::ResourceExhausted, Final),
            (Code::PermissionDenied, Final),
            (Code::Unimplemented, Final),
        ] {
            let error = Error::from(Status::new(code, "text"));
            assert_eq!((error.class(), error.is_outcome_unknown()), (class, class == Again), "{code:?}");
        }
        let foreign = ErrorDetails::with_error_info("TAKEN_OVER", "other.example", HashMap::new());
        let error = Error::from(Status::with_error_details(Code::Aborted, "text", foreign));
        assert_eq!((error.class(), error.reason()), (Again, ""));
        let (unnamed, may_pass) = (service(Code::Internal, "", false), service(Code::Internal, "", true));
        assert_eq!((unnamed.class(), unnamed.is_outcome_unknown()), (Final, false));
        assert_eq!((may_pass.class(), may_pass.is_outcome_unknown()), (Again, false));
    }

    #[test]
    fn a_status_inside_a_stream_is_the_same_error() {
        let details = ErrorDetails::with_bad_request_violation("publish.message_id", "too long");
        let status = Status::with_error_details(Code::InvalidArgument, "text", details);
        let Ok(frame) = tonic_types::Status::decode(status.details()) else { unreachable!() };
        let error = Error::from_frame(&frame);
        assert_eq!((error.code(), error.class()), (Code::InvalidArgument, Class::Final));
        assert_eq!(error.fields().first().map(|wrong| wrong.field.as_str()), Some("publish.message_id"));
        let unknown = Error::local(Code::Unavailable, "gone").of_message("a", false);
        assert_eq!(unknown.to_string(), "Unavailable: gone; the outcome of message a is unknown");
        assert!(service(Code::Unavailable, "DRAINING", true).of_message("a", true).is_outcome_unknown());
    }

    #[test]
    fn an_error_of_the_library_says_its_cause() {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let mut status = Status::unavailable("tcp connect error");
        status.set_source(std::sync::Arc::new(refused));
        let error = Error::from(status);
        assert_eq!(error.message(), "tcp connect error: connection refused");
        assert_eq!(format!("{error:?}"), error.to_string());
    }

    #[test]
    fn details_that_nobody_can_read_change_nothing() {
        let unreadable = Status::with_details(Code::Unavailable, "text", vec![255; 8].into());
        assert_eq!((Error::from(unreadable.clone()).class(), Error::from(unreadable).reason()), (Class::Again, ""));
        // the service says that this can pass, although not when
        let mut details = ErrorDetails::with_error_info("", DOMAIN, HashMap::new());
        details.set_retry_info(None);
        assert_eq!(Error::from(Status::with_error_details(Code::NotFound, "", details)).class(), Class::Again);
    }

    #[test]
    fn no_other_detail_hides_those_of_the_service() {
        let details = ErrorDetails::with_error_info("RATE_LIMITED", DOMAIN, HashMap::new());
        let service = Status::with_error_details(Code::ResourceExhausted, "text", details);
        let foreign = ErrorDetails::with_error_info("QUOTA", "proxy.example", HashMap::new());
        let foreign = Status::with_error_details(Code::ResourceExhausted, "text", foreign);
        let unreadable =
            prost_types::Any { type_url: tonic_types::RetryInfo::TYPE_URL.to_owned(), value: vec![255; 8] };
        let decode = |status: &Status| tonic_types::Status::decode(status.details()).unwrap_or_default();
        let mut frame = decode(&service);
        frame.details.extend(decode(&foreign).details);
        frame.details.push(unreadable);
        assert_eq!(Error::from_frame(&frame).reason(), "RATE_LIMITED");
        let status = Status::with_details(Code::ResourceExhausted, "text", frame.encode_to_vec().into());
        assert_eq!(Error::from(status).reason(), "RATE_LIMITED");
    }

    #[test]
    fn a_cancel_of_the_program_is_none_of_the_classes_to_repeat() {
        let error = Error::cancelled("the client is closed");
        assert_eq!((error.class(), error.is_cancelled(), error.is_outcome_unknown()), (Class::Final, true, false));
    }
}
