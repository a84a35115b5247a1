//! The messages of `connectrpc.conformance.v1` that a server reads and writes, as far as it reads and writes them.
//!
//! Their descriptors, and the documentation of every field, come with the suite (`proto/connectrpc/conformance/v1/`).

use prost::{Message, Oneof};
use prost_types::Any;

/// What the suite asks of the server.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ServerCompatRequest {
    #[prost(bool, tag = "4")]
    pub use_tls: bool,
    #[prost(uint32, tag = "6")]
    pub message_receive_limit: u32,
}

/// Where the server listens.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ServerCompatResponse {
    #[prost(string, tag = "1")]
    pub host: String,
    #[prost(uint32, tag = "2")]
    pub port: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Header {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, repeated, tag = "2")]
    pub value: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Error {
    #[prost(int32, tag = "1")]
    pub code: i32,
    #[prost(string, optional, tag = "2")]
    pub message: Option<String>,
    #[prost(message, repeated, tag = "3")]
    pub details: Vec<Any>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct RequestInfo {
    #[prost(message, repeated, tag = "1")]
    pub request_headers: Vec<Header>,
    #[prost(int64, optional, tag = "2")]
    pub timeout_ms: Option<i64>,
    #[prost(message, repeated, tag = "3")]
    pub requests: Vec<Any>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ConformancePayload {
    #[prost(bytes = "vec", tag = "1")]
    pub data: Vec<u8>,
    #[prost(message, optional, tag = "2")]
    pub request_info: Option<RequestInfo>,
}

/// The answer of every method.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct PayloadResponse {
    #[prost(message, optional, tag = "1")]
    pub payload: Option<ConformancePayload>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum UnaryOutcome {
    #[prost(bytes, tag = "2")]
    ResponseData(Vec<u8>),
    #[prost(message, tag = "3")]
    Error(Error),
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct UnaryResponseDefinition {
    #[prost(message, repeated, tag = "1")]
    pub response_headers: Vec<Header>,
    #[prost(oneof = "UnaryOutcome", tags = "2, 3")]
    pub response: Option<UnaryOutcome>,
    #[prost(message, repeated, tag = "4")]
    pub response_trailers: Vec<Header>,
    #[prost(uint32, tag = "6")]
    pub response_delay_ms: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct StreamResponseDefinition {
    #[prost(message, repeated, tag = "1")]
    pub response_headers: Vec<Header>,
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub response_data: Vec<Vec<u8>>,
    #[prost(uint32, tag = "3")]
    pub response_delay_ms: u32,
    #[prost(message, optional, tag = "4")]
    pub error: Option<Error>,
    #[prost(message, repeated, tag = "5")]
    pub response_trailers: Vec<Header>,
}

/// `UnaryRequest`, `IdempotentUnaryRequest` and `ClientStreamRequest`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct UnaryRequest {
    #[prost(message, optional, tag = "1")]
    pub response_definition: Option<UnaryResponseDefinition>,
    #[prost(bytes = "vec", tag = "2")]
    pub request_data: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ServerStreamRequest {
    #[prost(message, optional, tag = "1")]
    pub response_definition: Option<StreamResponseDefinition>,
    #[prost(bytes = "vec", tag = "2")]
    pub request_data: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct BidiStreamRequest {
    #[prost(message, optional, tag = "1")]
    pub response_definition: Option<StreamResponseDefinition>,
    #[prost(bool, tag = "2")]
    pub full_duplex: bool,
    #[prost(bytes = "vec", tag = "3")]
    pub request_data: Vec<u8>,
}
