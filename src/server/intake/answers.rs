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
pub(super) fn explain(mut response: Response<Body>) -> Response<Body> {
    if Status::from_header_map(response.headers()).is_some() {
        explain_in(response.headers_mut());
        return response;
    }
    response.map(|inner| if inner.is_end_stream() { inner } else { Body::new(Explained(inner)) })
}

fn explain_in(headers: &mut HeaderMap) {
    let Some(status) = Status::from_header_map(headers) else { return };
    let Some(explained) = grpc::explained(&status) else { return };
    headers.remove(Status::GRPC_MESSAGE);
    // details that cannot be a header are left out; the status code always can be a header
    let _ = explained.add_header(headers);
}

/// A body that adds the reason in its trailers.
struct Explained(Body);

impl HttpBody for Explained {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let mut polled = ready!(Pin::new(&mut self.0).poll_frame(cx));
        if let Some(Ok(frame)) = &mut polled
            && let Some(trailers) = frame.trailers_mut()
        {
            explain_in(trailers);
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}
