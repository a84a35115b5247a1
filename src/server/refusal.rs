//! The answer to a call that is refused before it reaches its service, in the form that the call wants its answers in.

use std::convert::Infallible;

use ::http::{Request, Response};
use futures_util::future::BoxFuture;
use tonic::{Status, body::Body};
use tonic_web::{GrpcWebLayer, GrpcWebService};
use tower::{Layer, ServiceExt};

use crate::{error::Error, grpc};

/// What operators ask when everybody is refused, and what needs no identity.
const ALWAYS_SERVED: &[&str] = &["/grpc.health.", "/grpc.reflection."];

/// Whether this is a call of health or reflection.
pub(super) fn is_always_served(path: &str) -> bool {
    ALWAYS_SERVED.iter().any(|prefix| path.starts_with(prefix))
}

/// An answer on its way.
pub(super) type Refusal = BoxFuture<'static, Response<Body>>;

/// Answers a request with this error.
pub(super) fn refuse(request: Request<Body>, error: Error) -> Refusal {
    if !grpc::is_grpc(request.headers()) {
        return Box::pin(async move { crate::http::error_response(&error).map(Body::new) });
    }
    let status = Status::from(error);
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
