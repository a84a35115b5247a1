//! Receives the bodies of requests within bounds, before they are decoded.
//!
//! The gRPC library allocates memory for a message as soon as the prefix announces its length. So this module first
//! checks the length, and charges it to the caller and to all callers together. While a budget is used up, the service
//! does not read the rest of the body, and HTTP/2 flow control holds the client back. A message that does not arrive in
//! time ends its call and gives back its charge.

mod answers;
mod body;
pub(crate) mod budgets;
mod connect;
mod inflate;
mod prefix;
pub(crate) mod read_counter;
mod right;
mod rules;

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use ::http::{HeaderName, Request, Response};
use axum::body::Body;
use futures_util::{
    TryFutureExt,
    future::{Either, MapOk, Ready, ready},
};
use tower::{Layer, Service};

use self::{body::BoundedBody, budgets::Budgets, right::PublishRight, rules::RequestRules};
use super::{
    client::{Call, ClientConnection},
    compression,
    connect::{ConnectCall, HeadFault},
    other::OtherRules,
};
use crate::{
    domain::Caller,
    grpc::{self, ServedTypes, skipped::Skipped},
    rooms::Rooms,
};

const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");

#[derive(Clone, Debug)]
pub(super) struct IntakeLayer {
    budgets: Arc<Budgets>,
    payload_bytes_max: usize,
    rooms: Rooms,
    /// The rules for another service than those of the contract.
    other: Option<(OtherRules, ServedTypes)>,
}

impl IntakeLayer {
    pub(super) fn new(rooms: Rooms, budgets: Arc<Budgets>) -> Self {
        Self { budgets, payload_bytes_max: rooms.payload_bytes_max(), rooms, other: None }
    }

    /// The same for another service, whose errors have no reasons.
    pub(super) fn for_other(self, rules: OtherRules, served: &ServedTypes) -> Self {
        Self { other: Some((rules, served.clone())), ..self }
    }

    fn rules(&self, path: &str) -> RequestRules {
        let rules = RequestRules::of(path, self.payload_bytes_max);
        let Some((other, served)) = &self.other else { return rules };
        let is_stream = served.method(path).is_some_and(|method| method.has_request_stream);
        RequestRules { bytes_max: other.request_bytes_max, is_stream, ..rules }
    }
}

impl<S> Layer<S> for IntakeLayer {
    type Service = Intake<S>;

    fn layer(&self, inner: S) -> Intake<S> {
        Intake { layer: self.clone(), inner }
    }
}

/// Replaces the body of each request by one that keeps the bounds, and adds a reason to every error.
#[derive(Clone, Debug)]
pub(super) struct Intake<S> {
    layer: IntakeLayer,
    inner: S,
}

impl<S> Intake<S> {
    /// What is done with an answer.
    fn finish(&self) -> fn(Response<Body>) -> Response<Body> {
        if self.layer.other.is_none() { answers::explain } else { answers::unexplain }
    }
}

impl<S> Service<Request<Body>> for Intake<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future =
        Either<MapOk<S::Future, fn(Response<Body>) -> Response<Body>>, Ready<Result<Response<Body>, Infallible>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let rules = self.layer.rules(request.uri().path());
        let extensions = request.extensions_mut();
        let connect = extensions.remove::<Arc<ConnectCall>>();
        if let Some(fault) = connect.as_ref().and_then(|call| call.fault.as_ref()) {
            return Either::Right(ready(Ok(self.finish()(grpc::status(fault.error()).into_http()))));
        }
        let is_compressed = match connect {
            // the fields of gRPC mean nothing in another protocol
            Some(_) => false,
            None => match compression::is_gzip(request.headers(), GRPC_ENCODING) {
                Some(is_compressed) => is_compressed,
                None => return Either::Right(ready(Ok(self.finish()(unsupported_compression())))),
            },
        };
        if is_compressed {
            // the gRPC library gets plain messages
            request.headers_mut().remove(GRPC_ENCODING);
        }
        let extensions = request.extensions_mut();
        // removed, so that the request does not keep the call open: the call ends with its answer
        let call = extensions.remove::<Arc<Call>>();
        let skipped = Skipped::default();
        if rules.drops_large {
            extensions.insert(skipped.clone());
        }
        let caller = extensions.get::<Caller>();
        let connection = extensions.get::<Arc<ClientConnection>>();
        let share = self.layer.budgets.of_call(caller.and_then(Caller::id), connection.map(|client| client.budget()));
        if let Some(call) = &call
            && rules.is_stream
            && caller.is_some()
        {
            call.mark_busy();
        }
        let right = caller.cloned().map(|caller| PublishRight::new(self.layer.rooms.clone(), caller));
        let request = request.map(|body| {
            let budgets = share.clone();
            let bound = |body, rules| BoundedBody::new(body, rules, share, call, skipped, right);
            match connect {
                Some(connect) => connect::translated(body, rules, &connect, budgets, bound),
                None if is_compressed => connect::inflated(bound(body, rules), rules, budgets),
                None => Body::new(bound(body, rules)),
            }
        });
        let finish = self.finish();
        Either::Left(self.inner.call(request).map_ok(finish))
    }
}

/// The answer to a gRPC call with an unknown compression, which lists the known ones (gRPC, "Compression").
fn unsupported_compression() -> Response<Body> {
    let mut response = grpc::status(HeadFault::Compression.error()).into_http();
    response.headers_mut().insert("grpc-accept-encoding", compression::SUPPORTED);
    response
}
