//! Reads the head of a request: whether it is a call in the Connect protocol, and what the protocol forbids.

use std::sync::Arc;

use ::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version, header};
use bytes::Bytes;
use http_body_util::Full;
use tonic::body::Body;

use super::{
    call::{ConnectCall, ConnectCodec, HeadFault},
    query::GetQuery,
};
use crate::{
    grpc::{MethodTypes, ServedTypes},
    server::compression,
};

const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("connect-protocol-version");
const TIMEOUT: HeaderName = HeaderName::from_static("connect-timeout-ms");
pub(super) const STREAM_ENCODING: HeaderName = HeaderName::from_static("connect-content-encoding");
pub(super) const STREAM_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("connect-accept-encoding");
/// Fields of the Connect protocol that mean nothing to gRPC, and fields of gRPC that mean nothing in the Connect protocol.
const NOT_PASSED_ON: [HeaderName; 9] = [
    PROTOCOL_VERSION,
    TIMEOUT,
    STREAM_ENCODING,
    STREAM_ACCEPT_ENCODING,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    HeaderName::from_static("grpc-timeout"),
    HeaderName::from_static("grpc-encoding"),
    HeaderName::from_static("grpc-accept-encoding"),
];

/// A request at the path of a method that no protocol of the service allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::server) enum ForbiddenHead {
    /// The content type is none of those that the method takes.
    MediaType,
    /// The HTTP method is none of those that the method takes.
    Method { takes_get: bool },
    /// The call needs HTTP/2.
    HttpVersion,
}

/// What a request is.
#[derive(Debug)]
pub(super) enum RequestHead {
    /// It is not a call in the Connect protocol.
    Other,
    Forbidden(ForbiddenHead),
    Call(ConnectCall),
    /// A call with GET. Contains its message.
    Get(ConnectCall, Bytes),
}

/// Whether `path` is the path of a method, which may not exist: a service with its package, and a name.
pub(in crate::server) fn is_method(path: &str) -> bool {
    let mut parts = path.split('/').skip(1);
    parts.next().is_some_and(|service| service.contains('.')) && parts.count() == 1
}

/// Reads the head of a request.
pub(super) fn read<B>(request: &Request<B>, served: &ServedTypes) -> RequestHead {
    let is_post = request.method() == Method::POST;
    if !is_method(request.uri().path()) || (is_post && speaks_grpc(request.headers())) {
        return RequestHead::Other;
    }
    let types = served.method(request.uri().path());
    match *request.method() {
        Method::POST => post(request, types),
        Method::GET => match types {
            Some(types) if types.is_safe && !speaks_grpc(request.headers()) => {
                get(request.uri().query().unwrap_or_default(), request.headers(), types)
            }
            Some(types) => RequestHead::Forbidden(ForbiddenHead::Method { takes_get: types.is_safe }),
            None => RequestHead::Other,
        },
        _ => match types {
            Some(types) => RequestHead::Forbidden(ForbiddenHead::Method { takes_get: types.is_safe }),
            None => RequestHead::Other,
        },
    }
}

fn speaks_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

fn post<B>(request: &Request<B>, types: Option<&MethodTypes>) -> RequestHead {
    let headers = request.headers();
    let Some((codec, has_envelopes)) = content_type(headers) else { return RequestHead::Other };
    if let Some(types) = types {
        if has_envelopes != (types.has_request_stream || types.has_response_stream) {
            return RequestHead::Forbidden(ForbiddenHead::MediaType);
        }
        if types.has_request_stream && types.has_response_stream && request.version() < Version::HTTP_2 {
            return RequestHead::Forbidden(ForbiddenHead::HttpVersion);
        }
    }
    let is_compressed =
        compression::is_gzip(headers, if has_envelopes { STREAM_ENCODING } else { header::CONTENT_ENCODING });
    let fault = if !is_version_1(headers) {
        Some(HeadFault::Version)
    } else if is_compressed.is_none() {
        Some(HeadFault::Compression)
    } else {
        timeout(headers).err()
    };
    RequestHead::Call(ConnectCall {
        codec,
        has_envelopes,
        is_compressed: is_compressed.unwrap_or_default(),
        takes_compressed: takes_compressed(headers, has_envelopes),
        types: types.cloned(),
        fault,
    })
}

/// Whether the client takes compressed messages.
fn takes_compressed(headers: &HeaderMap, has_envelopes: bool) -> bool {
    compression::lists_gzip(headers, if has_envelopes { STREAM_ACCEPT_ENCODING } else { header::ACCEPT_ENCODING })
}

fn get(query: &str, headers: &HeaderMap, types: &MethodTypes) -> RequestHead {
    let query = GetQuery::parse(query);
    let Some(codec) = query.codec() else { return RequestHead::Forbidden(ForbiddenHead::MediaType) };
    let ((message, is_compressed), fault) = match query.message() {
        _ if !is_version_1(headers) => ((Bytes::new(), false), Some(HeadFault::Version)),
        Ok(found) => (found, timeout(headers).err()),
        Err(fault) => ((Bytes::new(), false), Some(fault)),
    };
    let has_envelopes = false;
    let takes_compressed = takes_compressed(headers, has_envelopes);
    let types = Some(types.clone());
    RequestHead::Get(ConnectCall { codec, has_envelopes, is_compressed, takes_compressed, types, fault }, message)
}

