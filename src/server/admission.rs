//! Says no to calls beyond the bounds of their connection.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use ::http::{Request, Response};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tonic::Status;
use tower::{Layer, Service};

use super::{
    connections::{Call, Client},
    refusal::{Refusal, is_always_served, refuse},
};
use crate::error::{Error, Limit};

/// Puts [`Admission`] before a service.
#[derive(Clone, Copy, Debug)]
pub(super) struct AdmissionLayer;

impl<S> Layer<S> for AdmissionLayer {
    type Service = Admission<S>;

    fn layer(&self, inner: S) -> Admission<S> {
        Admission { inner }
    }
}

/// Lets a call through, or refuses it with `LIMIT_REACHED`. A call lasts until its answer has been sent or given up.
#[derive(Clone, Debug)]
pub(super) struct Admission<S> {
    inner: S,
}

impl<S> Service<Request<tonic::body::Body>> for Admission<S>
where
    S: Service<Request<tonic::body::Body>, Response = Response<tonic::body::Body>, Error = Infallible>,
{
    type Response = Response<CountedBody>;
    type Error = Infallible;
    type Future = Answer<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        match admit(&request) {
            Ok(call) => Answer::Admitted { future: self.inner.call(request), call },
            Err(error) => Answer::Refused { future: refuse(request, error) },
        }
    }
}

fn admit<B>(request: &Request<B>) -> Result<Option<Call>, Error> {
    let Some(client) = request.extensions().get::<Arc<Client>>() else { return Ok(None) };
    let bounds = client.bounds();
    if !is_always_served(request.uri().path()) && !client.has_place() {
        return Err(Error::limit_reached(
            Limit::Connections,
            format!(
                "this instance has as many connections as --max-connections allows ({}); \
                 use another instance, or raise it",
                bounds.connections_max
            ),
        ));
    }
    let call = client.begin_call().ok_or_else(|| {
        Error::limit_reached(
            Limit::StreamsPerConnection,
            format!(
                "this connection has as many open calls as --max-streams-per-connection allows ({}); \
                 use another connection, or raise it",
                bounds.calls_max
            ),
        )
    })?;
    Ok(Some(call))
}

pin_project! {
    /// The answer to a call.
    #[project = AnswerProjection]
    pub(super) enum Answer<F> {
        Admitted { #[pin] future: F, call: Option<Call> },
        Refused { future: Refusal },
    }
}

impl<F> Future for Answer<F>
where
    F: Future<Output = Result<Response<tonic::body::Body>, Infallible>>,
{
    type Output = Result<Response<CountedBody>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let (response, call) = match self.project() {
            AnswerProjection::Admitted { future, call } => (ready!(future.poll(cx))?, call.take()),
            AnswerProjection::Refused { future } => (ready!(future.as_mut().poll(cx)), None),
        };
        Poll::Ready(Ok(response.map(|inner| CountedBody { inner, _call: call })))
    }
}

pin_project! {
    /// A body that holds its call open until it is sent or given up.
    pub(super) struct CountedBody {
        #[pin]
        inner: tonic::body::Body,
        _call: Option<Call>,
    }
}

impl Body for CountedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.project().inner.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
