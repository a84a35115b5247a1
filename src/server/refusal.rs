//! Answers calls that are refused before they reach their service, in the format of the call: gRPC, gRPC-Web or HTTP.

use std::convert::Infallible;

use ::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use futures_util::future::BoxFuture;
use tonic::body::Body;
use tonic_web::{GrpcWebLayer, GrpcWebService};
use tower::{Layer, ServiceExt};

use super::connect::{ForbiddenHead, is_method};
use crate::{error::Error, grpc};

/// Services that need no identity. Operators need them even when every other call is refused.
const ALWAYS_SERVED: &[&str] = &["/grpc.health.", "/grpc.reflection."];

/// Whether `path` is a method of health or reflection.
pub(super) fn is_always_served(path: &str) -> bool {
    ALWAYS_SERVED.iter().any(|prefix| path.starts_with(prefix))
}

/// Whether `path` is a method of reflection.
pub(super) fn is_reflection(path: &str) -> bool {
    path.starts_with("/grpc.reflection.")
}

/// The content types of the protocols that a method takes.
const CONTENT_TYPES: &str = "application/grpc, application/grpc-web+proto, application/grpc-web-text, application/json, \
    application/proto, application/connect+json, application/connect+proto";
/// The answer to a request at the path of a method in another protocol.
const SUPPORTED_PROTOCOLS: &str = "this method takes gRPC (content-type application/grpc, over HTTP/2), gRPC-Web (application/grpc-web+proto, \
    application/grpc-web-text) and the Connect protocol (application/json and application/proto; application/connect+json \
    and application/connect+proto if the method has a stream)\n";
const GRPC_WEB: &[&str] = &[
    "application/grpc-web",
    "application/grpc-web+proto",
    "application/grpc-web-text",
    "application/grpc-web-text+proto",
];
/// The answer to another HTTP method.
const SUPPORTED_METHOD: &str =
    "this method takes POST; a method without side effects also takes GET, with an encoded message\n";
/// The answer to a call that needs HTTP/2, because both sides send a stream.
const SUPPORTED_VERSION: &str = "this method takes HTTP/2 only: the request and the answer are streams\n";

/// The answer to a request at the path of a method that no protocol of the service allows; `None` for every other request.
pub(super) fn wrong_protocol(request: &Request<Body>) -> Option<Response<Body>> {
    if !is_method(request.uri().path()) {
        return None;
    }
    if let Some(forbidden) = request.extensions().get::<ForbiddenHead>() {
        return Some(forbid(*forbidden));
    }
    if request.method() != Method::POST {
        return Some(forbid(ForbiddenHead::Method { takes_get: false }));
    }
    let kind = kind(request.headers());
    let is_web = GRPC_WEB.iter().any(|web| web.as_bytes() == kind);
    let is_grpc = request.version() == Version::HTTP_2 && is_plain_grpc(kind, request.headers());
    (!is_web && !is_grpc).then(|| forbid(ForbiddenHead::MediaType))
}

fn forbid(forbidden: ForbiddenHead) -> Response<Body> {
    let (status, line, field) = match forbidden {
        ForbiddenHead::MediaType => (
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            SUPPORTED_PROTOCOLS,
            Some((HeaderName::from_static("accept-post"), CONTENT_TYPES)),
        ),
        ForbiddenHead::Method { takes_get } => (
            StatusCode::METHOD_NOT_ALLOWED,
            SUPPORTED_METHOD,
            Some((header::ALLOW, if takes_get { "GET, POST" } else { "POST" })),
        ),
        ForbiddenHead::HttpVersion => (StatusCode::HTTP_VERSION_NOT_SUPPORTED, SUPPORTED_VERSION, None),
    };
    let mut response = line_of_text(status, line);
    if let Some((name, value)) = field {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

fn kind(headers: &HeaderMap) -> &[u8] {
    headers.get(header::CONTENT_TYPE).map_or(&[], HeaderValue::as_bytes)
}

fn is_plain_grpc(kind: &[u8], headers: &HeaderMap) -> bool {
    grpc::is_grpc(headers) && !kind.starts_with(b"application/grpc-web")
}

fn line_of_text(status: StatusCode, line: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::new(http_body_util::Full::new(line.into())));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// Answers a request for an unknown path.
pub(super) async fn no_such_path(request: axum::extract::Request) -> axum::response::Response {
    if grpc::is_grpc(request.headers()) { no_such_call(request).await } else { crate::http::not_found() }
}

/// Answers a request whose path does not support its HTTP method.
pub(super) async fn no_such_method(request: axum::extract::Request) -> axum::response::Response {
    if grpc::is_grpc(request.headers()) {
        no_such_call(request).await
    } else {
        crate::http::method_not_allowed("this path takes GET and HEAD", "GET,HEAD")
    }
}

async fn no_such_call(request: axum::extract::Request) -> axum::response::Response {
    refuse(request.map(Body::new), grpc::no_such_call()).await.map(axum::body::Body::new)
}

pub(super) type Refusal = BoxFuture<'static, Response<Body>>;

/// Answers `request` with `error`.
pub(super) fn refuse(request: Request<Body>, error: Error) -> Refusal {
    if !grpc::is_grpc(request.headers()) {
        return Box::pin(async move { crate::http::error_response(&error).map(Body::new) });
    }
    let status = grpc::status(error);
    let answer = tower::service_fn(move |_| std::future::ready(Ok(status.clone().into_http::<Body>())));
    let answer: GrpcWebService<_> = GrpcWebLayer::new().layer(answer);
    Box::pin(async move {
        let answered: Result<_, Infallible> = answer.oneshot(request).await;
        match answered {
            Ok(response) => response,
            Err(never) => match never {},
        }
    })
}
