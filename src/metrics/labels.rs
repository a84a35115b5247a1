//! The labels of metrics. Each has a closed set of values, so the number of series is fixed.

use super::series::{LabelPairs, LabelSet};
use crate::error::Reason;

macro_rules! labels {
    ($($(#[doc = $about:literal])+ $name:ident = $label:literal { $($variant:ident = $value:literal,)+ })+) => {
        $(
            $(#[doc = $about])+
            #[derive(Clone, Copy, Debug, PartialEq, Eq)]
            pub(crate) enum $name { $($variant),+ }

            impl $name {
                pub(crate) fn name(self) -> &'static str {
                    match self { $(Self::$variant => $value),+ }
                }
            }

            impl LabelSet for $name {
                fn all() -> Vec<Self> {
                    vec![$(Self::$variant),+]
                }

                fn index(self) -> usize {
                    self as usize
                }

                fn pairs(self) -> LabelPairs {
                    vec![($label, self.name())]
                }
            }
        )+
    };
}

labels! {
    /// The status of a call, in the spelling of the gRPC ecosystem. The discriminants are the codes of gRPC.
    GrpcCode = "grpc_code" {
        Ok = "OK",
        Canceled = "Canceled",
        Unknown = "Unknown",
        InvalidArgument = "InvalidArgument",
        DeadlineExceeded = "DeadlineExceeded",
        NotFound = "NotFound",
        AlreadyExists = "AlreadyExists",
        PermissionDenied = "PermissionDenied",
        ResourceExhausted = "ResourceExhausted",
        FailedPrecondition = "FailedPrecondition",
        Aborted = "Aborted",
        OutOfRange = "OutOfRange",
        Unimplemented = "Unimplemented",
        Internal = "Internal",
        Unavailable = "Unavailable",
        DataLoss = "DataLoss",
        Unauthenticated = "Unauthenticated",
    }

    /// The class of an HTTP status.
    HttpClass = "code" {
        Success = "2xx",
        Redirect = "3xx",
        ClientError = "4xx",
        ServerError = "5xx",
        Canceled = "canceled",
    }

    /// The kind of a room.
    RoomKind = "kind" {
        Persisted = "persisted",
        Ephemeral = "ephemeral",
    }

    /// The kind of a subscription.
    SubscriptionKind = "kind" {
        Durable = "durable",
        Transient = "transient",
        Ephemeral = "ephemeral",
    }

    /// Why messages are missing.
    MissingBecause = "reason" {
        Expired = "expired",
        Purged = "purged",
        Deleted = "deleted",
        Dropped = "dropped",
        Disconnected = "disconnected",
    }

    /// One of the connections to NATS.
    NatsLink = "connection" {
        Main = "main",
        Reading = "reading",
        Live = "live",
        System = "system",
        Suspect = "suspect",
    }

    /// An API of JetStream.
    NatsApi = "api" {
        AccountInfo = "INFO",
        StreamCreate = "STREAM.CREATE",
        StreamUpdate = "STREAM.UPDATE",
        StreamInfo = "STREAM.INFO",
        StreamDelete = "STREAM.DELETE",
        StreamPurge = "STREAM.PURGE",
        StreamMessage = "STREAM.MSG",
        ConsumerCreate = "CONSUMER.CREATE",
        ConsumerInfo = "CONSUMER.INFO",
        ConsumerList = "CONSUMER.LIST",
        ConsumerReset = "CONSUMER.RESET",
        ConsumerDelete = "CONSUMER.DELETE",
        DirectGet = "DIRECT.GET",
        Publish = "PUBLISH",
        Other = "other",
    }

    /// What went wrong with a request to JetStream.
    NatsFailure = "error" {
        Disconnected = "disconnected",
        NoResponders = "no_responders",
        TimedOut = "timed_out",
        Refused = "refused",
        Other = "other",
    }

    /// What came of the credentials of a call.
    CredentialsResult = "result" {
        Verified = "verified",
        Cached = "cached",
        Certificate = "certificate",
        Expired = "expired",
        Refused = "refused",
    }

    /// Why a connection was closed before it was served.
    RefusedConnection = "reason" {
        Places = "--max-connections",
        Address = "--max-connections-per-address",
        Handshake = "tls_handshake",
    }

    /// Why spans were lost.
    SpanLoss = "reason" {
        Queue = "queue",
        Export = "export",
    }

    /// A bound of the whole instance. A bound that a flag sets has the name of the flag.
    InstanceLimit = "limit" {
        Connections = "--max-connections",
        Subscriptions = "--max-subscriptions",
        RequestBytes = "request_bytes",
        RingBytes = "ring_bytes",
        BacklogBytes = "backlog_bytes",
        PageBytes = "page_bytes",
    }
}

impl NatsApi {
    /// The API of a request to this subject, which is without the `$JS.API` prefix.
    pub(crate) fn of(subject: &str) -> Self {
        let mut tokens = subject.split('.');
        match (tokens.next(), tokens.next()) {
            (Some("INFO"), None) => Self::AccountInfo,
            (Some("STREAM"), Some("CREATE")) => Self::StreamCreate,
            (Some("STREAM"), Some("UPDATE")) => Self::StreamUpdate,
            (Some("STREAM"), Some("INFO")) => Self::StreamInfo,
            (Some("STREAM"), Some("DELETE")) => Self::StreamDelete,
            (Some("STREAM"), Some("PURGE")) => Self::StreamPurge,
            (Some("STREAM"), Some("MSG")) => Self::StreamMessage,
            (Some("CONSUMER"), Some("CREATE")) => Self::ConsumerCreate,
            (Some("CONSUMER"), Some("INFO")) => Self::ConsumerInfo,
            (Some("CONSUMER"), Some("LIST")) => Self::ConsumerList,
            (Some("CONSUMER"), Some("RESET")) => Self::ConsumerReset,
            (Some("CONSUMER"), Some("DELETE")) => Self::ConsumerDelete,
            _ => Self::Other,
        }
    }
}

impl GrpcCode {
    /// The status with this number; `Unknown` for every number that gRPC does not define.
    pub(crate) fn of(number: i32) -> Self {
        let found = usize::try_from(number).ok().and_then(|number| Self::all().get(number).copied());
        found.unwrap_or(Self::Unknown)
    }
}

impl LabelSet for Reason {
    fn all() -> Vec<Self> {
        Self::ALL.to_vec()
    }

    fn index(self) -> usize {
        self as usize
    }

    fn pairs(self) -> LabelPairs {
        vec![("reason", self.name())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_indexed<L: LabelSet>() {
        for (label, index) in L::all().into_iter().zip(0..) {
            assert_eq!(label.index(), index, "{label:?}");
        }
    }

    #[test]
    fn every_label_is_at_its_index() {
        is_indexed::<Reason>();
        is_indexed::<GrpcCode>();
        is_indexed::<(NatsApi, NatsFailure)>();
        assert_eq!(
            [0, 16, 17, -1].map(GrpcCode::of),
            [GrpcCode::Ok, GrpcCode::Unauthenticated, GrpcCode::Unknown, GrpcCode::Unknown]
        );
    }

    #[test]
    fn requests_are_counted_under_their_api() {
        for (subject, expected) in [
            ("INFO", NatsApi::AccountInfo),
            ("STREAM.INFO.UNIBUS_x", NatsApi::StreamInfo),
            ("STREAM.MSG.DELETE.UNIBUS_x", NatsApi::StreamMessage),
            ("CONSUMER.RESET.UNIBUS_x.c", NatsApi::ConsumerReset),
            ("STREAM.NAMES", NatsApi::Other),
            ("", NatsApi::Other),
        ] {
            assert_eq!(NatsApi::of(subject), expected, "{subject}");
        }
    }
}
