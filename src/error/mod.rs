//! The one error type of the service: a closed set of reasons, the message for the caller, and the cause for the log.
//!
//! Owns the gRPC code and HTTP status of each reason, whether a retry helps, and what happened to state. Refuses to
//! know tonic and async-nats: `grpc/` makes the statuses, `store/` makes errors from NATS.

mod limit;
mod path;
mod violations;

use std::{borrow::Cow, error::Error as StdError, fmt, time::Duration};

use crate::limits::{ERROR_MESSAGE_BYTES_MAX, ERROR_VALUE_BYTES_MAX};

pub(crate) use self::limit::Limit;
pub use self::violations::{Violation, Violations};

/// A result with the error type of the service.
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Cause = Box<dyn StdError + Send + Sync>;

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal, $code:ident;)+) => {
        /// Why a call failed. The set is closed, so clients may match on the names.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason { $($(#[doc = $doc])+ $variant,)+ }

        impl Reason {
            /// All reasons, in the order of the documentation.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The name in `google.rpc.ErrorInfo.reason`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }

            /// The gRPC code of the reason.
            #[must_use]
            pub const fn code(self) -> Code {
                match self { $(Self::$variant => Code::$code),+ }
            }

            /// The meaning of the reason, in one line.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+).trim_ascii(),)+ }
            }
        }
    };
}

