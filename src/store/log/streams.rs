//! The stream of a persisted room: created, adopted, repaired, changed, emptied, described, deleted.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use async_nats::jetstream::{
    ErrorCode,
    stream::{Config, DiscardPolicy, Info, RetentionPolicy},
};
use serde::Deserialize;
use serde_json::json;
use tracing::{info, warn};

use super::{
    adoption,
    raw::{self, Wanted},
    turn,
};
use crate::{
    domain::{DedupeWindow, Room, RoomState, rfc3339},
    error::{Error, Reason, Result},
    limits::{CONSUMERS_PER_ROOM_MAX, HEADROOM_BYTES},
    nats::{Nats, error::ApiError},
    store::names::METADATA_ROOM,
};

/// The stored sequences of a log, as one server answered at one moment.
#[derive(Debug)]
pub(in crate::store) struct Listing {
    pub state: RoomState,
    /// The missing sequences between the first and the last, ascending.
    deleted: Vec<u64>,
}

impl Listing {
    /// The first stored sequence at or after `sequence`.
    pub(in crate::store) fn first_from(&self, sequence: u64) -> Option<u64> {
        let mut next = sequence.max(self.state.first_sequence);
        let missing = self.deleted.partition_point(|deleted| *deleted < next);
        for deleted in self.deleted.iter().skip(missing) {
            if *deleted > next {
                break;
            }
            next += 1;
        }
        (next <= self.state.last_sequence).then_some(next)
    }
}

#[derive(Deserialize)]
struct Done {
    success: bool,
}

#[derive(Deserialize)]
struct Account {
    #[serde(flatten)]
    all: Tier,
    /// Limits by name, such as `R3`, if they differ by the number of replicas.
    #[serde(default)]
    tiers: HashMap<String, Tier>,
}

#[derive(Deserialize)]
struct Tier {
    limits: AccountLimits,
}

#[derive(Deserialize)]
struct AccountLimits {
    max_consumers: i32,
}

#[derive(Deserialize)]
struct Purge {
    success: bool,
    #[serde(default)]
    purged: u64,
}

/// Creates the room's stream, or adopts a stream with its name and subject.
///
/// # Errors
/// `STREAM_INCOMPATIBLE`, `SUBJECT_TAKEN`, `REPLICAS_UNAVAILABLE` and the account's limits. No stream was changed.
pub(in crate::store) async fn create(nats: &Nats, room: &Room) -> Result<RoomState> {
    nats.require_jetstream()?;
    let wanted = settings(room, Config { name: room.stream.to_string(), ..Config::default() });
    match set(nats, "CREATE", wanted).await {
        Ok(info) => Ok(state(&info)),
        Err(error) if error.is(ErrorCode::STREAM_NAME_EXIST) => adopt(nats, room).await,
        Err(error) => Err(error.into()),
    }
}

/// A stream with the name of a room that is being created.
#[derive(Debug)]
pub(crate) struct FoundStream {
    messages: u64,
    /// How long the stream remembers message ids.
    duplicate_window: Duration,
}

impl FoundStream {
    /// # Errors
    /// `PERMISSION_DENIED` if the stream holds messages.
    pub(crate) fn require_empty(&self) -> Result<()> {
        if self.messages == 0 {
            return Ok(());
        }
        Err(Error::new(
            Reason::PermissionDenied,
            "`room_id`: a NATS stream with the name of the room holds messages, so only an administrator may create the room; choose another id",
        ))
    }

    /// The window of the stream, if a room with this `max_age` can have it.
    pub(crate) fn dedupe_window(&self, max_age: Option<Duration>) -> Option<DedupeWindow> {
        DedupeWindow::adopt(self.duplicate_window, max_age)
    }
}

/// The stream with the room's name, which another program created.
pub(in crate::store) async fn find(nats: &Nats, room: &Room) -> Result<Option<FoundStream>> {
    let found = info(nats, room).await?;
    Ok(found
        .map(|found| FoundStream { messages: found.state.messages, duplicate_window: found.config.duplicate_window }))
}

