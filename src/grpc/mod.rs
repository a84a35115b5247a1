//! The gRPC service of the contract. Each handler parses its request, makes one call of [`Rooms`], and converts the
//! result.
//!
//! Only this module uses the generated types. It does not use async-nats.

mod chunk;
mod codec;
mod consume;
mod convert;
mod events;
mod frames;
pub(crate) mod framing;
mod gathered;
pub(crate) mod health;
mod json;
mod json_shape;
mod json_text;
mod methods;
mod page;
mod prepared;
mod publish_stream;
mod reflection;
mod session;
pub(crate) mod skipped;
mod status;
mod types;
mod web;

use std::{convert::Infallible, pin::Pin, sync::Arc};

use axum::{Router, routing::Route};
use futures_util::Stream;
use http::Extensions;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Request, Response, Status, Streaming, service::Routes};
use tonic_web::GrpcWebLayer;
use tower::{Layer, util::MapResponseLayer};

pub(crate) use self::{
    chunk::{AnswerGuard, Chunk},
    codec::{Codec, without_delay},
    events::event_stream,
    frames::encode_message,
    health::Health,
    json::{CORRELATION_JSON_BYTES_MAX, MessageType, room_id_in_json, stand_in_json},
    json_shape::JsonShape,
    json_text::JsonText,
    methods::{has_commands, has_request_stream, served},
    prepared::PreparedBodies,
    session::decode_commands,
    skipped::{Skipped, room_id_at},
    status::{explained, outcome_of, reason_of, status},
    types::{MethodTypes, ServedTypes},
    web::GrpcProtocol,
};
use self::{prepared::drop_replaced, reflection::Reflection, types::SERVED_SETS};
use crate::{
    domain::Caller,
    error::{Error, Reason},
    limits::{PUBLISH_BATCH_BYTES_MAX, REQUEST_SLACK_BYTES},
    metrics::{CallMetrics, DeliveryMetrics},
    rooms::Rooms,
    v1::{
        self,
        room_service_server::{RoomService, RoomServiceServer},
    },
};

/// The service name for which health is reported.
pub(crate) const SERVICE_NAME: &str = <RoomServiceServer<Service> as tonic::server::NamedService>::NAME;

/// The gRPC service of the contract.
pub(crate) struct Service {
    rooms: Rooms,
    metrics: GrpcMetrics,
}

/// The metrics of what calls answer. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct GrpcMetrics {
    pub calls: Arc<CallMetrics>,
    pub delivery: Arc<DeliveryMetrics>,
}

impl GrpcMetrics {
    /// Counts an error inside an answer. The status of a call is counted where the call is measured.
    fn failed<T>(&self, outcome: &Result<T, Error>) {
        if let Err(error) = outcome {
            self.calls.errors.inc(error.reason());
        }
    }
}

impl Service {
    /// Makes the service. It decodes requests somewhat larger than the largest payload and the largest batch, so that a
    /// payload or batch that is too large is refused with the name of its field.
    pub(crate) fn new(rooms: Rooms, metrics: GrpcMetrics) -> RoomServiceServer<Self> {
        let decode_bytes_max = rooms.payload_bytes_max().max(PUBLISH_BATCH_BYTES_MAX) + REQUEST_SLACK_BYTES;
        RoomServiceServer::new(Self { rooms, metrics })
            .max_decoding_message_size(decode_bytes_max)
            .max_encoding_message_size(usize::MAX)
    }
}

/// The routes of the contract's service, of health, and of both versions of reflection (for tools such as grpcurl), in
/// gRPC and gRPC-Web. `intake` receives each request after its translation from gRPC-Web.
pub(crate) fn routes<L>(rooms: Rooms, metrics: GrpcMetrics, health: &Health, intake: L) -> Result<Router, Error>
where
    L: Layer<Route> + Clone + Send + Sync + 'static,
    L::Service: tower::Service<axum::extract::Request, Response = axum::response::Response, Error = Infallible>,
    L::Service: Clone + Send + Sync + 'static,
    <L::Service as tower::Service<axum::extract::Request>>::Future: Send + 'static,
{
    let reflection = Reflection::of(&SERVED_SETS);
    let reflection = reflection.map_err(|error| {
        Error::new(Reason::Internal, "the descriptors of the contract cannot be read").because(error)
    })?;
    let routes = Routes::new(Service::new(rooms, metrics));
    let routes = routes.add_service(reflection.v1()).add_service(reflection.v1alpha()).add_service(health.service());
    Ok(routes
        .prepare()
        .into_axum_router()
        .route_layer(intake)
        .route_layer(MapResponseLayer::new(drop_replaced::<axum::body::Body>))
        .route_layer(GrpcWebLayer::new()))
}

