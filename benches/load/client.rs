//! The generated client, used for both the service and the bare server.

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use tonic::{
    Code,
    transport::{Channel, Endpoint},
};
use unibus::v1::{
    CreateRoomRequest, PublishRequest, PublishStreamRequest, SubscribeRequest, SubscribeResponse,
    room_service_client::RoomServiceClient, subscribe_response::Frame,
};

pub(crate) type Client = RoomServiceClient<Channel>;

/// Bytes of a payload, unless a row uses another size.
pub(crate) const PAYLOAD_BYTES: usize = 256;

pub(crate) fn payload(bytes: usize) -> Bytes {
    vec![b'x'; bytes].into()
}

/// One connection with the default settings of tonic.
pub(crate) async fn channel(url: &str) -> Result<Channel> {
    Endpoint::from_shared(url.to_owned())?.connect().await.with_context(|| format!("no connection to {url}"))
}

pub(crate) async fn channels(url: &str, count: usize) -> Result<Vec<Channel>> {
    let mut channels = Vec::with_capacity(count);
    for _ in 0..count {
        channels.push(channel(url).await?);
    }
    Ok(channels)
}

pub(crate) async fn clients(url: &str, count: usize) -> Result<Vec<Client>> {
    Ok(channels(url, count).await?.into_iter().map(Client::new).collect())
}

/// Creates a persisted room without bounds. Its subject is `unibus.room.<id>`, and its stream is `UNIBUS_<id>`.
pub(crate) async fn create_room(channel: &Channel, id: &str) -> Result<()> {
    let request = CreateRoomRequest { room_id: id.to_owned(), persist: true, ..CreateRoomRequest::default() };
    Client::new(channel.clone()).create_room(request).await.with_context(|| format!("room {id}"))?;
    Ok(())
}

pub(crate) fn subject(room: &str) -> String {
    format!("unibus.room.{room}")
}

pub(crate) fn stream_name(room: &str) -> String {
    format!("UNIBUS_{room}")
}

/// A message for this room without headers or message id.
pub(crate) fn message(room: &str, payload: &Bytes) -> PublishRequest {
    PublishRequest { room_id: room.to_owned(), payload: payload.clone(), ..PublishRequest::default() }
}

pub(crate) async fn publish(client: &mut Client, request: PublishRequest) -> Result<()> {
    client.publish(request).await?;
    Ok(())
}

/// Publishes one message, and returns the encoded frame that the service sends for it. The bare server broadcasts this
/// frame.
pub(crate) async fn sample_frame(channel: &Channel, room: &str, payload: &Bytes) -> Result<Bytes> {
    use prost::Message;

    let mut client = Client::new(channel.clone());
    publish(&mut client, message(room, payload)).await?;
    let request = SubscribeRequest { room_id: room.to_owned(), until_caught_up: true, ..SubscribeRequest::default() };
    let mut frames = client.subscribe(request).await?.into_inner();
    while let Some(SubscribeResponse { frame }) = frames.message().await? {
        if let Some(Frame::Message(message)) = frame {
            let frame = Some(Frame::Message(message));
            return Ok(SubscribeResponse { frame }.encode_to_vec().into());
        }
    }
    bail!("a room without the message that was published")
}

/// Whether the service has `PublishStream`.
pub(crate) async fn has_publish_stream(channel: &Channel) -> Result<bool> {
    let request = PublishStreamRequest {
        correlation_id: 1,
        publish: Some(message("none", &Bytes::new())),
        ..PublishStreamRequest::default()
    };
    let mut client = Client::new(channel.clone());
    let called = client.publish_stream(futures_util::stream::iter([request])).await;
    let answered = match called {
        Ok(mut answers) => answers.get_mut().message().await.map(drop),
        Err(status) => Err(status),
    };
    match answered {
        Ok(()) => Ok(true),
        Err(status) if status.code() == Code::Unimplemented => Ok(false),
        Err(status) => Err(status.into()),
    }
}
