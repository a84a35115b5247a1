//! Answers calls that are refused before they reach their service, in the format of the call: gRPC, gRPC-Web or HTTP.

use std::convert::Infallible;

use ::http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use futures_util::future::BoxFuture;
use tonic::body::Body;
use tonic_web::{GrpcWebLayer, GrpcWebService};
use tower::{Layer, ServiceExt};

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

/// The answer at a gRPC path to a request of another protocol.
const SUPPORTED_PROTOCOLS: &str = "this path takes gRPC (content-type application/grpc, over HTTP/2) and gRPC-Web (application/grpc-web+proto, \
    application/grpc-web-text); it does not take the Connect protocol\n";
const GRPC_WEB: &[&str] = &[
    "application/grpc-web",
    "application/grpc-web+proto",
    "application/grpc-web-text",
    "application/grpc-web-text+proto",
];

/// The answer at a gRPC path to an HTTP method other than `POST`.
const SUPPORTED_METHOD: &str = "this path takes POST, of gRPC and gRPC-Web\n";

/// The answer to a request at a gRPC path that is neither gRPC nor gRPC-Web, such as a request of a Connect client;
/// `None` for every other request.
pub(super) fn wrong_protocol(request: &Request<Body>) -> Option<Response<Body>> {
    let mut parts = request.uri().path().split('/').skip(1);
    let is_grpc_path = parts.next().is_some_and(|service| service.contains('.')) && parts.count() == 1;
    if !is_grpc_path {
        return None;
    }
    let kind = kind(request.headers());
    let is_web = GRPC_WEB.iter().any(|web| web.as_bytes() == kind);
    let is_post = request.method() == Method::POST;
    if request.method() == Method::OPTIONS || (is_web && !is_post) {
        let mut response = line_of_text(StatusCode::METHOD_NOT_ALLOWED, SUPPORTED_METHOD);
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
        return Some(response);
    }
    let is_grpc = request.version() == Version::HTTP_2 && is_plain_grpc(kind, request.headers());
    (!is_web && !is_grpc).then(|| line_of_text(StatusCode::UNSUPPORTED_MEDIA_TYPE, SUPPORTED_PROTOCOLS))
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
