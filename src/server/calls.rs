//! The service that answers calls: the handlers, and every layer before them.

use std::{convert::Infallible, sync::Arc};

use ::http::HeaderValue;
use tonic_web::GrpcWebLayer;
use tower::{
    Service,
    util::{MapRequestLayer, MapResponseLayer},
};
use tower_http::{
    request_id::{MakeRequestUuid, PropagateRequestIdLayer, RequestId, SetRequestIdLayer},
    trace::TraceLayer,
};
use tracing::{Span, info_span};

use super::{
    REQUEST_ID,
    admission::AdmissionLayer,
    authentication::AuthenticationLayer,
    callers::Callers,
    connect::ConnectLayer,
    cors::CrossOriginLayer,
    deadline::DeadlineLayer,
    intake::{IntakeLayer, budgets::Budgets},
    measure::MeasureLayer,
    other::OtherService,
    pieces,
    refusal::{no_such_method, no_such_path},
};
use crate::{
    auth::Auth,
    error::Result,
    grpc::{self, GrpcMetrics, ServedTypes, health::Health},
    http,
    limits::REQUEST_ID_BYTES_MAX,
    metrics::Metrics,
    rooms::Rooms,
    traces::Traces,
};

/// What the layers before the handlers work with.
pub(super) struct Layers {
    pub auth: Auth,
    pub callers: Arc<Callers>,
    pub cross_origin: CrossOriginLayer,
    pub budgets: Arc<Budgets>,
    pub traces: Traces,
}

/// Returns the service that answers calls, with every layer before it. `other`: another gRPC service beside that of the
/// contract.
pub(super) fn calls(
    rooms: &Rooms,
    health: &Health,
    layers: Layers,
    metrics: &Metrics,
    other: Option<OtherService>,
) -> Result<
    impl Service<
        ::http::Request<tonic::body::Body>,
        Response = ::http::Response<
            impl http_body::Body<Data: Send, Error: Into<tonic::codegen::StdError>> + Send + 'static,
        >,
        Error = Infallible,
        Future: Send + 'static,
    > + Clone
    + Send
    + 'static,
> {
    let of_answers = GrpcMetrics { calls: Arc::clone(&metrics.calls), delivery: Arc::clone(&metrics.delivery) };
    let Layers { auth, callers, cross_origin, budgets, traces } = layers;
    let served = ServedTypes::read(other.as_ref().map(|other| other.rules.descriptors).as_slice())?;
    let intake = IntakeLayer::new(rooms.clone(), budgets);
    let others = other.map(|OtherService { routes, rules }| {
        let intake = intake.clone().for_other(rules, &served);
        routes.route_layer(intake).route_layer(GrpcWebLayer::new())
    });
    let router = grpc::routes(rooms.clone(), of_answers, health, intake)?
        .merge(others.unwrap_or_default())
        .merge(http::history_routes(rooms.clone()).method_not_allowed_fallback(no_such_method))
        .merge(
            http::event_routes(rooms.clone(), served.clone(), Arc::clone(&metrics.delivery))
                .method_not_allowed_fallback(no_such_method),
        )
        .route_layer(MapResponseLayer::new(pieces::in_pieces))
        .fallback(no_such_path);
    Ok(tower::ServiceBuilder::new()
        .layer(ConnectLayer { served })
        .layer(MeasureLayer { metrics: Arc::clone(&metrics.calls), methods: metrics.methods.clone(), traces })
        .layer(grpc::PreparedBodies)
        .layer(MapRequestLayer::new(checked_request_id::<tonic::body::Body>))
        .layer(SetRequestIdLayer::x_request_id(MakeRequestUuid))
        .layer(TraceLayer::new_for_grpc().make_span_with(span).on_request(()).on_failure(()))
        .layer(PropagateRequestIdLayer::x_request_id())
        .layer(cross_origin)
        .layer(AdmissionLayer)
        .layer(AuthenticationLayer { auth, callers })
        .layer(DeadlineLayer)
        .service(tonic::service::Routes::from(router).prepare()))
}

/// Removes a client's request id unless it is short and of harmless characters, because the service returns and logs
/// it.
fn checked_request_id<B>(mut request: ::http::Request<B>) -> ::http::Request<B> {
    if let Some(given) = request.headers_mut().remove(REQUEST_ID) {
        let is_harmless = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:/+=@".contains(byte);
        let fits = (1..=REQUEST_ID_BYTES_MAX).contains(&given.len()) && given.as_bytes().iter().all(is_harmless);
        // a copy, because the original value keeps the whole header block in memory
        if let Some(copy) = HeaderValue::from_bytes(given.as_bytes()).ok().filter(|_| fits) {
            request.headers_mut().insert(REQUEST_ID, copy);
        }
    }
    request
}

fn span<B>(request: &::http::Request<B>) -> Span {
    let id = request.extensions().get::<RequestId>().and_then(|id| id.header_value().to_str().ok()).unwrap_or_default();
    info_span!("call", path = request.uri().path(), request_id = id)
}
