//! Refuses calls beyond the bounds of their connection.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use ::http::{Request, Response};
use pin_project_lite::pin_project;
use tonic::body::Body;
use tower::{Layer, Service};

use super::{
    client::{Arrived, Call, ClientConnection},
    refusal::{Refusal, is_always_served, is_reflection, refuse, wrong_protocol},
};
use crate::{
    error::{Error, Limit},
    grpc,
    limits::{UNIDENTIFIED_CALLS_MAX, UNIDENTIFIED_REFLECTIONS_MAX},
};

#[derive(Clone, Copy, Debug)]
pub(super) struct AdmissionLayer;

impl<S> Layer<S> for AdmissionLayer {
    type Service = Admission<S>;

    fn layer(&self, inner: S) -> Admission<S> {
        Admission { inner }
    }
}

/// Admits a call, or refuses it with `LIMIT_REACHED`. A call counts until the client has received its answer or has
/// disconnected.
#[derive(Clone, Debug)]
pub(super) struct Admission<S> {
    inner: S,
}

impl<S> Service<Request<Body>> for Admission<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = AdmissionAnswer<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let Some(client) = request.extensions().get::<Arc<ClientConnection>>().cloned() else {
            return AdmissionAnswer::Admitted { future: self.inner.call(request), counts: None };
        };
        let arrived = client.arrive();
        if let Some(answer) = wrong_protocol(&request) {
            return AdmissionAnswer::Refused {
                future: Box::pin(std::future::ready(answer)),
                counts: Some((arrived, None)),
            };
        }
        match admit(&client, &request) {
            Ok(call) => {
                request.extensions_mut().insert(Arc::clone(&call));
                AdmissionAnswer::Admitted { future: self.inner.call(request), counts: Some((arrived, Some(call))) }
            }
            Err(error) => AdmissionAnswer::Refused { future: refuse(request, error), counts: Some((arrived, None)) },
        }
    }
}

fn admit<B>(client: &Arc<ClientConnection>, request: &Request<B>) -> Result<Arc<Call>, Error> {
    let bounds = client.bounds();
    let path = request.uri().path();
    let is_open = is_always_served(path);
    if client.is_excess() && !is_open {
        return Err(Error::limit_reached(
            Limit::ConnectionsPerAddress,
            format!(
                "the source address of this connection has as many connections as --max-connections-per-address allows ({}); \
                 use fewer connections, or raise the flag if a proxy is in front of the service",
                bounds.connections.max_per_address.unwrap_or_default()
            ),
        ));
    }
    if !is_open && !client.has_place() {
        return Err(Error::limit_reached(
            Limit::Connections,
            format!(
                "this instance has as many connections as --max-connections allows ({}); \
                 use another instance, or raise the flag",
                bounds.connections.max
            ),
        ));
    }
    let call = client.begin_call().ok_or_else(|| {
        Error::limit_reached(
            Limit::StreamsPerConnection,
            format!(
                "this connection has as many open calls as --max-streams-per-connection allows ({}); \
                 use another connection, or raise the flag",
                bounds.connections.max_streams
            ),
        )
    })?;
    let call = if is_open {
        call.with_open_call(client.begin_open_call(is_reflection(path)).ok_or_else(|| {
            Error::limit_reached(
                Limit::UnidentifiedCalls,
                format!(
                    "a connection without an identified caller may have {UNIDENTIFIED_CALLS_MAX} open calls of health and \
                     reflection, and all such connections together {UNIDENTIFIED_REFLECTIONS_MAX} calls of reflection; \
                     make a call with credentials first"
                ),
            )
        })?)
    } else {
        call
    };
    if !grpc::is_grpc(request.headers()) {
        // a call over plain HTTP is complete with its head
        call.mark_busy();
    }
    Ok(Arc::new(call))
}

/// The counts of a call, which are kept until its answer was received: its arrival, and the call itself if it was admitted.
type CallCounts = (Arrived, Option<Arc<Call>>);

pin_project! {
    #[project = AdmissionAnswerProjection]
    pub(super) enum AdmissionAnswer<F> {
        Admitted { #[pin] future: F, counts: Option<CallCounts> },
        Refused { future: Refusal, counts: Option<CallCounts> },
    }
}

impl<F> Future for AdmissionAnswer<F>
where
    F: Future<Output = Result<Response<Body>, Infallible>>,
{
    type Output = Result<Response<Body>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let (mut response, counts) = match self.project() {
            AdmissionAnswerProjection::Admitted { future, counts } => (ready!(future.poll(cx))?, counts.take()),
            AdmissionAnswerProjection::Refused { future, counts } => (ready!(future.as_mut().poll(cx)), counts.take()),
        };
        if let Some(counts) = counts {
            response.extensions_mut().insert(grpc::AnswerGuard::new(counts));
        }
        Poll::Ready(Ok(response))
    }
}
