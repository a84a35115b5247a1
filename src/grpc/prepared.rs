//! The body that a handler has prepared, and the layer that puts it in the place of tonic's.
//!
//! It is put there by the outermost layer, so that what the layers between do for each frame of a body is not done for the
//! frames of a subscription. One of those layers is the translation to gRPC-Web, which is done here for them instead. What
//! tonic has allocated for its own body is freed at once: an idle subscription would hold 8 KiB for nothing.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, ready},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{TryFutureExt, future::MapOk};
use http::{HeaderMap, Request, Response, header::CONTENT_TYPE};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use super::{
    chunk::{Chunk, Holds},
    frames::{PREFIX_BYTES, put_prefix},
};
use crate::sync::lock;

/// Set in the first byte of a message's prefix: the message is the trailers. From the protocol of gRPC-Web.
const TRAILERS_FLAG: u8 = 0x80;

type BoxBody = Pin<Box<dyn Body<Data = Chunk, Error = Infallible> + Send>>;

/// A body that waits in the extensions of a response.
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

/// Frees the body that a prepared one will replace. For the layer around the handlers.
pub(crate) fn free_replaced<B: Default>(response: Response<B>) -> Response<B> {
    if response.extensions().get::<PreparedBody>().is_some() {
        return response.map(|_| B::default());
    }
    response
}

/// Puts prepared bodies in their place.
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
        self.inner.call(request).map_ok(send)
    }
}

fn send<B>(mut response: Response<B>) -> Response<AnswerBody<B>> {
    let holds = response.extensions_mut().remove();
    let inner = PreparedBody::take(&mut response);
    let protocol = Protocol::of(response.headers());
    response.map(|body| match inner {
        Some(prepared) => AnswerBody { body: Inner::Prepared { body: prepared, protocol, _replaced: body }, holds },
        None => AnswerBody { body: Inner::AsIs { body }, holds },
    })
}

/// How the client speaks gRPC.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Protocol {
    Grpc,
    /// With the trailers as the last message.
    GrpcWeb,
    /// With base64 around that.
    GrpcWebText,
}

impl Protocol {
    /// By the headers of a response.
    fn of(headers: &HeaderMap) -> Self {
        let kind = headers.get(CONTENT_TYPE).map_or(&[][..], |kind| kind.as_bytes());
        if kind.starts_with(b"application/grpc-web-text") {
            Self::GrpcWebText
        } else if kind.starts_with(b"application/grpc-web") {
            Self::GrpcWeb
        } else {
            Self::Grpc
        }
    }

    fn translate(self, frame: Frame<Chunk>) -> Frame<Chunk> {
        if matches!(self, Self::Grpc) {
            return frame;
        }
        let chunk = match frame.into_data() {
            Ok(chunk) => chunk,
            Err(frame) => trailers_message(&frame.into_trailers().unwrap_or_default()).into(),
        };
        Frame::data(match self {
            Self::GrpcWebText => chunk.encoded(|bytes| BASE64_STANDARD.encode(bytes).into()),
            Self::Grpc | Self::GrpcWeb => chunk,
        })
    }
}

/// Trailers as gRPC-Web has them: as lines of HTTP/1.
fn trailers_message(trailers: &HeaderMap) -> Bytes {
    let length = trailers.iter().map(|(name, value)| name.as_str().len() + value.len() + 3).sum();
    let mut message = BytesMut::with_capacity(PREFIX_BYTES + length);
    put_prefix(TRAILERS_FLAG, length, &mut message);
    for (name, value) in trailers {
        message.put_slice(name.as_ref());
        message.put_u8(b':');
        message.put_slice(value.as_bytes());
        message.put_slice(b"\r\n");
    }
    message.freeze()
}

pin_project! {
    /// The body of a response: as it came, or the prepared one. Its parts hold what the call holds.
    pub(crate) struct AnswerBody<B> {
        #[pin]
        body: Inner<B>,
        holds: Option<Holds>,
    }
}

pin_project! {
    #[project = InnerProjection]
    enum Inner<B> {
        AsIs { #[pin] body: B },
        // what the layers put into their bodies lives as long as the call
        Prepared { body: BoxBody, protocol: Protocol, _replaced: B },
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
            InnerProjection::AsIs { body } => ready!(body.poll_frame(cx))
                .map(|frame| frame.map(|frame| frame.map_data(Chunk::from)).map_err(Into::into)),
            InnerProjection::Prepared { body, protocol, .. } => {
                ready!(body.as_mut().poll_frame(cx)).map(|Ok(frame)| Ok(protocol.translate(frame)))
            }
        };
        let holds = &*this.holds;
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(|chunk| chunk.holding(holds.clone())))))
    }

    fn is_end_stream(&self) -> bool {
        match &self.body {
            Inner::AsIs { body } => body.is_end_stream(),
            Inner::Prepared { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            Inner::AsIs { body } => body.size_hint(),
            Inner::Prepared { body, .. } => body.size_hint(),
        }
    }
}
