//! Measures each call of the main port, and traces it: the outermost layer, so that refused calls are measured too.
//!
//! A call of gRPC ends with the status in its trailers, or in its headers. Where neither comes, the client has given the call
//! up.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use ::http::{HeaderMap, Request, Response, StatusCode};
use bytes::Buf;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use super::connect::ConnectCall;
use crate::{
    error::Reason,
    grpc::{self, GrpcProtocol},
    http,
    metrics::{
        CallMetrics, GrpcCode, HttpClass,
        calls::{MethodIndex, ServedMethods},
    },
    traces::{CallSpan, Called, Entered, Traces},
};

#[derive(Clone, Debug)]
pub(super) struct MeasureLayer {
    pub metrics: Arc<CallMetrics>,
    pub methods: ServedMethods,
    pub traces: Traces,
}

impl<S> Layer<S> for MeasureLayer {
    type Service = Measure<S>;

    fn layer(&self, inner: S) -> Measure<S> {
        Measure { layer: self.clone(), inner }
    }
}

/// See [`MeasureLayer`].
#[derive(Clone, Debug)]
pub(super) struct Measure<S> {
    layer: MeasureLayer,
    inner: S,
}

impl<S, R, B> Service<Request<R>> for Measure<S>
where
    S: Service<Request<R>, Response = Response<B>, Error = Infallible>,
    B: Body<Data: Buf>,
{
    type Response = Response<MeasuredBody<B>>;
    type Error = Infallible;
    type Future = MeasuredAnswer<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<R>) -> Self::Future {
        let call = MeasuredCall::begin(&self.layer, &request);
        MeasuredAnswer { future: self.inner.call(request), call: Some(call) }
    }
}

pin_project! {
    pub(super) struct MeasuredAnswer<F> {
        #[pin]
        future: F,
        call: Option<MeasuredCall>,
    }
}

impl<F, B> Future for MeasuredAnswer<F>
where
    F: Future<Output = Result<Response<B>, Infallible>>,
{
    type Output = Result<Response<MeasuredBody<B>>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = {
            let _entered = this.call.as_ref().and_then(MeasuredCall::enter);
            ready!(this.future.poll(cx))?
        };
        let protocol = GrpcProtocol::of(response.headers());
        let call = this.call.take().and_then(|call| call.answer(&response));
        Poll::Ready(Ok(response.map(|body| MeasuredBody { body, protocol, call })))
    }
}

pin_project! {
    /// A body that reports the status in its trailers.
    pub(super) struct MeasuredBody<B> {
        #[pin]
        body: B,
        protocol: GrpcProtocol,
        // `None` after the call has ended
        call: Option<MeasuredCall>,
    }
}

impl<B: Body<Data: Buf>> Body for MeasuredBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = self.project();
        let polled = ready!(this.body.poll_frame(cx));
        match &polled {
            Some(Ok(frame)) => {
                let in_data = || this.protocol.trailers_in(frame.data_ref()?.chunk());
                if let Some(trailers) = frame.trailers_ref() {
                    end(this.call, trailers);
                } else if let Some(trailers) = in_data() {
                    end(this.call, &trailers);
                }
            }
            // an answer without a status
            Some(Err(_)) | None => {
                if let Some(call) = this.call.take() {
                    call.end(GrpcCode::Unknown, None);
                }
            }
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn end(call: &mut Option<MeasuredCall>, trailers: &HeaderMap) {
    if let Some(code) = grpc::outcome_of(trailers)
        && let Some(call) = call.take()
    {
        call.end(code, Some(trailers));
    }
}

/// A call that has begun. Dropping it counts it as given up by its client.
#[derive(Debug)]
struct MeasuredCall {
    metrics: Arc<CallMetrics>,
    begun: Instant,
    outcome: CallOutcome,
    /// `None`: the call is not traced.
    span: Option<CallSpan>,
}

/// What is counted when the call is dropped.
#[derive(Clone, Copy, Debug)]
enum CallOutcome {
    Grpc(MethodIndex, GrpcCode),
    Http(HttpClass),
}

impl MeasuredCall {
    fn begin<B>(layer: &MeasureLayer, request: &Request<B>) -> Self {
        let metrics = Arc::clone(&layer.metrics);
        let is_grpc = grpc::is_grpc(request.headers());
        let span = layer.traces.call(request.headers(), || called(&layer.methods, request, is_grpc));
        let outcome = if is_grpc {
            let method = layer.methods.at(request.uri().path());
            if let Some(started) = metrics.started.of(method) {
                started.inc();
            }
            CallOutcome::Grpc(method, GrpcCode::Canceled)
        } else {
            CallOutcome::Http(HttpClass::Canceled)
        };
        Self { metrics, begun: Instant::now(), outcome, span }
    }

    /// Makes the span of the call the current one.
    fn enter(&self) -> Option<Entered> {
        self.span.as_ref().map(CallSpan::enter)
    }

    /// Notes the head of the answer. Returns the call unless the head has ended it.
    fn answer<B>(mut self, response: &Response<B>) -> Option<Self> {
        if let CallOutcome::Http(class) = &mut self.outcome {
            *class = class_of(response.status());
            if let Some(span) = &self.span {
                span.set_http_status(response.status());
            }
            if let Some(reason) = response.extensions().get::<Reason>() {
                self.fail(*reason);
            }
            return Some(self);
        }
        let Some(code) = grpc::outcome_of(response.headers()) else { return Some(self) };
        self.end(code, Some(response.headers()));
        None
    }

    /// Counts the call with this status, which the headers or trailers explain.
    fn end(mut self, code: GrpcCode, headers: Option<&HeaderMap>) {
        if let CallOutcome::Grpc(_, outcome) = &mut self.outcome {
            *outcome = code;
            if code != GrpcCode::Ok
                && let Some(reason) = headers.and_then(grpc::reason_of)
            {
                self.fail(reason);
            }
        }
    }

    fn fail(&self, reason: Reason) {
        self.metrics.errors.inc(reason);
        if let Some(span) = &self.span {
            span.set_reason(reason);
        }
    }
}

impl Drop for MeasuredCall {
    fn drop(&mut self) {
        let time = self.begun.elapsed();
        match self.outcome {
            CallOutcome::Grpc(method, code) => {
                self.metrics.handled.inc(method, code);
                if let Some(handling) = self.metrics.handling.of(method) {
                    handling.observe(time);
                }
            }
            CallOutcome::Http(class) => {
                self.metrics.http_requests.inc(class);
                self.metrics.http_seconds.observe(time);
            }
        }
        if let Some(span) = self.span.take() {
            if let CallOutcome::Grpc(_, code) = self.outcome {
                span.set_code(code);
            }
            span.end();
        }
    }
}

/// What the request calls, for its span. The path itself is the caller's, and is not told.
fn called<'a, B>(methods: &'a ServedMethods, request: &'a Request<B>, is_grpc: bool) -> Called<'a> {
    let path = request.uri().path();
    match methods.get(methods.at(path)) {
        Some(called) if is_grpc => {
            let is_connect = request.extensions().get::<Arc<ConnectCall>>().is_some();
            Called::Rpc { system: if is_connect { "connect_rpc" } else { "grpc" }, called }
        }
        _ => Called::Http { method: request.method(), route: http::route_of(path) },
    }
}

fn class_of(status: StatusCode) -> HttpClass {
    match status.as_u16() {
        ..=299 => HttpClass::Success,
        300..=399 => HttpClass::Redirect,
        400..=499 => HttpClass::ClientError,
        500.. => HttpClass::ServerError,
    }
}
