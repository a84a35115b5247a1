//! Puts who makes a call into its request, or refuses it.

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
    connections::Client,
    refusal::{Refusal, is_always_served, refuse},
};
use crate::auth::Auth;

/// Puts [`Authentication`] before a service.
#[derive(Clone, Debug)]
pub(super) struct AuthenticationLayer(pub Auth);

impl<S> Layer<S> for AuthenticationLayer {
    type Service = Authentication<S>;

    fn layer(&self, inner: S) -> Authentication<S> {
        Authentication { auth: self.0.clone(), inner }
    }
}

/// Adds the [`Caller`](crate::domain::Caller) to a request's extensions. Health and reflection are open to all, and get
/// none.
#[derive(Clone, Debug)]
pub(super) struct Authentication<S> {
    auth: Auth,
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
        if !is_always_served(request.uri().path()) {
            let client = request.extensions().get::<Arc<Client>>();
            let certificate = client.and_then(|client| client.certificate());
            match self.auth.identify(request.headers(), certificate) {
                Ok(caller) => drop(request.extensions_mut().insert(caller)),
                Err(error) => return Either::Right(refuse(request, error).map(Ok)),
            }
        }
        Either::Left(self.inner.call(request))
    }
}