async fn adopt(nats: &Nats, room: &Room) -> Result<RoomState> {
    let found = info(nats, room).await?.ok_or_else(|| Error::from(ApiError::NoResponders))?;
    adoption::check(&found.config, room)?;
    info!(room = %room.room_id, messages = found.state.messages, "the new room adopts the NATS stream that has its name");
    match apply_settings(nats, room, found).await {
        Ok(info) => Ok(state(&info)),
        Err(error @ ApiError::Refused(_)) => match Error::from(error) {
            error if error.reason() == Reason::Internal => Err(adoption::refused().because(error)),
            error => Err(error),
        },
        Err(error) => Err(error.into()),
    }
}

/// The state of the room's stream. Creates the stream if it is missing, and repairs it if another program changed its
/// settings. Requires: the caller has just read `room` from the registry. Old knowledge would undo a change of
/// another instance.
pub(in crate::store) async fn ensure(nats: &Nats, room: &Room) -> Result<RoomState> {
    nats.require_jetstream()?;
    if let Some(found) = info(nats, room).await? {
        return repair(nats, room, found).await;
    }
    warn!(room = %room.room_id, "the stream of the room is missing: another program deleted it; an empty one is created");
    create(nats, room).await
}

/// The state of the room's stream. `None` if the stream is missing, or its settings differ from `room`.
pub(in crate::store) async fn state_if_as_registered(nats: &Nats, room: &Room) -> Result<Option<RoomState>> {
    nats.require_jetstream()?;
    let found = info(nats, room).await?;
    Ok(found.filter(|found| settings(room, found.config.clone()) == found.config).map(|found| state(&found)))
}