reasons! {
    /// The call has no valid token or client certificate. Nothing was done.
    Unauthenticated = "UNAUTHENTICATED", Unauthenticated;
    /// The token or certificate has expired. If an open stream ends with this reason, `position` in the metadata is its position. Call again with new credentials.
    CredentialsExpired = "CREDENTIALS_EXPIRED", Unauthenticated;
    /// The caller is not a member of the room, or its role does not allow the call. Nothing was done. An open call ends with this reason when its caller is removed from the room.
    PermissionDenied = "PERMISSION_DENIED", PermissionDenied;
    /// The durable subscriber does not belong to the caller. Nothing was done.
    SubscriberForeign = "SUBSCRIBER_FOREIGN", PermissionDenied;
    /// Fields are wrong. `BadRequest` names them. Nothing was done.
    InvalidField = "INVALID_FIELD", InvalidArgument;
    /// The message is larger than the NATS server or the room allows. Nothing was stored.
    PayloadTooLarge = "PAYLOAD_TOO_LARGE", InvalidArgument;
    /// The request is not a message of its method, or it is compressed in a way that it does not declare. Nothing was done.
    RequestMalformed = "REQUEST_MALFORMED", InvalidArgument;
    /// The cursor is not a cursor of this room.
    CursorInvalid = "CURSOR_INVALID", InvalidArgument;
    /// The room does not exist, or was deleted.
    RoomNotFound = "ROOM_NOT_FOUND", NotFound;
    /// The room has no such durable subscriber.
    SubscriberNotFound = "SUBSCRIBER_NOT_FOUND", NotFound;
    /// The room has no message with this sequence.
    MessageNotFound = "MESSAGE_NOT_FOUND", NotFound;
    /// The health service does not know the named service.
    ServiceUnknown = "SERVICE_UNKNOWN", NotFound;
    /// The room has no such member.
    MemberNotFound = "MEMBER_NOT_FOUND", NotFound;
    /// The session has ended, or belongs to another caller. Open a new session.
    SessionNotFound = "SESSION_NOT_FOUND", NotFound;
    /// The room is open on this Consume stream, or its `closed` frame has not been sent yet.
    SubscriptionOpen = "SUBSCRIPTION_OPEN", AlreadyExists;
    /// The room exists with other settings, or the caller is not a member of it.
    RoomExists = "ROOM_EXISTS", AlreadyExists;
    /// The subject belongs to another room or to another NATS stream.
    SubjectTaken = "SUBJECT_TAKEN", AlreadyExists;
    /// A NATS stream or consumer with the required name exists, and its settings do not allow its use.
    StreamIncompatible = "STREAM_INCOMPATIBLE", AlreadyExists;
    /// A message of an atomic batch was stored earlier, but not as part of this batch. In the metadata, `index` is its place in the batch, and `sequence` is the sequence under which it is stored. Nothing was stored.
    BatchDuplicate = "BATCH_DUPLICATE", AlreadyExists;
    /// The last sequence of the room is not `expected_last_sequence`. `last_sequence` in the metadata is the last sequence. Nothing was stored.
    SequenceMismatch = "SEQUENCE_MISMATCH", FailedPrecondition;
    /// `ttl` is set, and the room does not have `allow_message_ttl`. Nothing was stored.
    TtlNotAllowed = "TTL_NOT_ALLOWED", FailedPrecondition;
    /// The cursor belongs to an earlier log of the room, which was deleted.
    CursorExpired = "CURSOR_EXPIRED", FailedPrecondition;
    /// The NATS server runs without JetStream, so it cannot store messages.
    JetstreamMissing = "JETSTREAM_MISSING", FailedPrecondition;
    /// The room is ephemeral, and the call needs stored messages.
    RoomNotPersisted = "ROOM_NOT_PERSISTED", FailedPrecondition;
    /// The NATS cluster has too few servers for `replicas`.
    ReplicasUnavailable = "REPLICAS_UNAVAILABLE", FailedPrecondition;
    /// Another program made the NATS stream of the room, and the stream denies purges or deletions. Nothing was removed.
    RemovalDenied = "REMOVAL_DENIED", FailedPrecondition;
    /// The room is not open on this Consume stream, or is being closed.
    SubscriptionNotOpen = "SUBSCRIPTION_NOT_OPEN", FailedPrecondition;
    /// The member is the only owner of the room, so it cannot be removed or get a smaller role. Nothing was done.
    LastOwner = "LAST_OWNER", FailedPrecondition;
    /// The position lies after the last sequence of the room. `last_sequence` in the metadata is the last sequence.
    PositionAfterEnd = "POSITION_AFTER_END", OutOfRange;
    /// A newer subscription of the same durable subscriber was opened. If an open subscription ends with this reason, `position` in the metadata is its position. An acknowledgement of the older subscription was not carried out.
    TakenOver = "TAKEN_OVER", Aborted;
    /// The log of the room was deleted and created again. Earlier positions and cursors are invalid.
    RoomRecreated = "ROOM_RECREATED", Aborted;
    /// Other calls changed the same thing at the same time, several times in a row. Nothing was done.
    Conflict = "CONFLICT", Aborted;
    /// A limit of the service, the NATS server or its account is reached. `limit` in the metadata names the limit.
    LimitReached = "LIMIT_REACHED", ResourceExhausted;
    /// The caller calls more often, or more at the same time, than it may. `RetryInfo` says when the same call is allowed. Nothing was done.
    RateLimited = "RATE_LIMITED", ResourceExhausted;
    /// The NATS server, its account or the disk has no storage left. Nothing was stored.
    StorageFull = "STORAGE_FULL", ResourceExhausted;
    /// The service or method does not exist, the service does not support the compression of the request, or a request that must be one message has none or several. Nothing was done.
    NotSupported = "NOT_SUPPORTED", Unimplemented;
    /// NATS cannot be reached, or has no leader at this moment. Nothing was done.
    NatsUnavailable = "NATS_UNAVAILABLE", Unavailable;
    /// The open subscription cannot continue, since its subscriber or the first visible message of its member was moved. `position` in the metadata is its position. Subscribe again.
    SubscribeAgain = "SUBSCRIBE_AGAIN", Unavailable;
    /// This instance is stopping. If an open subscription ends with this reason, `position` in the metadata is its position.
    Draining = "DRAINING", Unavailable;
    /// The acknowledgement was lost. The message may or may not be stored. Publish it again with the same `message_id`.
    OutcomeUnknown = "OUTCOME_UNKNOWN", DeadlineExceeded;
    /// NATS did not answer in time, or the call took too long. The call may have taken effect. Calling again is safe.
    Timeout = "TIMEOUT", DeadlineExceeded;
    /// A defect of the service, or an answer of NATS that the service does not understand. The log has the details under the request id.
    Internal = "INTERNAL", Internal;
}

