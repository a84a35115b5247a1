//! Identifies the caller of each request, or refuses the request.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use ::http::{Request, Response};
use futures_util::{
    FutureExt,
    future::{Either, Map},
};
use tonic::body::Body;
use tower::{Layer, Service};

use super::{
    callers::{CallerCall, Callers},
    client::{Call, ClientConnection},
    headers,
    refusal::{Refusal, is_always_served, refuse},
};
use crate::auth::Auth;

#[derive(Clone, Debug)]
pub(super) struct AuthenticationLayer {
    pub auth: Auth,
    pub callers: Arc<Callers>,
}

impl<S> Layer<S> for AuthenticationLayer {
    type Service = Authentication<S>;

    fn layer(&self, inner: S) -> Authentication<S> {
        Authentication { auth: self.auth.clone(), callers: Arc::clone(&self.callers), inner }
    }
}

/// Adds the [`Caller`](crate::domain::Caller) to a request's extensions. Calls of health and reflection need no
/// identity and get no caller.
#[derive(Clone, Debug)]
pub(super) struct Authentication<S> {
    auth: Auth,
    callers: Arc<Callers>,
    inner: S,
}

type Answered = Result<Response<Body>, Infallible>;

impl<S> Service<Request<Body>> for Authentication<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<S::Future, Map<Refusal, fn(Response<Body>) -> Answered>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        if is_always_served(request.uri().path()) {
            headers::keep_needed(&mut request);
            return Either::Left(self.inner.call(request));
        }
        let client = request.extensions().get::<Arc<ClientConnection>>();
        let certificate = client.and_then(|client| client.certificate());
        let identified = self.auth.identify(request.headers(), certificate).and_then(|caller| {
            if let Some(client) = client {
                client.identify();
            }
            let open = self.callers.begin(&caller, request.uri().path())?;
            let turns = open.as_ref().map(CallerCall::turns);
            if let (Some(open), Some(call)) = (open, request.extensions().get::<Arc<Call>>()) {
                call.keep_count(open);
            }
            Ok((caller, turns))
        });
        match identified {
            Ok((caller, turns)) => {
                request.extensions_mut().insert(caller);
                if let Some(turns) = turns {
                    request.extensions_mut().insert(turns);
                }
                Either::Left(self.inner.call(request))
            }
            Err(error) => Either::Right(refuse(request, error).map(Ok)),
        }
    }
}