/// The time of the clock that dates the room's messages. `None` if the stream is missing.
pub(in crate::store) async fn clock(nats: &Nats, room: &Room) -> Result<Option<SystemTime>> {
    #[derive(Deserialize)]
    struct Clock {
        #[serde(with = "rfc3339")]
        ts: SystemTime,
    }
    match nats.api::<_, Clock>(format!("STREAM.INFO.{}", room.stream), &json!({})).await {
        Ok(Clock { ts }) => Ok(Some(ts)),
        Err(error) if error.is(ErrorCode::STREAM_NOT_FOUND) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Applies the settings of `room`, which is not registered yet, to its stream.
///
/// # Errors
/// `REPLICAS_UNAVAILABLE` and the account's limits. The stream was not changed.
pub(in crate::store) async fn update(nats: &Nats, room: &Room) -> Result<()> {
    nats.require_jetstream()?;
    let Some(found) = info(nats, room).await? else { return create(nats, room).await.map(drop) };
    Ok(apply_settings(nats, room, found).await.map(drop)?)
}

/// Removes every message up to and including `through`. Returns the number of removed messages.
///
/// # Errors
/// `REMOVAL_DENIED`: nothing was removed.
pub(in crate::store) async fn purge(nats: &Nats, room: &Room, through: u64) -> Result<u64> {
    let request = json!({ "seq": through.saturating_add(1) });
    match nats.api::<_, Purge>(format!("STREAM.PURGE.{}", room.stream), &request).await {
        Ok(Purge { success: true, purged }) => Ok(purged),
        Ok(Purge { success: false, .. }) => Err(Error::internal()),
        Err(error) if error.is(ErrorCode::STREAM_PURGE_FAILED) => Err(removal_denied().because(error)),
        Err(error) => Err(error.into()),
    }
}

/// Removes one message and overwrites it in the server's files. False: it does not exist.
///
/// # Errors
/// `REMOVAL_DENIED`: nothing was removed.
pub(in crate::store) async fn delete_message(nats: &Nats, room: &Room, sequence: u64) -> Result<bool> {
    let request = json!({ "seq": sequence, "no_erase": false });
    match nats.api::<_, Done>(format!("STREAM.MSG.DELETE.{}", room.stream), &request).await {
        Ok(Done { success }) => Ok(success),
        Err(error) if error.is(ErrorCode::SEQUENCE_NOT_FOUND) => Ok(false),
        // one code covers all other failures, so the stream is read for the reason
        Err(error) if error.is(ErrorCode::STREAM_MESSAGE_DELETE_FAILED) => {
            let denied = info(nats, room).await?.is_some_and(|info| info.config.deny_delete);
            if denied {
                Err(removal_denied().because(error))
            } else if raw::get(nats, room, Wanted::At(sequence)).await?.is_none() {
                Ok(false)
            } else {
                Err(error.into())
            }
        }
        Err(error) => Err(error.into()),
    }
}

fn removal_denied() -> Error {
    Error::new(
        Reason::RemovalDenied,
        "another program made the NATS stream of the room, and the stream denies the removal of messages; use retention to remove them",
    )
}

/// Deletes the room's stream with its messages and consumers. A missing stream is no error.
pub(in crate::store) async fn delete(nats: &Nats, room: &Room) -> Result<()> {
    match nats.api::<_, Done>(format!("STREAM.DELETE.{}", room.stream), &json!({})).await {
        Ok(Done { success: true }) => Ok(()),
        Ok(Done { success: false }) => Err(Error::internal()),
        Err(error) if error.is(ErrorCode::STREAM_NOT_FOUND) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Restores the settings that another program's create-or-update removed.
async fn repair(nats: &Nats, room: &Room, found: Info) -> Result<RoomState> {
    if settings(room, found.config.clone()) == found.config {
        return Ok(state(&found));
    }
    info!(room = %room.room_id, "another program changed the settings of the room's stream; they are repaired");
    let before = state(&found);
    // boxed, because it is rare and too large for the future of every reader
    match Box::pin(apply_settings(nats, room, found)).await {
        Ok(info) => Ok(state(&info)),
        Err(error @ ApiError::Refused(_)) => {
            // the room can be used as it is; the log reports the failed repair
            warn!(room = %room.room_id, %error, "the settings of the room's stream cannot be repaired; the room goes on with them");
            Ok(before)
        }
        Err(error) => Err(error.into()),
    }
}

/// Applies the settings of `room` to the stream. If the stream lost its subject, takes the stream's turn first.
async fn apply_settings(nats: &Nats, room: &Room, found: Info) -> Result<Info, ApiError> {
    if found.config.subjects.iter().any(|subject| subject == room.subject.as_str()) {
        return update_if_other(nats, room, found).await;
    }
    let turn = turn::take(nats, &found.config.name).await?;
    let updated = async {
        // the stream may have changed meanwhile
        let found = info(nats, room).await?.ok_or(ApiError::NoResponders)?;
        update_if_other(nats, room, found).await
    }
    .await;
    turn.end().await;
    updated
}

async fn update_if_other(nats: &Nats, room: &Room, found: Info) -> Result<Info, ApiError> {
    let wanted = settings(room, found.config.clone());
    if wanted == found.config { Ok(found) } else { set(nats, "UPDATE", wanted).await }
}

/// Creates or updates the stream. NATS refuses a stream that may have more consumers than its account. The stream
/// then gets the account's maximum.
async fn set(nats: &Nats, action: &str, mut wanted: Config) -> Result<Info, ApiError> {
    let subject = format!("STREAM.{action}.{}", wanted.name);
    match nats.api(subject.clone(), &wanted).await {
        Err(error) if error.is(ErrorCode::MAXIMUM_CONSUMERS_LIMIT) => {
            let account: Account = nats.api("INFO".to_owned(), &json!({})).await?;
            let tier = account.tiers.get(&format!("R{}", wanted.num_replicas)).unwrap_or(&account.all);
            let allowed = tier.limits.max_consumers;
            if !(1..wanted.max_consumers).contains(&allowed) {
                return Err(error);
            }
            wanted.max_consumers = allowed;
            nats.api(subject, &wanted).await
        }
        result => result,
    }
}

/// The stored sequences of the room's stream. `None` if the stream is missing.
pub(in crate::store) async fn list(nats: &Nats, room: &Room) -> Result<Option<Listing>> {
    let found = info_with(nats, room, &json!({ "deleted_details": true })).await?;
    Ok(found.map(|found| {
        let mut deleted = found.state.deleted.clone().unwrap_or_default();
        deleted.sort_unstable();
        Listing { state: state(&found), deleted }
    }))
}

async fn info(nats: &Nats, room: &Room) -> Result<Option<Info>, ApiError> {
    info_with(nats, room, &json!({})).await
}

async fn info_with(nats: &Nats, room: &Room, request: &serde_json::Value) -> Result<Option<Info>, ApiError> {
    match nats.api(format!("STREAM.INFO.{}", room.stream), request).await {
        Ok(info) => Ok(Some(info)),
        Err(error) if error.is(ErrorCode::STREAM_NOT_FOUND) => Ok(None),
        Err(error) => Err(error),
    }
}

/// `base` with the settings of the room. A native program's create-or-update could take back every setting, unless the
/// room asks for `deny_delete`, `deny_purge` or `allow_message_ttl`, with which NATS refuses that. Settings that NATS
/// never lets anyone take back stay as they are in `base`, because a request to change them would prevent every other
/// repair.
fn settings(room: &Room, base: Config) -> Config {
    let retention = &room.retention;
    // a create-or-update of another program removes the metadata and this setting; if the metadata exists, the
    // account or an operator set this value
    let is_own = base.max_consumers > 0 && base.metadata.contains_key(METADATA_ROOM);
    let own = HashMap::from([(METADATA_ROOM.to_owned(), room.room_id.as_str().to_owned())]);
    Config {
        subjects: vec![room.subject.as_str().to_owned()],
        retention: RetentionPolicy::Limits,
        storage: base.storage,
        discard: DiscardPolicy::Old,
        discard_new_per_subject: false,
        no_ack: false,
        // schedules need rollups, and cannot be disabled
        allow_rollup: base.allow_message_schedules,
        subject_transform: None,
        mirror_direct: false,
        sources: None,
        subject_delete_marker_ttl: None,
        consumer_limits: None,
        first_sequence: None,
        num_replicas: room.replicas.try_into().unwrap_or(1),
        max_age: retention.max_age.unwrap_or_default(),
        max_bytes: retention.max_bytes.unwrap_or(-1),
        max_messages: retention.max_messages.unwrap_or(-1),
        max_messages_per_subject: -1,
        max_message_size: message_size_max(room),
        max_consumers: if is_own { base.max_consumers } else { CONSUMERS_PER_ROOM_MAX },
        duplicate_window: room.dedupe_window(),
        allow_direct: true,
        allow_atomic_publish: true,
        allow_batch_publish: true,
        allow_message_ttl: room.allow_message_ttl || base.allow_message_ttl,
        metadata: base.metadata.clone().into_iter().chain(own).collect(),
        ..base
    }
}

/// Maximum bytes of headers and payload of one message. -1: no bound. A message larger than `max_bytes` would remove
/// all others, and then itself. The bound for NATS includes space for headers; the service itself enforces the room's
/// bound on payloads.
fn message_size_max(room: &Room) -> i32 {
    let by_payload = room.retention.max_message_bytes.and_then(|bytes| u64::try_from(bytes).ok());
    let by_payload = by_payload.map(|bytes| bytes.saturating_add(HEADROOM_BYTES as u64));
    let bound = by_payload.into_iter().chain(room.content_bytes_max()).min();
    // NATS reads 0 as no bound
    bound.and_then(|bound| i32::try_from(bound.max(1)).ok()).unwrap_or(-1)
}

fn state(info: &Info) -> RoomState {
    let epoch = nanoseconds(info.created);
    RoomState {
        // an unused stream reports 0, and a purged one last + 1; in both cases the next message is the first
        first_sequence: info.state.first_sequence.max(1),
        last_sequence: info.state.last_sequence,
        messages: info.state.messages,
        bytes: info.state.bytes,
        epoch,
        oldest: if info.state.messages == 0 { epoch } else { nanoseconds(info.state.first_timestamp) },
    }
}

/// Nanoseconds since 1970.
fn nanoseconds(time: async_nats::datetime::DateTime) -> i64 {
    i64::try_from(time.unix_timestamp_nanos()).unwrap_or(i64::MAX)
}
