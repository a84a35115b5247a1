//! The calls that most tests make, in the words of the tests.

use bytes::Bytes;
use tonic::Status;
use unibus::v1::{
    CreateRoomRequest, HistoryRequest, HistoryResponse, ListRoomsRequest, ListRoomsResponse, Message, PublishRequest,
    PublishResponse, Room, history_request::Anchor,
};

use super::Client;

/// What creates a persisted room with nothing else set.
pub(crate) fn persisted(room_id: &str) -> CreateRoomRequest {
    CreateRoomRequest { room_id: room_id.into(), persist: true, ..CreateRoomRequest::default() }
}

/// What creates an ephemeral room.
pub(crate) fn ephemeral(room_id: &str) -> CreateRoomRequest {
    CreateRoomRequest { persist: false, ..persisted(room_id) }
}

/// Creates a persisted room.
pub(crate) async fn create_room(client: &Client, room_id: &str) -> Room {
    let created = client.clone().create_room(persisted(room_id)).await;
    created.unwrap().into_inner().room.expect("a room")
}

/// Creates an ephemeral room.
pub(crate) async fn create_ephemeral(client: &Client, room_id: &str) -> Room {
    let created = client.clone().create_room(ephemeral(room_id)).await;
    created.unwrap().into_inner().room.expect("a room")
}

/// Publishes one message that is nothing but its payload.
pub(crate) async fn publish(
    client: &Client,
    room_id: &str,
    payload: impl Into<Bytes>,
) -> Result<PublishResponse, Status> {
    let request = PublishRequest { room_id: room_id.into(), payload: payload.into(), ..PublishRequest::default() };
    Ok(client.clone().publish(request).await?.into_inner())
}

/// Publishes the payloads `1` to `count`, one after the other.
pub(crate) async fn publish_n(client: &Client, room_id: &str, count: usize) {
    for number in 1..=count {
        publish(client, room_id, number.to_string()).await.unwrap();
    }
}

/// The newest page of a room.
pub(crate) async fn history(client: &Client, room_id: &str, limit: i32) -> HistoryResponse {
    page(client, room_id, limit, None).await.unwrap()
}

/// A page of a room.
pub(crate) async fn page(
    client: &Client,
    room_id: &str,
    limit: i32,
    anchor: impl Into<Option<Anchor>>,
) -> Result<HistoryResponse, Status> {
    let request = HistoryRequest { room_id: room_id.into(), limit, anchor: anchor.into() };
    Ok(client.clone().history(request).await?.into_inner())
}

/// Everything that a room holds, page by page.
pub(crate) async fn everything(client: &Client, room_id: &str) -> Vec<Message> {
    let mut messages: Vec<Message> = Vec::new();
    loop {
        let after = messages.last().map_or(0, |message| message.sequence);
        let next = page(client, room_id, 1000, Anchor::AfterSequence(after)).await.unwrap();
        messages.extend(next.messages);
        if !next.has_newer {
            return messages;
        }
    }
}

/// A page of the rooms.
pub(crate) async fn list_rooms(client: &Client, page_size: i32, page_token: &str) -> Result<ListRoomsResponse, Status> {
    let request = ListRoomsRequest { page_size, page_token: page_token.into() };
    Ok(client.clone().list_rooms(request).await?.into_inner())
}

/// The sequences of these messages, in their order.
pub(crate) fn sequences(messages: &[Message]) -> Vec<u64> {
    messages.iter().map(|message| message.sequence).collect()
}

/// The payloads of these messages as text, in their order.
pub(crate) fn payloads(messages: &[Message]) -> Vec<String> {
    let text = |message: &Message| String::from_utf8(message.payload.to_vec()).expect("text");
    messages.iter().map(text).collect()
}
