//! Durable subscribers. Each has one durable consumer, whose ack floor is the subscriber's position.
//!
//! The consumer has the name and configuration that native programs use, so they see it too. No message
//! flows through the consumer. A consumer reset (ADR-60) moves its ack floor.

use std::{pin::pin, time::Duration};

use async_nats::jetstream::{
    ErrorCode,
    consumer::{AckPolicy, Info, pull},
};
use serde::Deserialize;
use serde_json::json;
use tokio::time;

use super::subscriber::Subscriber;
use crate::{
    domain::{NatsName, Room, SubscriberId},
    error::{Error, Reason, Result},
    nats::{Nats, error::ApiError},
    store::names::{METADATA_ENDPOINT, METADATA_SUBSCRIBER, consumer},
};

/// After this time without an answer to its reset, a consumer may be missing.
const RESET_DOUBT: Duration = Duration::from_millis(250);

/// The position of a durable subscriber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Binding {
    /// Everything up to this sequence is processed.
    pub position: u64,
    /// This call created the consumer.
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

/// Returns the subscriber's position. Creates the consumer if it is missing.
///
/// # Errors
/// `STREAM_INCOMPATIBLE` if the consumer has another acknowledgement policy, `LIMIT_REACHED`.
pub(in crate::store) async fn bind(nats: &Nats, room: &Room, subscriber: &Subscriber) -> Result<Binding> {
    match existing(nats, room, subscriber).await? {
        Some(binding) => Ok(binding),
        None => create(nats, room, subscriber).await,
    }
}

/// The binding to an existing consumer; `None` if the consumer is missing.
///
/// # Errors
/// `STREAM_INCOMPATIBLE` if the consumer has another acknowledgement policy.
pub(in crate::store) async fn existing(nats: &Nats, room: &Room, subscriber: &Subscriber) -> Result<Option<Binding>> {
    let Some(info) = named(nats, room, &subscriber.name).await? else { return Ok(None) };
    if is_subscriber(&info) {
        return Ok(Some(Binding { position: info.ack_floor.stream_sequence, created: false }));
    }
    Err(Error::new(
        Reason::StreamIncompatible,
        "`subscriber`: a NATS consumer with the name of the subscriber exists, and has another kind of acknowledgement; choose another name",
    ))
}

/// As [`bind`], with one request instead of two. The caller knows that the consumer was missing.
///
/// # Errors
/// As [`bind`].
pub(in crate::store) async fn create(nats: &Nats, room: &Room, subscriber: &Subscriber) -> Result<Binding> {
    let name = consumer(room, &subscriber.name);
    let given = Some((METADATA_SUBSCRIBER, subscriber.id.as_str()));
    let endpoint = subscriber.endpoint.as_ref().map(|endpoint| (METADATA_ENDPOINT, endpoint.as_str()));
    let metadata = given.into_iter().chain(endpoint).map(|(key, value)| (key.to_owned(), value.to_owned()));
    let config = pull::Config {
        durable_name: Some(name.clone()),
        name: Some(name),
        ack_policy: AckPolicy::Explicit,
        metadata: metadata.collect(),
        ..pull::Config::default()
    };
    match nats.create_consumer(room.stream.as_str(), config).await {
        // a NATS server that has just started may not know an existing consumer; NATS then keeps that consumer's ack
        // floor
        Ok(Info { ack_floor, .. }) => {
            Ok(Binding { position: ack_floor.stream_sequence, created: ack_floor.stream_sequence == 0 })
        }
        Err(error) if error.is(ErrorCode::CONSUMER_ALREADY_EXISTS) => {
            let found = existing(nats, room, subscriber).await?;
            Ok(found.unwrap_or(Binding { position: 0, created: false }))
        }
        Err(error) => Err(error.into()),
    }
}

/// The subscriber's position; `None` if it does not exist.
pub(in crate::store) async fn position(nats: &Nats, room: &Room, subscriber: &Subscriber) -> Result<Option<u64>> {
    let info = named(nats, room, &subscriber.name).await?;
    Ok(info.filter(is_subscriber).map(|info| info.ack_floor.stream_sequence))
}

/// Returns true if the consumer is durable and acknowledges explicitly, as a subscriber's consumer does.
pub(in crate::store) fn is_subscriber(info: &Info) -> bool {
    info.config.ack_policy == AckPolicy::Explicit && info.config.durable_name.is_some()
}

/// Moves the position in either direction and returns it. The caller has checked `position` against the end of the
/// log. JetStream accepts a position after the end, and then never delivers the messages before that position.
///
/// # Errors
/// `SUBSCRIBER_NOT_FOUND`.
pub(in crate::store) async fn move_to(nats: &Nats, room: &Room, subscriber: &Subscriber, position: u64) -> Result<u64> {
    let subject = format!("CONSUMER.RESET.{}.{}", room.stream, consumer(room, &subscriber.name));
    let request = json!({ "seq": position + 1 });
    let mut reset = pin!(nats.api::<_, ResetResponse>(subject, &request));
    // nats-server 2.15.1 never answers the reset of a missing consumer
    let answer = match time::timeout(RESET_DOUBT, &mut reset).await {
        Ok(answer) => answer,
        Err(_) if named(nats, room, &subscriber.name).await?.is_none() => return Err(not_found(&subscriber.id)),
        Err(_) => reset.await,
    };
    match answer {
        Ok(ResetResponse { ack_floor }) => Ok(ack_floor.stream_seq),
        Err(error) if is_missing(&error) => Err(not_found(&subscriber.id)),
        Err(error) => Err(error.into()),
    }
}

/// Deletes the subscriber's consumer. Returns false if there was none.
pub(in crate::store) async fn delete(nats: &Nats, room: &Room, subscriber: &Subscriber) -> Result<bool> {
    if position(nats, room, subscriber).await?.is_none() {
        return Ok(false);
    }
    match nats.delete_consumer(room.stream.as_str(), &consumer(room, &subscriber.name)).await {
        Ok(()) => Ok(true),
        Err(error) if is_missing(&error) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

pub(crate) fn not_found(subscriber: &SubscriberId) -> Error {
    Error::new(
        Reason::SubscriberNotFound,
        format!("`subscriber`: the room has no durable subscriber {:?}; Subscribe creates it", subscriber.as_str()),
    )
}

/// The consumer of the subscriber with this NATS name.
pub(in crate::store) async fn named(nats: &Nats, room: &Room, name: &NatsName) -> Result<Option<Info>, ApiError> {
    let subject = format!("CONSUMER.INFO.{}.{}", room.stream, consumer(room, name));
    match nats.api(subject, &json!({})).await {
        Ok(info) => Ok(Some(info)),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_missing(error: &ApiError) -> bool {
    error.is(ErrorCode::CONSUMER_NOT_FOUND) || error.is(ErrorCode::STREAM_NOT_FOUND)
}
