//! Converts the errors of the gRPC library to the service's own errors.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use ::http::{HeaderMap, Response};
use axum::body::Body;
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tonic::Status;

use crate::grpc;

/// Adds a reason to a status that the gRPC library made. Leaves every other answer unchanged.
pub(super) fn explain(response: Response<Body>) -> Response<Body> {
    with_status(response, explain_in)
}

/// Removes the reason from a status that the service made. For the conformance tests, which expect errors without details.
pub(super) fn unexplain(response: Response<Body>) -> Response<Body> {
    with_status(response, unexplain_in)
}

/// Changes the status of an answer, in its head or in its trailers.
fn with_status(mut response: Response<Body>, change: fn(&mut HeaderMap)) -> Response<Body> {
    if Status::from_header_map(response.headers()).is_some() {
        change(response.headers_mut());
        return response;
    }
    response.map(|inner| if inner.is_end_stream() { inner } else { Body::new(Changed { inner, change }) })
}

fn unexplain_in(headers: &mut HeaderMap) {
    if grpc::reason_of(headers).is_some() {
        headers.remove(Status::GRPC_STATUS_DETAILS);
    }
}

fn explain_in(headers: &mut HeaderMap) {
    let Some(status) = Status::from_header_map(headers) else { return };
    let Some(explained) = grpc::explained(&status) else { return };
    headers.remove(Status::GRPC_MESSAGE);
    // details that cannot be a header are left out; the status code always can be a header
    let _ = explained.add_header(headers);
}

/// A body whose trailers are changed.
struct Changed {
    inner: Body,
    change: fn(&mut HeaderMap),
}

impl HttpBody for Changed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let mut polled = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if let Some(Ok(frame)) = &mut polled
            && let Some(trailers) = frame.trailers_mut()
        {
            (self.change)(trailers);
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