/// Whether the content type is one of gRPC or gRPC-Web, so that the answer must be one too.
pub(crate) fn is_grpc(headers: &http::HeaderMap) -> bool {
    let kind = headers.get(http::header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    kind.is_some_and(|kind| kind.starts_with("application/grpc"))
}

/// The error of a call of an unknown service or method.
pub(crate) fn no_such_call() -> Error {
    Error::new(Reason::NotSupported, "the service or method does not exist; reflection lists the existing ones")
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The caller that authentication has put into the request.
fn caller<T>(request: &Request<T>) -> Result<Caller, Error> {
    Caller::require(request.extensions().get())
}

/// Bounds how many calls of one caller use NATS at the same time.
#[derive(Clone, Debug)]
pub(crate) struct CallTurns(pub Arc<Semaphore>);

/// Waits until the call may use NATS: a caller has a bound on such calls at the same time. Publishes do not wait here,
/// because they have queues of their own. `None` when the caller has no bound.
pub(crate) async fn turn(extensions: &Extensions) -> Option<OwnedSemaphorePermit> {
    let CallTurns(turns) = extensions.get()?;
    // the semaphore is never closed
    Arc::clone(turns).acquire_owned().await.ok()
}

#[tonic::async_trait]
impl RoomService for Service {
    async fn create_room(
        &self,
        request: Request<v1::CreateRoomRequest>,
    ) -> Result<Response<v1::CreateRoomResponse>, Status> {
        let call = async {
            let caller = caller(&request)?;
            let _turn = turn(request.extensions()).await;
            let (room, state) = self.rooms.create(&caller, convert::create_room(request.into_inner())).await?;
            Ok(Response::new(v1::CreateRoomResponse { room: Some(convert::room(room, state)) }))
        };
        call.await.map_err(status)
    }

    async fn get_room(&self, request: Request<v1::GetRoomRequest>) -> Result<Response<v1::GetRoomResponse>, Status> {
        let call = async {
            let caller = caller(&request)?;
            let _turn = turn(request.extensions()).await;
            let (room, state) = self.rooms.get(&caller, &convert::room_id(request.into_inner().room_id)?).await?;
            Ok(Response::new(v1::GetRoomResponse { room: Some(convert::room(room, state)) }))
        };
        call.await.map_err(status)
    }

    async fn list_rooms(
        &self,
        request: Request<v1::ListRoomsRequest>,
    ) -> Result<Response<v1::ListRoomsResponse>, Status> {
        let call = async {
            let caller = caller(&request)?;
            let _turn = turn(request.extensions()).await;
            let (after, page_size) = convert::room_page(request.get_ref())?;
            Ok(Response::new(convert::rooms(self.rooms.list(&caller, after.as_ref(), page_size))))
        };
        call.await.map_err(status)
    }

    async fn update_room(
        &self,
        request: Request<v1::UpdateRoomRequest>,
    ) -> Result<Response<v1::UpdateRoomResponse>, Status> {
        let call = async {
            let caller = caller(&request)?;
            let _turn = turn(request.extensions()).await;
            let (room, state) = self.rooms.update(&caller, convert::life::update_room(request.into_inner())).await?;
            Ok(Response::new(v1::UpdateRoomResponse { room: Some(convert::room(room, state)) }))
        };
        call.await.map_err(status)
    }

    async fn delete_room(
        &self,
        request: Request<v1::DeleteRoomRequest>,
    ) -> Result<Response<v1::DeleteRoomResponse>, Status> {
        let call = async {
            let caller = caller(&request)?;
            let _turn = turn(request.extensions()).await;
            self.rooms.delete(&caller, &convert::room_id(request.into_inner().room_id)?).await?;
            Ok(Response::new(v1::DeleteRoomResponse {}))
        };
        call.await.map_err(status)
    }

    async fn purge_room(
        &self,
        request: Request<v1::PurgeRoomRequest>,
    ) -> Result<Response<v1::PurgeRoomResponse>, Status> {
        let call = async {
            let caller = caller(&request)?;
            let _turn = turn(request.extensions()).await;
            let v1::PurgeRoomRequest { room_id, up_to_sequence } = request.into_inner();
            let outcome = self.rooms.purge(&caller, &convert::room_id(room_id)?, up_to_sequence).await?;
            Ok(Response::new(convert::life::purged(outcome)))
        };
        call.await.map_err(status)
    }

    async fn publish(&self, request: Request<v1::PublishRequest>) -> Result<Response<v1::PublishResponse>, Status> {
        let call = async {
            let caller = caller(&request)?;
            let (room, draft) = convert::publish(request.into_inner())?;
            Ok(Response::new(convert::acknowledged(self.rooms.publish(&caller, &room, draft).await?)))
        };
        call.await.map_err(status)
    }

    async fn publish_batch(
        &self,
        request: Request<v1::PublishBatchRequest>,
    ) -> Result<Response<v1::PublishBatchResponse>, Status> {
        let call = async {
            let caller = caller(&request)?;
            let request = request.into_inner();
            if request.atomic {
                let (room, drafts) = convert::atomic_batch(request)?;
                let stored = self.rooms.publish_all(&caller, &room, drafts).await?;
                return Ok(Response::new(convert::batch_outcomes(stored.into_iter().map(Ok))));
            }
            let (room, drafts) = convert::batch(request)?;
            let outcomes = self.rooms.publish_each(&caller, &room, drafts).await?;
            for outcome in &outcomes {
                self.metrics.failed(outcome);
            }
            Ok(Response::new(convert::batch_outcomes(outcomes)))
        };
        call.await.map_err(status)
    }

    type PublishStreamStream = Responses<v1::PublishStreamResponse>;

    async fn publish_stream(
        &self,
        request: Request<Streaming<v1::PublishStreamRequest>>,
    ) -> Result<Response<Self::PublishStreamStream>, Status> {
        let call = async {
            let caller = caller(&request)?;
            let skipped = request.extensions().get::<Skipped>().cloned().unwrap_or_default();
            let (publishing, metrics) = (self.rooms.publishing(&caller), self.metrics.clone());
            Ok(Response::new(publish_stream::results(publishing, request.into_inner(), skipped, metrics)))
        };
        call.await.map_err(status)
    }

    // empty: the frames are a body of their own, encoded once for all subscribers of a room (`frames`), which waits in the
    // extensions of the response until the outermost layer puts it in place (`prepared`)
    type SubscribeStream = tokio_stream::Empty<Result<v1::SubscribeResponse, Status>>;

    async fn subscribe(
        &self,
        request: Request<v1::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let call = async {
            let caller = caller(&request)?;
            let _turn = turn(request.extensions()).await;
            let options = convert::subscribe(request.into_inner())?;
            let subscription = self.rooms.subscribe(&caller, options).await?;
            Ok(frames::respond(subscription, &self.metrics.delivery))
        };
        call.await.map_err(status)
    }

    async fn acknowledge(
        &self,
        request: Request<v1::AcknowledgeRequest>,
    ) -> Result<Response<v1::AcknowledgeResponse>, Status> {
        let call = async {
            let caller = caller(&request)?;
            let _turn = turn(request.extensions()).await;
            let (room, subscriber, acknowledgement) = convert::acknowledge(request.into_inner())?;
            let position = self.rooms.acknowledge(&caller, &room, &subscriber, acknowledgement).await?;
            Ok(Response::new(v1::AcknowledgeResponse { position }))
        };
        call.await.map_err(status)
    }

    // empty: see `SubscribeStream`; the body is made in `consume`
    type ConsumeStream = tokio_stream::Empty<Result<v1::ConsumeResponse, Status>>;

    async fn consume(
        &self,
        request: Request<Streaming<v1::ConsumeRequest>>,
    ) -> Result<Response<Self::ConsumeStream>, Status> {
        let call = async {
            let caller = caller(&request)?;
            Ok(consume::respond(&self.rooms, &self.metrics, &caller, request.into_inner()))
        };
        call.await.map_err(status)
    }

    // empty: see `SubscribeStream`; the body is made in `session`
    type OpenSessionStream = tokio_stream::Empty<Result<v1::OpenSessionResponse, Status>>;

    async fn open_session(
        &self,
        request: Request<v1::OpenSessionRequest>,
    ) -> Result<Response<Self::OpenSessionStream>, Status> {
        let call = async {
            let caller = caller(&request)?;
            session::respond(&self.rooms, &self.metrics, &caller, request.into_inner())
        };
        call.await.map_err(status)
    }

    async fn session_command(
        &self,
        request: Request<v1::SessionCommandRequest>,
    ) -> Result<Response<v1::SessionCommandResponse>, Status> {
        let call = async {
            let caller = caller(&request)?;
            let _turn = turn(request.extensions()).await;
            let (id, commands) = session::session_commands(request.into_inner())?;
            self.rooms.session_command(&caller, &id, commands).await?;
            Ok(Response::new(v1::SessionCommandResponse {}))
        };
        call.await.map_err(status)
    }

    async fn history(&self, request: Request<v1::HistoryRequest>) -> Result<Response<v1::HistoryResponse>, Status> {
        let call = async {
            let caller = caller(&request)?;
            let (room, limit, anchor) = convert::history(request.into_inner())?;
            let (page, place) = self.rooms.history(&caller, &room, limit, anchor).await?;
            Ok(page::respond(page, &room, place))
        };
        call.await.map_err(status)
    }

    async fn delete_message(
        &self,
        request: Request<v1::DeleteMessageRequest>,
    ) -> Result<Response<v1::DeleteMessageResponse>, Status> {
        let call = async {
            let caller = caller(&request)?;
            let _turn = turn(request.extensions()).await;
            let (room, sequence) = convert::life::delete_message(request.into_inner())?;
            self.rooms.delete_message(&caller, &room, sequence).await?;
            Ok(Response::new(v1::DeleteMessageResponse {}))
        };
        call.await.map_err(status)
    }

    async fn add_member(
        &self,
        request: Request<v1::AddMemberRequest>,
    ) -> Result<Response<v1::AddMemberResponse>, Status> {
        let call = async {
            let caller = caller(&request)?;
            let _turn = turn(request.extensions()).await;
            let (room, id, role, visible_from) = convert::members::add_member(request.into_inner())?;
            let member = self.rooms.add_member(&caller, &room, id, role, visible_from).await?;
            Ok(Response::new(v1::AddMemberResponse { member: Some(convert::members::member(member)) }))
        };
        call.await.map_err(status)
    }

    async fn remove_member(
        &self,
        request: Request<v1::RemoveMemberRequest>,
    ) -> Result<Response<v1::RemoveMemberResponse>, Status> {
        let call = async {
            let caller = caller(&request)?;
            let _turn = turn(request.extensions()).await;
            let (room, id) = convert::members::remove_member(request.into_inner())?;
            self.rooms.remove_member(&caller, &room, &id).await?;
            Ok(Response::new(v1::RemoveMemberResponse {}))
        };
        call.await.map_err(status)
    }

    async fn list_members(
        &self,
        request: Request<v1::ListMembersRequest>,
    ) -> Result<Response<v1::ListMembersResponse>, Status> {
        let call = async {
            let caller = caller(&request)?;
            let _turn = turn(request.extensions()).await;
            let (room, after, page_size) = convert::members::member_page(request.into_inner())?;
            let page = self.rooms.list_members(&caller, &room, after.as_ref(), page_size).await?;
            Ok(Response::new(convert::members::members(page)))
        };
        call.await.map_err(status)
    }

    async fn list_subscribers(
        &self,
        request: Request<v1::ListSubscribersRequest>,
    ) -> Result<Response<v1::ListSubscribersResponse>, Status> {
        let call = async {
            let caller = caller(&request)?;
            let _turn = turn(request.extensions()).await;
            let (room, after, page_size) = convert::subscribers::subscriber_page(request.into_inner())?;
            let page = self.rooms.list_subscribers(&caller, &room, after.as_ref(), page_size).await?;
            Ok(Response::new(convert::subscribers::subscribers(page)))
        };
        call.await.map_err(status)
    }

    async fn delete_subscriber(
        &self,
        request: Request<v1::DeleteSubscriberRequest>,
    ) -> Result<Response<v1::DeleteSubscriberResponse>, Status> {
        let call = async {
            let caller = caller(&request)?;
            let _turn = turn(request.extensions()).await;
            let (room, subscriber) = convert::subscribers::delete_subscriber(request.into_inner())?;
            self.rooms.delete_subscriber(&caller, &room, &subscriber).await?;
            Ok(Response::new(v1::DeleteSubscriberResponse {}))
        };
        call.await.map_err(status)
    }

    async fn seek_subscriber(
        &self,
        request: Request<v1::SeekSubscriberRequest>,
    ) -> Result<Response<v1::SeekSubscriberResponse>, Status> {
        let call = async {
            let caller = caller(&request)?;
            let _turn = turn(request.extensions()).await;
            let (room, subscriber, to) = convert::subscribers::seek_subscriber(request.into_inner())?;
            let position = self.rooms.seek_subscriber(&caller, &room, &subscriber, to).await?;
            Ok(Response::new(v1::SeekSubscriberResponse { position }))
        };
        call.await.map_err(status)
    }
}
