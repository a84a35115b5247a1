//! Durable subscribers: one durable consumer each, whose ack floor is the subscriber's position.
//!
//! The consumer has the name and configuration of the native bus, so that native peers and tools see it. No message flows
//! through it: its floor is moved by consumer reset (ADR-60).

use std::{collections::HashMap, pin::pin, time::Duration};

use async_nats::jetstream::{
    ErrorCode,
    consumer::{AckPolicy, Info, pull},
};
use serde::Deserialize;
use serde_json::json;
use tokio::time;

use super::{
    nats::{ApiError, Nats},
    streams,
};
use crate::{
    domain::{Room, RoomId, SubscriberId},
    error::{Error, Reason, Result},
};

/// A consumer that has not answered its reset after this may be missing.
const RESET_DOUBT: Duration = Duration::from_millis(250);

pub(super) const METADATA_SUBSCRIBER: &str = "unibus.subscriber";

/// The consumer's name, carried over from the native bus.
pub(super) fn name(room: &RoomId, subscriber: &SubscriberId) -> String {
    format!("{}_{}", room.mapped(), subscriber.mapped())
}

/// Where a durable subscriber stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bookmark {
    /// Everything up to this sequence is processed.
    pub position: u64,
    /// It was made by this call.
    pub created: bool,
}

#[derive(Deserialize)]
struct ResetResponse {
    ack_floor: Floor,
}

#[derive(Deserialize)]
struct Floor {
    stream_seq: u64,
}

/// The subscriber's position; the consumer is made if there is none.
///
/// # Errors
/// `STREAM_INCOMPATIBLE` for a consumer of another kind, `LIMIT_REACHED`.
pub(super) async fn bind(nats: &Nats, room: &Room, subscriber: &SubscriberId) -> Result<Bookmark> {
    if let Some(info) = info(nats, room, subscriber).await? {
        if !is_subscriber(&info) {
            return Err(Error::new(
                Reason::StreamIncompatible,
                "subscriber: a NATS consumer of its mapped name exists with another kind of acknowledgement; choose another",
            ));
        }
        return Ok(Bookmark { position: info.ack_floor.stream_sequence, created: false });
    }
    let name = name(&room.room_id, subscriber);
    let config = pull::Config {
        durable_name: Some(name.clone()),
        name: Some(name),
        ack_policy: AckPolicy::Explicit,
        metadata: HashMap::from([(METADATA_SUBSCRIBER.to_owned(), subscriber.as_str().to_owned())]),
        ..pull::Config::default()
    };
    match nats.create_consumer(&streams::name(&room.room_id), config).await {
        Ok(()) => Ok(Bookmark { position: 0, created: true }),
        Err(error) if error.is(ErrorCode::CONSUMER_ALREADY_EXISTS) => {
            Ok(Bookmark { position: position(nats, room, subscriber).await?.unwrap_or_default(), created: false })
        }
        Err(error) => Err(error.into()),
    }
}

/// The subscriber's position; `None` if it does not exist.
pub(super) async fn position(nats: &Nats, room: &Room, subscriber: &SubscriberId) -> Result<Option<u64>> {
    let info = info(nats, room, subscriber).await?;
    Ok(info.filter(is_subscriber).map(|info| info.ack_floor.stream_sequence))
}

/// Whether a consumer is of the kind that subscribers have.
pub(super) fn is_subscriber(info: &Info) -> bool {
    info.config.ack_policy == AckPolicy::Explicit && info.config.durable_name.is_some()
}

/// Moves the position, forwards or back. The caller has checked it against the end of the log: JetStream would take a
/// later one, and then never deliver what comes before it.
///
/// # Errors
/// `SUBSCRIBER_NOT_FOUND`.
pub(super) async fn move_to(nats: &Nats, room: &Room, subscriber: &SubscriberId, position: u64) -> Result<u64> {
    let subject = format!("CONSUMER.RESET.{}.{}", streams::name(&room.room_id), name(&room.room_id, subscriber));
    let request = json!({ "seq": position + 1 });
    let mut reset = pin!(nats.api::<_, ResetResponse>(subject, &request));
    // nats-server 2.15.1 never answers the reset of a consumer that is not there
    let answer = match time::timeout(RESET_DOUBT, &mut reset).await {
        Ok(answer) => answer,
        Err(_) if info(nats, room, subscriber).await?.is_none() => return Err(not_found(subscriber)),
        Err(_) => reset.await,
    };
    match answer {
        Ok(ResetResponse { ack_floor }) => Ok(ack_floor.stream_seq),
        Err(error) if is_missing(&error) => Err(not_found(subscriber)),
        Err(error) => Err(error.into()),
    }
}

/// Forgets the subscriber. False: there was none.
pub(super) async fn delete(nats: &Nats, room: &Room, subscriber: &SubscriberId) -> Result<bool> {
    if position(nats, room, subscriber).await?.is_none() {
        return Ok(false);
    }
    match nats.delete_consumer(&streams::name(&room.room_id), &name(&room.room_id, subscriber)).await {
        Ok(()) => Ok(true),
        Err(error) if is_missing(&error) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

pub(crate) fn not_found(subscriber: &SubscriberId) -> Error {
    Error::new(
        Reason::SubscriberNotFound,
        format!("subscriber: the room has no durable subscriber {:?}; Subscribe makes one", subscriber.as_str()),
    )
}

async fn info(nats: &Nats, room: &Room, subscriber: &SubscriberId) -> Result<Option<Info>, ApiError> {
    let subject = format!("CONSUMER.INFO.{}.{}", streams::name(&room.room_id), name(&room.room_id, subscriber));
    match nats.api(subject, &json!({})).await {
        Ok(info) => Ok(Some(info)),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_missing(error: &ApiError) -> bool {
    error.is(ErrorCode::CONSUMER_NOT_FOUND) || error.is(ErrorCode::STREAM_NOT_FOUND)
}
