//! A body that a handler has prepared, and the layers that replace the body of tonic by it.
//!
//! The innermost layer ([`drop_replaced`]) drops the body of tonic and puts an empty body in its place, because each
//! idle subscription would use 8 KiB for it. The outermost layer ([`PreparedBodies`]) sends the prepared body instead of
//! that empty one, so that the layers between do no work for the frames of a subscription. One of the layers between
//! translates to gRPC-Web; [`super::web`] translates prepared bodies in its place. The layers between wrap the empty
//! body in values that must live as long as the call, so it is kept until the answer ends.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::{TryFutureExt, future::MapOk};
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use super::{
    chunk::{AnswerGuard, Chunk},
    web::GrpcProtocol,
};
use crate::sync::lock;

type BoxBody = Pin<Box<dyn Body<Data = Chunk, Error = Infallible> + Send>>;

/// A prepared body, kept in the extensions of a response.
#[derive(Clone)]
pub(super) struct PreparedBody(Arc<Mutex<Option<BoxBody>>>);

impl PreparedBody {
    pub(super) fn new(body: impl Body<Data = Chunk, Error = Infallible> + Send + 'static) -> Self {
        Self(Arc::new(Mutex::new(Some(Box::pin(body)))))
    }

    fn take<B>(response: &mut Response<B>) -> Option<BoxBody> {
        let Self(body) = response.extensions_mut().remove()?;
        lock(&body).take()
    }
}

/// Drops the body of a response that has a prepared body, and leaves an empty one. For the innermost layer.
pub(super) fn drop_replaced<B: Default>(response: Response<B>) -> Response<B> {
    if response.extensions().get::<PreparedBody>().is_some() {
        return response.map(|_| B::default());
    }
    response
}

/// The layer that replaces the body of a response by its prepared body.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PreparedBodies;

impl<S> Layer<S> for PreparedBodies {
    type Service = PreparedBodiesService<S>;

    fn layer(&self, inner: S) -> PreparedBodiesService<S> {
        PreparedBodiesService { inner }
    }
}

/// See [`PreparedBodies`].
#[derive(Clone, Debug)]
pub(crate) struct PreparedBodiesService<S> {
    inner: S,
}

impl<S, R, B> Service<Request<R>> for PreparedBodiesService<S>
where
    S: Service<Request<R>, Response = Response<B>>,
{
    type Response = Response<AnswerBody<B>>;
    type Error = S::Error;
    type Future = MapOk<S::Future, fn(Response<B>) -> Response<AnswerBody<B>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<R>) -> Self::Future {
        self.inner.call(request).map_ok(with_prepared_body)
    }
}

fn with_prepared_body<B>(mut response: Response<B>) -> Response<AnswerBody<B>> {
    // stays in the extensions too, for a layer outside that makes chunks of its own
    let guard = response.extensions().get().cloned();
    let inner = PreparedBody::take(&mut response);
    let protocol = GrpcProtocol::of(response.headers());
    response.map(|body| match inner {
        Some(prepared) => {
            AnswerBody { body: AnswerForm::Prepared { body: prepared, protocol, _replaced: body }, guard }
        }
        None => AnswerBody { body: AnswerForm::AsIs { body }, guard },
    })
}

pin_project! {
    /// The body of a response: unchanged, or the prepared one. The call counts as open, and keeps its shares of bounded
    /// resources, until every chunk of the body was dropped.
    pub(crate) struct AnswerBody<B> {
        #[pin]
        body: AnswerForm<B>,
        guard: Option<AnswerGuard>,
    }
}

pin_project! {
    #[project = AnswerFormProjection]
    enum AnswerForm<B> {
        AsIs { #[pin] body: B },
        // the empty body, in which the layers between keep values that must live as long as the call
        Prepared { body: BoxBody, protocol: GrpcProtocol, _replaced: B },
    }
}

impl<B> Body for AnswerBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<tonic::codegen::StdError>,
{
    type Data = Chunk;
    type Error = tonic::codegen::StdError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Chunk>, Self::Error>>> {
        let this = self.project();
        let frame = match this.body.project() {
            AnswerFormProjection::AsIs { body } => ready!(body.poll_frame(cx))
                .map(|frame| frame.map(|frame| frame.map_data(Chunk::from)).map_err(Into::into)),
            AnswerFormProjection::Prepared { body, protocol, .. } => {
                ready!(body.as_mut().poll_frame(cx)).map(|Ok(frame)| Ok(protocol.translate(frame)))
            }
        };
        let guard = &*this.guard;
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(|chunk| chunk.guarded_by(guard.clone())))))
    }

    fn is_end_stream(&self) -> bool {
        match &self.body {
            AnswerForm::AsIs { body } => body.is_end_stream(),
            AnswerForm::Prepared { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            AnswerForm::AsIs { body } => body.size_hint(),
            AnswerForm::Prepared { body, .. } => body.size_hint(),
        }
    }
}
