//! Subscriptions and positions, in the words of the tests.

use std::{net::SocketAddr, time::Duration};

use async_nats::jetstream::consumer;
use tonic::{Status, transport::Endpoint};
use unibus::v1::{AckMode, AcknowledgeRequest, SubscribeRequest, room_service_client::RoomServiceClient, start::At};

use super::{Client, Credentials, Nats, eventually};

/// A subscription with automatic acks at the default place; durable unless `subscriber` is empty.
pub(crate) fn subscription(room_id: &str, subscriber: &str) -> SubscribeRequest {
    SubscribeRequest {
        room_id: room_id.into(),
        subscriber: subscriber.into(),
        ack_mode: AckMode::Auto.into(),
        ..SubscribeRequest::default()
    }
}

/// A durable subscription that only acknowledgements move.
pub(crate) fn explicit(room_id: &str, subscriber: &str) -> SubscribeRequest {
    SubscribeRequest { ack_mode: AckMode::Explicit.into(), ..subscription(room_id, subscriber) }
}

/// A subscription of which nothing is kept, from this place on.
pub(crate) fn starting(room_id: &str, at: At) -> SubscribeRequest {
    SubscribeRequest { start: Some(unibus::v1::Start { at: Some(at) }), ..subscription(room_id, "") }
}

/// Acknowledges, and gives the position that is answered.
pub(crate) async fn acknowledge(
    client: &Client,
    room_id: &str,
    subscriber: &str,
    sequence: u64,
) -> Result<u64, Status> {
    acknowledge_of(client, room_id, subscriber, sequence, None).await
}

/// Acknowledges what the subscription with this generation delivered.
pub(crate) async fn acknowledge_of(
    client: &Client,
    room_id: &str,
    subscriber: &str,
    sequence: u64,
    generation: impl Into<Option<u64>>,
) -> Result<u64, Status> {
    let (room_id, subscriber, generation) = (room_id.into(), subscriber.into(), generation.into());
    let request = AcknowledgeRequest { room_id, subscriber, sequence, generation };
    let response = client.clone().acknowledge(request).await?;
    Ok(response.into_inner().position)
}

/// The durable of this mapped name as a native client sees it.
pub(crate) async fn durable_info(nats: &Nats, mapped_room: &str, mapped_subscriber: &str) -> consumer::Info {
    let name = format!("{mapped_room}_{mapped_subscriber}");
    let stream = nats.stream(mapped_room).await;
    stream.consumer_info(name).await.expect("the durable")
}

/// The position as a native client sees it: the durable's ack floor.
pub(crate) async fn floor(nats: &Nats, mapped_room: &str, mapped_subscriber: &str) -> u64 {
    let info = durable_info(nats, mapped_room, mapped_subscriber).await;
    info.ack_floor.stream_sequence
}

/// Waits until the durable's ack floor is at least this, and gives it.
pub(crate) async fn floor_reaches(nats: &Nats, mapped_room: &str, mapped_subscriber: &str, sequence: u64) -> u64 {
    eventually(Duration::from_secs(10), async || {
        let floor = floor(nats, mapped_room, mapped_subscriber).await;
        (floor >= sequence).then_some(floor).ok_or_else(|| format!("the floor is {floor}"))
    })
    .await
}

/// A client that takes no more than this many bytes before its program reads them.
pub(crate) async fn client_with_window(address: SocketAddr, bytes: u32) -> Client {
    client_with_window_as(address, bytes, Credentials::default()).await
}

/// The same, with credentials.
pub(crate) async fn client_with_window_as(address: SocketAddr, bytes: u32, credentials: Credentials) -> Client {
    client_with_windows(address, bytes, 64 * 1024, credentials).await
}

/// The same, for thousands of small frames that are not read: the client's library closes a connection on which they take more
/// than half of its window, and counts at least 256 bytes for each.
pub(crate) async fn client_that_may_leave_small_frames(address: SocketAddr, bytes: u32) -> Client {
    client_with_windows(address, bytes, 64 * 1024 * 1024, Credentials::default()).await
}

async fn client_with_windows(address: SocketAddr, stream: u32, connection: u32, credentials: Credentials) -> Client {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an endpoint");
    let endpoint = endpoint.initial_stream_window_size(stream).initial_connection_window_size(connection);
    RoomServiceClient::with_interceptor(endpoint.connect().await.expect("a connection"), credentials)
}

/// These, as a list to compare with: most often the sequences that are expected.
pub(crate) fn listed<T>(items: impl IntoIterator<Item = T>) -> Vec<T> {
    items.into_iter().collect()
}
