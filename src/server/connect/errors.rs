//! Errors in the form of the Connect protocol: JSON with the code, the message and the details of the status.

use std::collections::BTreeMap;

use ::http::HeaderMap;
use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use bytes::Bytes;
use serde::Serialize;
use serde_json::Value;
use tonic::Status;

use super::codes;
use crate::{
    error::Error,
    grpc::{self, ServedTypes},
};

/// An error ("Error Codes" and "Error-Details" of the protocol).
#[derive(Serialize)]
struct ErrorJson<'a> {
    code: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    message: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    details: Vec<DetailJson>,
}

#[derive(Serialize)]
struct DetailJson {
    #[serde(rename = "type")]
    name: String,
    value: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    debug: Option<Value>,
}

/// The message that ends a stream (`EndStreamResponse`).
#[derive(Serialize)]
struct EndJson<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ErrorJson<'a>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    metadata: BTreeMap<&'a str, Vec<&'a str>>,
}

impl<'a> ErrorJson<'a> {
    fn new(status: &'a Status, served: &ServedTypes) -> Self {
        let details = served.details(status).into_iter().map(|detail| DetailJson {
            name: detail.name,
            value: STANDARD_NO_PAD.encode(&detail.value),
            debug: detail.json,
        });
        Self { code: codes::name(status.code()), message: status.message(), details: details.collect() }
    }
}

/// The error that `status` is.
pub(super) fn json(status: &Status, served: &ServedTypes) -> Bytes {
    written(&ErrorJson::new(status, served))
}

/// The message that ends a stream with `status` and the metadata of the trailers.
pub(super) fn end_of_stream(status: &Status, trailers: &HeaderMap, served: &ServedTypes) -> Bytes {
    let names = trailers.keys().map(::http::HeaderName::as_str).filter(|name| !is_of_grpc(name));
    let values = |name| trailers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect();
    let metadata = names.map(|name| (name, values(name))).collect();
    let error = (status.code() != tonic::Code::Ok).then(|| ErrorJson::new(status, served));
    written(&EndJson { error, metadata })
}

fn written(json: &impl Serialize) -> Bytes {
    // it cannot fail: all names are texts
    serde_json::to_vec(json).unwrap_or_default().into()
}

/// Whether a field of an answer belongs to gRPC alone.
pub(super) fn is_of_grpc(name: &str) -> bool {
    name.starts_with("grpc-") || name == "content-type" || name == "content-length"
}

/// The status of an answer that ended without one.
pub(super) fn cut_off() -> Status {
    grpc::status(Error::internal().because("an answer has ended without a status"))
}
