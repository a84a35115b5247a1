//! What the head of a Connect request says, for the layers that translate its body and its answer.

use crate::{
    error::{Error, Reason},
    grpc::MethodTypes,
};

/// How the messages of a call are encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::server) enum ConnectCodec {
    Json,
    Proto,
}

impl ConnectCodec {
    /// The codec of this name, as in `application/json` and `encoding=json`.
    pub(super) fn named(name: &str) -> Option<Self> {
        match name {
            "json" => Some(Self::Json),
            "proto" => Some(Self::Proto),
            _ => None,
        }
    }

    pub(super) fn content_type(self, has_envelopes: bool) -> &'static str {
        match (self, has_envelopes) {
            (Self::Json, false) => "application/json",
            (Self::Proto, false) => "application/proto",
            (Self::Json, true) => "application/connect+json",
            (Self::Proto, true) => "application/connect+proto",
        }
    }
}

/// A call in the Connect protocol. It is in the extensions of its request until the request is received.
#[derive(Debug)]
pub(in crate::server) struct ConnectCall {
    pub codec: ConnectCodec,
    /// Whether each message has a prefix, as in the streaming form of the protocol. The prefix is that of gRPC.
    pub has_envelopes: bool,
    /// Whether the messages of the request may be compressed with gzip.
    pub is_compressed: bool,
    /// Whether the client takes messages that are compressed with gzip.
    pub takes_compressed: bool,
    /// `None` when nothing serves the path.
    pub types: Option<MethodTypes>,
    pub fault: Option<HeadFault>,
}

/// What is wrong with the head of a request. It is answered where the body would be received, so after the caller has been
/// identified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::server) enum HeadFault {
    /// The protocol version is not 1.
    Version,
    Timeout,
    Compression,
    /// The query of a GET. Contains the parameter.
    Query(&'static str),
}

impl HeadFault {
    pub(in crate::server) fn error(&self) -> Error {
        let malformed = |message: String| Error::new(Reason::RequestMalformed, message);
        match self {
            Self::Version => malformed("the service speaks version 1 of the Connect protocol".to_owned()),
            Self::Timeout => malformed("`connect-timeout-ms` must be a number of at most 10 digits".to_owned()),
            Self::Compression => Error::new(
                Reason::NotSupported,
                "the service does not support the compression of the request; use `gzip`, or send it as it is (`identity`)",
            ),
            Self::Query(parameter) => malformed(format!("the query parameter `{parameter}` is missing or wrong")),
        }
    }
}
