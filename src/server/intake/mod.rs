//! Takes the bodies of requests in within bounds, before anything of them is decoded.
//!
//! The gRPC library makes room for a message as soon as its length is announced. So the length is checked and charged here
//! first: to the caller, and to all callers together. While there is no room the rest of the body is not read, and HTTP/2
//! flow control holds the client back. A message that does not come in time ends its call, and gives back what it was
//! charged.

mod answers;
mod body;
pub(crate) mod budgets;
mod prefix;
mod right;
mod rules;
pub(crate) mod unread;

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use ::http::{Request, Response};
use axum::body::Body;
use futures_util::{TryFutureExt, future::MapOk};
use tower::{Layer, Service};

use self::{body::Charged, budgets::Budgets, right::Right, rules::Rules};
use super::client::{Call, Client};
use crate::{domain::Caller, grpc::skipped::Skipped, rooms::Rooms};

/// Puts [`Intake`] before a service.
#[derive(Clone, Debug)]
pub(super) struct IntakeLayer {
    budgets: Arc<Budgets>,
    payload_bytes_max: usize,
    rooms: Rooms,
}

impl IntakeLayer {
    /// For calls about these rooms.
    pub(super) fn new(rooms: Rooms) -> Self {
        Self { budgets: Arc::default(), payload_bytes_max: rooms.payload_bytes_max(), rooms }
    }
}

impl<S> Layer<S> for IntakeLayer {
    type Service = Intake<S>;

    fn layer(&self, inner: S) -> Intake<S> {
        Intake { layer: self.clone(), inner }
    }
}

/// Replaces the body of each request by one that keeps the bounds, and gives every error its reason.
#[derive(Clone, Debug)]
pub(super) struct Intake<S> {
    layer: IntakeLayer,
    inner: S,
}

impl<S> Service<Request<Body>> for Intake<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = MapOk<S::Future, fn(Response<Body>) -> Response<Body>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let rules = Rules::of(request.uri().path(), self.layer.payload_bytes_max);
        let extensions = request.extensions_mut();
        // the call's own end is that of its answer
        let call = extensions.remove::<Arc<Call>>();
        let skipped = Skipped::default();
        if rules.skips {
            extensions.insert(skipped.clone());
        }
        let caller = extensions.get::<Caller>();
        let connection = extensions.get::<Arc<Client>>();
        let share = self.layer.budgets.share(caller.and_then(Caller::id), connection.map(|client| client.budget()));
        if let Some(call) = &call
            && rules.is_stream
            && caller.is_some()
        {
            call.is_under_way();
        }
        let right = caller.cloned().map(|caller| Right::new(self.layer.rooms.clone(), caller));
        let request = request.map(|body| Body::new(Charged::new(body, rules, share, call, skipped, right)));
        self.inner.call(request).map_ok(answers::explain)
    }
}