/// The codec that the content type names, and whether each message has a prefix; `None` for the content types of other
/// protocols.
fn content_type(headers: &HeaderMap) -> Option<(ConnectCodec, bool)> {
    let kind = headers.get(header::CONTENT_TYPE)?.to_str().ok()?.to_ascii_lowercase();
    let (kind, parameters) = kind.split_once(';').unwrap_or((&kind, ""));
    if !matches!(parameters.trim(), "" | "charset=utf-8" | "charset=\"utf-8\"") {
        return None;
    }
    let name = kind.trim().strip_prefix("application/")?;
    match name.strip_prefix("connect+") {
        Some(name) => Some((ConnectCodec::named(name)?, true)),
        None => Some((ConnectCodec::named(name)?, false)),
    }
}

/// Whether the version of the protocol is 1. A client such as curl need not name a version.
fn is_version_1(headers: &HeaderMap) -> bool {
    headers.get(PROTOCOL_VERSION).is_none_or(|version| version == "1")
}

/// The time limit of the client as gRPC writes it, which has no more than eight digits.
fn timeout(headers: &HeaderMap) -> Result<Option<HeaderValue>, HeadFault> {
    let Some(given) = headers.get(TIMEOUT) else { return Ok(None) };
    let digits = given.to_str().map_err(|_| HeadFault::Timeout)?;
    if !(1..=10).contains(&digits.len()) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(HeadFault::Timeout);
    }
    let millis: u64 = digits.parse().map_err(|_| HeadFault::Timeout)?;
    let written = if millis < 100_000_000 { format!("{millis}m") } else { format!("{}S", millis / 1000) };
    HeaderValue::from_str(&written).map(Some).map_err(|_| HeadFault::Timeout)
}

/// Makes the request one of gRPC. Its body stays as it is until the request is received.
pub(super) fn into_grpc(request: Request<Body>, call: &Arc<ConnectCall>) -> Request<Body> {
    let (mut parts, body) = request.into_parts();
    let timeout = timeout(&parts.headers).ok().flatten();
    for name in NOT_PASSED_ON {
        parts.headers.remove(name);
    }
    parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    if let Some(timeout) = timeout {
        parts.headers.insert("grpc-timeout", timeout);
    }
    parts.method = Method::POST;
    parts.version = Version::HTTP_2;
    if parts.uri.query().is_some()
        && let Ok(path) = parts.uri.path().parse::<Uri>()
    {
        parts.uri = path;
    }
    parts.extensions.insert(Arc::clone(call));
    Request::from_parts(parts, body)
}

/// The body of a call with GET.
pub(super) fn body(message: Bytes) -> Body {
    Body::new(Full::new(message))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn request(method: &str, path: &str, kind: Option<&str>) -> Request<()> {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(kind) = kind {
            request = request.header("content-type", kind);
        }
        request.body(()).unwrap()
    }

    fn call_of(head: RequestHead) -> Result<(ConnectCodec, bool, Option<HeadFault>), String> {
        match head {
            RequestHead::Call(call) | RequestHead::Get(call, _) => Ok((call.codec, call.has_envelopes, call.fault)),
            other => Err(format!("{other:?}")),
        }
    }

    #[test]
    fn a_content_type_decides_the_codec_and_the_form() {
        use ConnectCodec::{Json, Proto};
        let served = ServedTypes::read(&[]).unwrap();
        let (get_room, subscribe) = ("/unibus.v1.RoomService/GetRoom", "/unibus.v1.RoomService/Subscribe");
        for (path, kind, expected) in [
            (get_room, "application/json", Some((Json, false))),
            (get_room, "Application/JSON; charset=UTF-8", Some((Json, false))),
            (get_room, "application/proto", Some((Proto, false))),
            (subscribe, "application/connect+json", Some((Json, true))),
            (subscribe, "application/connect+proto", Some((Proto, true))),
            ("/unibus.v1.RoomService/Nothing", "application/json", Some((Json, false))),
            (get_room, "application/connect+json", None),
            (subscribe, "application/json", None),
            (get_room, "application/json; charset=latin1", None),
            (get_room, "application/grpc", None),
            (get_room, "application/jsonx", None),
            (get_room, "text/plain", None),
        ] {
            let found = call_of(read(&request("POST", path, Some(kind)), &served)).ok();
            assert_eq!(found.map(|(codec, envelopes, _)| (codec, envelopes)), expected, "{path} {kind}");
        }
        let bidi = request("POST", "/unibus.v1.RoomService/Consume", Some("application/connect+json"));
        assert!(matches!(read(&bidi, &served), RequestHead::Forbidden(ForbiddenHead::HttpVersion)));
        for (method, path, takes_get) in
            [("GET", "/unibus.v1.RoomService/Publish", false), ("DELETE", get_room, true), ("GET", subscribe, false)]
        {
            let head = read(&request(method, path, None), &served);
            assert!(
                matches!(head, RequestHead::Forbidden(ForbiddenHead::Method { takes_get: found }) if found == takes_get),
                "{method} {path}"
            );
        }
        let found = call_of(read(&request("GET", &format!("{get_room}?encoding=json&message=%7B%7D"), None), &served));
        assert_eq!(found, Ok((Json, false, None)));
    }

    #[test]
    fn a_time_limit_keeps_its_length() {
        let limit = |given: &'static str| {
            let headers = HeaderMap::from_iter([(TIMEOUT, HeaderValue::from_static(given))]);
            timeout(&headers).map(|limit| limit.map(|limit| limit.to_str().unwrap().to_owned()))
        };
        for (given, expected) in [("0", "0m"), ("250", "250m"), ("99999999", "99999999m"), ("9999999999", "9999999S")] {
            assert_eq!(limit(given), Ok(Some(expected.to_owned())), "{given}");
        }
        for given in ["", "-1", "1.5", "12345678901", "1s", " 5"] {
            assert_eq!(limit(given), Err(HeadFault::Timeout), "{given}");
        }
        assert_eq!(timeout(&HeaderMap::new()), Ok(None));
    }
}
