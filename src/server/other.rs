//! Another gRPC service on the same listener and behind the same layers, for the conformance tests of the protocols.

use std::convert::Infallible;

use ::http::{Request, Response};
use axum::Router;
use tonic::{body::Body, server::NamedService};
use tower::{Service, ServiceExt};

/// A gRPC service that is served beside that of the contract.
#[derive(Clone, Debug)]
pub struct OtherService {
    pub(super) routes: Router,
    pub(super) rules: OtherRules,
}

/// What the layers must know about another service.
#[derive(Clone, Copy, Debug)]
pub(super) struct OtherRules {
    /// The descriptor set of the service.
    pub descriptors: &'static [u8],
    /// Maximum bytes of a request message.
    pub request_bytes_max: usize,
}

impl OtherService {
    /// A service with the descriptors of its methods and messages, and the maximum bytes of its request messages.
    #[must_use]
    pub fn new<S>(service: S, descriptors: &'static [u8], request_bytes_max: usize) -> Self
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + NamedService,
        S: Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
    {
        let path = format!("/{}/{{*method}}", S::NAME);
        let service = service.map_request(|request: Request<axum::body::Body>| request.map(Body::new));
        let routes = Router::new().route_service(&path, service);
        Self { routes, rules: OtherRules { descriptors, request_bytes_max } }
    }
}
