//! The answer to a unary call: the message alone, with the trailers in the head; or the error, with its HTTP status.

use std::{future::poll_fn, pin::Pin, sync::Arc};

use ::http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header, response::Parts};
use bytes::Bytes;
use http_body::Body;
use tonic::{Code, Status};

use super::{
    body::{ConnectBody, WholeAnswer},
    call::{ConnectCall, ConnectCodec, HeadFault},
    codes, deflate, errors,
};
use crate::{
    error::Error,
    grpc::{self, AnswerGuard, Chunk, JsonText, ServedTypes, framing::PREFIX_BYTES},
    server::compression,
};

/// Translates the gRPC answer to a unary call. Reads the answer to its end, because its status decides the HTTP status.
pub(super) async fn answer<B>(
    response: Response<B>,
    call: Arc<ConnectCall>,
    served: ServedTypes,
) -> Response<ConnectBody<B>>
where
    B: Body<Data = Chunk>,
{
    let (mut parts, body) = response.into_parts();
    let guard = parts.extensions.remove::<AnswerGuard>();
    let mut body = Box::pin(body);
    let mut trailers = HeaderMap::new();
    let mut message = Bytes::new();
    let status = match Status::from_header_map(&parts.headers) {
        Some(status) => status,
        None => match read(body.as_mut(), &mut message).await {
            Some(read) => {
                trailers = read;
                Status::from_header_map(&trailers).unwrap_or_else(errors::cut_off)
            }
            None => errors::cut_off(),
        },
    };
    let translated =
        if status.code() == Code::Ok { translate(&message, &call).map_err(grpc::status) } else { Err(status) };
    let (text, kind) = match translated {
        Ok(text) => {
            let compressed = if call.takes_compressed { deflate::gzip(&text) } else { None };
            if compressed.is_some() {
                parts.headers.insert(header::CONTENT_ENCODING, compression::gzip());
            }
            (compressed.map_or(text, JsonText::from), call.codec.content_type(false))
        }
        Err(status) => {
            parts.status = error_status(&status, &call);
            (errors::json(&status, &served).into(), ConnectCodec::Json.content_type(false))
        }
    };
    if call.fault == Some(HeadFault::Compression) {
        parts.headers.insert(header::ACCEPT_ENCODING, compression::SUPPORTED);
    }
    head(&mut parts, &trailers, kind);
    // the body of gRPC stays until the client has taken the answer, because it holds what the answer is charged to
    Response::from_parts(parts, ConnectBody::Whole { answer: WholeAnswer::new(text, guard), replaced: body })
}

/// Reads a body to its end. Returns its trailers; `None` when it breaks off.
async fn read<B: Body<Data = Chunk>>(mut body: Pin<&mut B>, message: &mut Bytes) -> Option<HeaderMap> {
    let mut pieces = Vec::new();
    loop {
        let frame = poll_fn(|cx| body.as_mut().poll_frame(cx)).await?.ok()?;
        match frame.into_data() {
            Ok(chunk) => pieces.push(chunk.bytes()),
            Err(frame) => {
                *message = joined(&pieces);
                return frame.into_trailers().ok();
            }
        }
    }
}

/// The pieces as one, in memory of exactly their size.
fn joined(pieces: &[Bytes]) -> Bytes {
    match pieces {
        [one] => one.clone(),
        pieces => pieces.concat().into(),
    }
}

/// The message of an answer in the codec of the call.
fn translate(framed: &Bytes, call: &ConnectCall) -> Result<JsonText, Error> {
    let message = framed.slice(PREFIX_BYTES.min(framed.len())..);
    match (call.codec, &call.types) {
        (ConnectCodec::Json, Some(types)) => types.response.to_json(message),
        (ConnectCodec::Proto | ConnectCodec::Json, _) => Ok(message.into()),
    }
}

/// The HTTP status of an error. The protocol wants 404 where nothing serves the path.
fn error_status(status: &Status, call: &ConnectCall) -> StatusCode {
    if call.types.is_none() && status.code() == Code::Unimplemented {
        return StatusCode::NOT_FOUND;
    }
    codes::http_status(status.code())
}

/// Turns the head of a gRPC answer into that of a unary answer.
fn head(parts: &mut Parts, trailers: &HeaderMap, kind: &'static str) {
    let of_grpc: Vec<HeaderName> =
        parts.headers.keys().filter(|name| errors::is_of_grpc(name.as_str())).cloned().collect();
    for name in of_grpc {
        parts.headers.remove(name);
    }
    for (name, value) in trailers.iter().filter(|(name, _)| !errors::is_of_grpc(name.as_str())) {
        if let Ok(name) = HeaderName::try_from(format!("trailer-{name}")) {
            parts.headers.append(name, value.clone());
        }
    }
    parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    // an answer to a GET may depend on the caller
    parts.headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if parts.status == StatusCode::UNAUTHORIZED {
        parts.headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
}
