//! The durable consumers of a room, a page at a time, in the order of their names.
//!
//! JetStream lists a stream's consumers by name, 256 at a time, from an offset. The list also contains the consumers
//! of open subscriptions. A page starts where the previous page ended. The page token holds the last name, which
//! decides where the page starts, and the offset of that name, which saves reading the earlier consumers again.

use std::time::{Duration, SystemTime};

use async_nats::jetstream::{
    ErrorCode,
    consumer::{Info, SequenceInfo},
};
use serde::Deserialize;
use serde_json::json;

use super::durables;
use crate::{
    domain::{Room, RoomState, SubscriberToken},
    error::{Error, Limit, Result},
    limits::CONSUMERS_PER_ROOM_MAX,
    nats::{
        Nats,
        error::{ApiError, unavailable},
    },
    store::names,
};

/// Number of consumers in one answer of JetStream (nats-server: `JSApiListLimit`).
const LIST_PAGE: usize = 256;
/// Maximum number of requests for one page. They cover more consumers than a room may have.
const REQUESTS_MAX: usize = 1024;

/// A durable consumer of a subscriber.
#[derive(Clone, Debug)]
pub(crate) struct Durable {
    /// The name of the consumer in NATS.
    pub consumer: String,
    /// The part of the consumer's name after the room's part.
    pub nats_name: String,
    /// The subscriber's id. `None` if a native program removed it from the metadata.
    pub given: Option<String>,
    /// The endpoint that created the subscriber. `None` without authorisation, or if a native program removed it.
    pub endpoint: Option<String>,
    /// Everything up to this sequence is processed.
    pub position: u64,
    /// Number of stored messages after the position.
    pub lag: u64,
    /// When a native program last used the consumer, if the server knows it.
    pub last_active_at: Option<SystemTime>,
}

/// A page of durable consumers, by ascending NATS name.
#[derive(Clone, Debug, Default)]
pub(crate) struct DurablePage {
    pub durables: Vec<Durable>,
    /// Present if more durable consumers follow.
    pub next: Option<SubscriberToken>,
}

#[derive(Deserialize)]
struct Listed {
    #[serde(default)]
    consumers: Option<Vec<Info>>,
    /// Consumers whose leader did not answer the server.
    #[serde(default)]
    missing: Option<Vec<String>>,
}

/// The durable consumers after `after` for which `is_wanted` is true, up to `limit`.
///
/// # Errors
/// `NATS_UNAVAILABLE`, also when one of the listed consumers has no leader.
pub(in crate::store) async fn page(
    nats: &Nats,
    room: &Room,
    after: Option<&SubscriberToken>,
    state: &RoomState,
    limit: usize,
    is_wanted: &(dyn Fn(&str) -> bool + Sync),
) -> Result<DurablePage> {
    let stream = room.stream.as_str();
    let prefix = names::consumer_prefix(room);
    let last = after.map(|token| format!("{prefix}{}", token.nats_name));
    let (mut offset, mut listed) = begin(nats, stream, &prefix, after, last.as_deref()).await?;
    let mut page = DurablePage::default();
    let mut end = None;
    for _ in 0..REQUESTS_MAX {
        let count = listed.len();
        for (index, info) in listed.iter().enumerate() {
            let Some(nats_name) = names::subscriber_of_consumer(room, &info.name) else { continue };
            if !is_wanted(nats_name)
                || !durables::is_subscriber(info)
                || last.as_deref().is_some_and(|last| info.name.as_str() <= last)
            {
                continue;
            }
            if page.durables.len() == limit {
                page.next = end;
                return Ok(page);
            }
            page.durables.push(durable(info, nats_name, state));
            end = Some(SubscriberToken { offset: offset + index, nats_name: nats_name.to_owned() });
        }
        let beyond = listed.last().is_none_or(|info| info.name > prefix && !info.name.starts_with(&prefix));
        if count < LIST_PAGE || beyond {
            return Ok(page);
        }
        offset += count;
        listed = list(nats, stream, &prefix, offset).await?;
    }
    Err(Error::limit_reached(
        Limit::ListedConsumers,
        "the room has more NATS consumers than can be listed; delete subscribers that are not used",
    ))
}

/// Returns a part of the list that starts at or before the successor of `last`, and the offset of that part.
/// Consumers that were created or deleted since the previous page may have shifted the list.
async fn begin(
    nats: &Nats,
    stream: &str,
    prefix: &str,
    after: Option<&SubscriberToken>,
    last: Option<&str>,
) -> Result<(usize, Vec<Info>)> {
    // the token comes from a client, so its offset is bounded
    let hint = after.map_or(0, |token| token.offset.min(CONSUMERS_PER_ROOM_MAX.unsigned_abs() as usize));
    for offset in [hint, hint.saturating_sub(LIST_PAGE)] {
        let listed = list(nats, stream, prefix, offset).await?;
        let early = listed.first().is_some_and(|first| last.is_some_and(|last| first.name.as_str() <= last));
        if offset == 0 || early {
            return Ok((offset, listed));
        }
    }
    Ok((0, list(nats, stream, prefix, 0).await?))
}

async fn list(nats: &Nats, stream: &str, prefix: &str, offset: usize) -> Result<Vec<Info>> {
    let request = json!({ "offset": offset });
    let listed: Listed = match nats.api(format!("CONSUMER.LIST.{stream}"), &request).await {
        Ok(listed) => listed,
        Err(error) if error.is(ErrorCode::STREAM_NOT_FOUND) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    if listed.missing.unwrap_or_default().iter().any(|name| name.starts_with(prefix)) {
        return Err(unavailable().because(ApiError::NoResponders));
    }
    Ok(listed.consumers.unwrap_or_default())
}

fn durable(info: &Info, nats_name: &str, state: &RoomState) -> Durable {
    Durable {
        consumer: info.name.clone(),
        nats_name: nats_name.to_owned(),
        given: info.config.metadata.get(names::METADATA_SUBSCRIBER).cloned(),
        endpoint: info.config.metadata.get(names::METADATA_ENDPOINT).cloned(),
        position: info.ack_floor.stream_sequence,
        lag: lag(info, state),
        last_active_at: last_active(&info.ack_floor).max(last_active(&info.delivered)),
    }
}

/// Number of stored messages after the ack floor. JetStream counts the messages after the last delivered one. Both
/// numbers are equal if only the service moves the consumer.
fn lag(info: &Info, state: &RoomState) -> u64 {
    let floor = info.ack_floor.stream_sequence;
    if info.delivered.stream_sequence <= floor {
        info.num_pending
    } else if state.is_dense() {
        (state.last_sequence + 1).saturating_sub(state.first_sequence.max(floor + 1))
    } else {
        // messages that a native program acknowledged out of order are not counted; with holes in the log the number
        // is not exact
        info.num_pending.saturating_add(info.num_ack_pending as u64)
    }
}

fn last_active(sequence: &SequenceInfo) -> Option<SystemTime> {
    let nanos = u64::try_from(sequence.last_active?.unix_timestamp_nanos()).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_nanos(nanos))
}
