//! The body that a handler has prepared, and the layers that put it in the place of tonic's.
//!
//! It is put there by the outermost layer, so that what the layers between do for each frame of a body is not done for the
//! frames of a subscription; but where gRPC-Web is translated, before the translation, which has to see it.

use std::{
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::{TryFutureExt, future::MapOk};
use http::{Request, Response, header::CONTENT_TYPE};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use crate::sync::lock;

/// A body that waits in the extensions of a response.
#[derive(Clone)]
pub(super) struct Prepared(Arc<Mutex<Option<tonic::body::Body>>>);

impl Prepared {
    pub(super) fn new<B>(body: B) -> Self
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<tonic::codegen::StdError>,
    {
        Self(Arc::new(Mutex::new(Some(tonic::body::Body::new(body)))))
    }

    fn take<B>(response: &mut Response<B>) -> Option<tonic::body::Body> {
        let Self(body) = response.extensions_mut().remove()?;
        lock(&body).take()
    }
}

/// Puts prepared bodies in their place.
#[derive(Clone, Copy, Debug)]
pub(crate) enum SendFrames {
    /// Around every layer.
    Outermost,
    /// Around the handlers.
    BeforeTranslation,
}

impl<S> Layer<S> for SendFrames {
    type Service = SendingFrames<S>;

    fn layer(&self, inner: S) -> SendingFrames<S> {
        SendingFrames { inner, place: *self }
    }
}

/// See [`SendFrames`].
#[derive(Clone, Debug)]
pub(crate) struct SendingFrames<S> {
    inner: S,
    place: SendFrames,
}

/// The request goes through all layers untranslated.
#[derive(Clone, Copy)]
struct Untranslated;

impl<S, R, B> Service<Request<R>> for SendingFrames<S>
where
    S: Service<Request<R>, Response = Response<B>>,
{
    type Response = Response<Sent<B>>;
    type Error = S::Error;
    type Future = MapOk<S::Future, fn(Response<B>) -> Response<Sent<B>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<R>) -> Self::Future {
        let send = match self.place {
            SendFrames::Outermost => {
                if !is_grpc_web(&request) {
                    request.extensions_mut().insert(Untranslated);
                }
                send_prepared
            }
            SendFrames::BeforeTranslation if request.extensions().get::<Untranslated>().is_some() => send_later,
            SendFrames::BeforeTranslation => send_prepared,
        };
        self.inner.call(request).map_ok(send)
    }
}

fn is_grpc_web<B>(request: &Request<B>) -> bool {
    request.headers().get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc-web"))
}

fn send_as_is<B>(response: Response<B>) -> Response<Sent<B>> {
    response.map(|body| Sent::AsIs { body })
}

/// The body that is replaced goes at once, with what it has allocated; what the layers make of its place stays.
fn send_later<B>(response: Response<B>) -> Response<Sent<B>> {
    if response.extensions().get::<Prepared>().is_some() {
        return response.map(|_| Sent::Nothing);
    }
    send_as_is(response)
}

fn send_prepared<B>(mut response: Response<B>) -> Response<Sent<B>> {
    match Prepared::take(&mut response) {
        Some(body) => response.map(|replaced| Sent::Prepared { body, _replaced: replaced }),
        None => send_as_is(response),
    }
}

pin_project! {
    /// The body of a response: as it came, nothing until the prepared one takes its place, or that one.
    #[project = SentProjection]
    pub(crate) enum Sent<B> {
        AsIs { #[pin] body: B },
        Nothing,
        // what the layers put into their bodies lives as long as the call
        Prepared { #[pin] body: tonic::body::Body, _replaced: B },
    }
}

impl<B> Body for Sent<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<tonic::codegen::StdError>,
{
    type Data = Bytes;
    type Error = tonic::codegen::StdError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.project() {
            SentProjection::AsIs { body } => body.poll_frame(cx).map_err(Into::into),
            SentProjection::Nothing => Poll::Ready(None),
            SentProjection::Prepared { body, .. } => body.poll_frame(cx).map_err(Into::into),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::AsIs { body } => body.is_end_stream(),
            Self::Nothing => true,
            Self::Prepared { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::AsIs { body } => body.size_hint(),
            Self::Nothing => SizeHint::with_exact(0),
            Self::Prepared { body, .. } => body.size_hint(),
        }
    }
}