/// The gRPC codes in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the gRPC guide")]
pub enum Code {
    Unauthenticated,
    PermissionDenied,
    InvalidArgument,
    NotFound,
    AlreadyExists,
    FailedPrecondition,
    OutOfRange,
    Aborted,
    ResourceExhausted,
    Unimplemented,
    Unavailable,
    DeadlineExceeded,
    Internal,
}

impl Code {
    /// The name in the gRPC guide.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unauthenticated => "UNAUTHENTICATED",
            Self::PermissionDenied => "PERMISSION_DENIED",
            Self::InvalidArgument => "INVALID_ARGUMENT",
            Self::NotFound => "NOT_FOUND",
            Self::AlreadyExists => "ALREADY_EXISTS",
            Self::FailedPrecondition => "FAILED_PRECONDITION",
            Self::OutOfRange => "OUT_OF_RANGE",
            Self::Aborted => "ABORTED",
            Self::ResourceExhausted => "RESOURCE_EXHAUSTED",
            Self::Unimplemented => "UNIMPLEMENTED",
            Self::Unavailable => "UNAVAILABLE",
            Self::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Self::Internal => "INTERNAL",
        }
    }

    /// The HTTP status of the JSON endpoint, as google.rpc.Code maps it.
    #[must_use]
    pub const fn http_status(self) -> u16 {
        match self {
            Self::Unauthenticated => 401,
            Self::PermissionDenied => 403,
            Self::InvalidArgument | Self::FailedPrecondition | Self::OutOfRange => 400,
            Self::NotFound => 404,
            Self::AlreadyExists | Self::Aborted => 409,
            Self::ResourceExhausted => 429,
            Self::Unimplemented => 501,
            Self::Unavailable => 503,
            Self::DeadlineExceeded => 504,
            Self::Internal => 500,
        }
    }
}

impl Reason {
    /// How long to wait before the same call may succeed; `None` if repeating the same call does not help.
    #[must_use]
    pub const fn retry_after(self) -> Option<Duration> {
        match self {
            // the shortest time; the error itself may know a better one
            Self::NatsUnavailable | Self::RateLimited => Some(Duration::from_secs(1)),
            // expired credentials: with new ones
            Self::CredentialsExpired | Self::Draining | Self::SubscribeAgain | Self::Conflict => {
                Some(Duration::from_millis(100))
            }
            Self::OutcomeUnknown | Self::Timeout => Some(Duration::from_millis(500)),
            Self::Unauthenticated
            | Self::PermissionDenied
            | Self::SubscriberForeign
            | Self::MemberNotFound
            | Self::LastOwner
            | Self::InvalidField
            | Self::PayloadTooLarge
            | Self::RequestMalformed
            | Self::CursorInvalid
            | Self::RoomNotFound
            | Self::SubscriberNotFound
            | Self::MessageNotFound
            | Self::ServiceUnknown
            | Self::SessionNotFound
            | Self::SubscriptionOpen
            | Self::RoomExists
            | Self::SubjectTaken
            | Self::StreamIncompatible
            | Self::BatchDuplicate
            | Self::SequenceMismatch
            | Self::TtlNotAllowed
            | Self::CursorExpired
            | Self::JetstreamMissing
            | Self::RoomNotPersisted
            | Self::ReplicasUnavailable
            | Self::RemovalDenied
            | Self::SubscriptionNotOpen
            | Self::PositionAfterEnd
            | Self::TakenOver
            | Self::RoomRecreated
            | Self::LimitReached
            | Self::StorageFull
            | Self::NotSupported
            | Self::Internal => None,
        }
    }

    /// Whether the call has certainly changed nothing.
    #[must_use]
    pub const fn is_side_effect_free(self) -> bool {
        !matches!(self, Self::OutcomeUnknown | Self::Timeout | Self::Internal)
    }
}

/// A failed call.
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    reason: Reason,
    message: Cow<'static, str>,
    violations: Vec<Violation>,
    /// The number of wrong fields that are not in `violations`.
    more_violations: usize,
    metadata: Vec<(&'static str, String)>,
    retry_after: Option<Duration>,
    source: Option<Cause>,
}

