//! Durable subscribers: one durable consumer each, whose ack floor is the subscriber's position.
//!
//! The consumer has the name and configuration of the native bus, so that native peers and tools see it. No message flows
//! through it: its floor is moved by consumer reset (ADR-60).

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

/// A consumer that has not answered its reset after this may be missing.
const RESET_DOUBT: Duration = Duration::from_millis(250);

/// Where a durable subscriber stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Binding {
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
pub(in crate::store) async fn bind(nats: &Nats, room: &Room, subscriber: &Subscriber) -> Result<Binding> {
    if let Some(info) = named(nats, room, &subscriber.name).await? {
        if !is_subscriber(&info) {
            return Err(Error::new(
                Reason::StreamIncompatible,
                "`subscriber`: a NATS consumer with the name of the subscriber exists, and has another kind of acknowledgement; choose another name",
            ));
        }
        return Ok(Binding { position: info.ack_floor.stream_sequence, created: false });
    }
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
        // a node that has just started may not know of a consumer that is there: NATS then leaves it at its place
        Ok(Info { ack_floor, .. }) => {
            Ok(Binding { position: ack_floor.stream_sequence, created: ack_floor.stream_sequence == 0 })
        }
        Err(error) if error.is(ErrorCode::CONSUMER_ALREADY_EXISTS) => {
            Ok(Binding { position: position(nats, room, subscriber).await?.unwrap_or_default(), created: false })
        }
        Err(error) => Err(error.into()),
    }
}

/// The subscriber's position; `None` if it does not exist.
pub(in crate::store) async fn position(nats: &Nats, room: &Room, subscriber: &Subscriber) -> Result<Option<u64>> {
    let info = named(nats, room, &subscriber.name).await?;
    Ok(info.filter(is_subscriber).map(|info| info.ack_floor.stream_sequence))
}

/// Whether a consumer is of the kind that subscribers have.
pub(in crate::store) fn is_subscriber(info: &Info) -> bool {
    info.config.ack_policy == AckPolicy::Explicit && info.config.durable_name.is_some()
}

/// Moves the position, forwards or back. The caller has checked it against the end of the log: JetStream would take a
/// later one, and then never deliver what comes before it.
///
/// # Errors
/// `SUBSCRIBER_NOT_FOUND`.
pub(in crate::store) async fn move_to(nats: &Nats, room: &Room, subscriber: &Subscriber, position: u64) -> Result<u64> {
    let subject = format!("CONSUMER.RESET.{}.{}", room.stream, consumer(room, &subscriber.name));
    let request = json!({ "seq": position + 1 });
    let mut reset = pin!(nats.api::<_, ResetResponse>(subject, &request));
    // nats-server 2.15.1 never answers the reset of a consumer that is not there
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

/// Forgets the subscriber. False: there was none.
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

/// The consumer that has this name after the room's.
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
