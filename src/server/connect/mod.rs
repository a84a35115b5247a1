//! The Connect protocol (connectrpc.com/docs/protocol): calls with curl and `fetch`, in JSON.
//!
//! This layer stands before all others. It makes a call of gRPC of each request, and translates the answer back. So
//! authentication, admission, deadlines, request ids, metrics and the handlers see only gRPC, and each error that one of
//! them makes has the form of the client's protocol. The body of a request is translated where it is received
//! (`intake::connect`), because there it is charged to the caller.
//!
//! Messages are translated by their descriptors (`grpc::json`). The frames of a subscription are encoded once for all
//! subscribers, and translated for each subscriber that wants JSON.
//!
//! Requests and answers may be compressed with gzip. Requests are inflated where they are received. A tower layer for
//! compression knows neither the envelopes of this protocol, nor the budgets of callers.
//!
//! # Why no library
//!
//! Libraries that serve this protocol in Rust (`connectrpc`, `connectrpc-axum`, `axum-connect`) generate message types and
//! handlers of their own. Beside tonic, each RPC would have a second handler, and each field a second conversion with its
//! checks: `connectrpc` has the types of `buffa`, the others those of prost with `pbjson`. They also read the whole body of a
//! request before they hand it over. Here a body is charged while it is received, and the right to publish is checked before
//! a large one is received. A tower layer that translates any gRPC service, as tonic-web does for gRPC-Web, does not exist
//! for this protocol.

mod body;
mod call;
mod codes;
mod deflate;
mod errors;
mod head;
mod query;
mod request;
mod stream;
mod unary;

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use ::http::{HeaderMap, Request, Response, header};
use futures_util::{
    FutureExt, TryFutureExt,
    future::{BoxFuture, Either, MapOk},
};
use http_body::Body as HttpBody;
use tonic::body::Body;
use tower::{Layer, Service};

use self::{body::ConnectBody, head::RequestHead};
pub(super) use self::{
    call::{ConnectCall, ConnectCodec, HeadFault},
    head::{ForbiddenHead, is_method},
    request::OneMessage,
};
use crate::grpc::{AnswerGuard, Chunk, ServedTypes};

#[derive(Clone, Debug)]
pub(super) struct ConnectLayer {
    pub served: ServedTypes,
}

impl<S> Layer<S> for ConnectLayer {
    type Service = Connect<S>;

    fn layer(&self, inner: S) -> Connect<S> {
        Connect { served: self.served.clone(), inner }
    }
}

/// Translates calls in the Connect protocol. Passes all other requests on.
#[derive(Clone, Debug)]
pub(super) struct Connect<S> {
    served: ServedTypes,
    inner: S,
}

type ConnectAnswer<B> = Result<Response<ConnectBody<B>>, Infallible>;

impl<S, B> Service<Request<Body>> for Connect<S>
where
    S: Service<Request<Body>, Response = Response<B>, Error = Infallible>,
    S::Future: Send + 'static,
    B: HttpBody<Data = Chunk> + Send + 'static,
{
    type Response = Response<ConnectBody<B>>;
    type Error = Infallible;
    type Future =
        Either<MapOk<S::Future, fn(Response<B>) -> Response<ConnectBody<B>>>, BoxFuture<'static, ConnectAnswer<B>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let (call, message) = match head::read(&request, &self.served) {
            RequestHead::Other => return Either::Left(self.inner.call(request).map_ok(unchanged as fn(_) -> _)),
            RequestHead::Forbidden(forbidden) => {
                request.extensions_mut().insert(forbidden);
                return Either::Left(self.inner.call(request).map_ok(unchanged as fn(_) -> _));
            }
            RequestHead::Call(call) => (Arc::new(call), None),
            RequestHead::Get(call, message) => (Arc::new(call), Some(message)),
        };
        let request = head::into_grpc(request, &call);
        let request = match message {
            Some(message) => request.map(|_| head::body(message)),
            None => request,
        };
        let (answer, served) = (self.inner.call(request), self.served.clone());
        Either::Right(answer.then(move |answered| translate(answered, call, served)).boxed())
    }
}

async fn translate<B>(
    answered: Result<Response<B>, Infallible>,
    call: Arc<ConnectCall>,
    served: ServedTypes,
) -> ConnectAnswer<B>
where
    B: HttpBody<Data = Chunk>,
{
    let Ok(response) = answered;
    if !is_grpc(response.headers()) {
        return Ok(unchanged(response));
    }
    if call.has_envelopes {
        return Ok(stream::answer(response, &call, served));
    }
    Ok(unary::answer(response, call, served).await)
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// An answer that is not translated.
fn unchanged<B>(mut response: Response<B>) -> Response<ConnectBody<B>> {
    // only chunks hold the call open, so that it ends as soon as the client has taken the last one
    response.extensions_mut().remove::<AnswerGuard>();
    response.map(|body| ConnectBody::AsIs { body })
}