impl Error {
    /// Makes an error with the message for the caller. The message must be safe to show, and must say what to do.
    pub fn new(reason: Reason, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner {
            reason,
            message: shortened(message.into(), ERROR_MESSAGE_BYTES_MAX),
            violations: Vec::new(),
            more_violations: 0,
            metadata: Vec::new(),
            retry_after: reason.retry_after(),
            source: None,
        }))
    }

    /// Makes the error for a defect, or for an answer of NATS that is not understood. Only the log gets the cause.
    pub(crate) fn internal() -> Self {
        Self::new(
            Reason::Internal,
            "an internal error; the log of the service has the details under the request id of this call",
        )
    }

    /// Makes the error for a limit that is reached.
    pub(crate) fn limit_reached(limit: Limit, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Reason::LimitReached, message).with("limit", limit.name())
    }

    /// One wrong field.
    pub fn field(field: impl Into<String>, description: impl Into<String>) -> Self {
        let mut violations = Violations::default();
        violations.add(field, description);
        violations.into_error()
    }

    /// Returns the same error for another caller, without the cause.
    pub(crate) fn without_cause(&self) -> Self {
        let Inner { reason, message, violations, more_violations, metadata, retry_after, source: _ } = &*self.0;
        let (message, violations, metadata) = (message.clone(), violations.clone(), metadata.clone());
        let (reason, more_violations, retry_after) = (*reason, *more_violations, *retry_after);
        Self(Box::new(Inner { reason, message, violations, more_violations, metadata, retry_after, source: None }))
    }

    /// Adds the cause, which only the log gets.
    #[must_use]
    pub fn because(mut self, source: impl Into<Cause>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Adds a value to the metadata, for the caller.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl fmt::Display) -> Self {
        let value = shortened(Cow::Owned(value.to_string()), ERROR_VALUE_BYTES_MAX);
        self.0.metadata.push((key, value.into_owned()));
        self
    }

    /// Sets the time after which the same call may succeed, if it is known better than from the reason.
    #[must_use]
    pub(crate) fn retry_in(mut self, delay: Duration) -> Self {
        self.0.retry_after = Some(delay);
        self
    }

    /// How long to wait before the same call may succeed; `None` if repeating the same call does not help.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// Why the call failed.
    #[must_use]
    pub fn reason(&self) -> Reason {
        self.0.reason
    }

    /// The message for the caller.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The wrong fields, for [`Reason::InvalidField`] and similar reasons.
    #[must_use]
    pub fn violations(&self) -> &[Violation] {
        &self.0.violations
    }

    /// The metadata, for the caller.
    #[must_use]
    pub fn metadata(&self) -> &[(&'static str, String)] {
        &self.0.metadata
    }
}

impl Error {
    /// The causes, which only the log gets, from the nearest to the farthest.
    pub(crate) fn causes(&self) -> Vec<String> {
        let causes = std::iter::successors(self.source(), |&cause| cause.source());
        causes.map(ToString::to_string).collect()
    }

    /// The error with its causes, for a line of the log about work that no call asked for.
    pub(crate) fn with_causes(&self) -> String {
        let causes = self.causes();
        match self.reason() {
            // its message sends callers to the log
            Reason::Internal if !causes.is_empty() => format!("{}: {}", Reason::Internal.name(), causes.join(": ")),
            _ => [vec![self.to_string()], causes].concat().join(": "),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.reason.name(), self.0.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

/// Returns the text, shortened to `bytes_max` with three dots at its end.
fn shortened(text: Cow<'static, str>, bytes_max: usize) -> Cow<'static, str> {
    const DOTS: &str = "...";
    if text.len() <= bytes_max {
        return text;
    }
    let mut text = text.into_owned();
    let end = (0..=bytes_max.saturating_sub(DOTS.len())).rev().find(|end| text.is_char_boundary(*end));
    text.truncate(end.unwrap_or_default());
    text.push_str(DOTS);
    Cow::Owned(text)
}
