//! The registry of rooms. A key-value bucket is authoritative; every instance watches it into memory.
//!
//! A room's key depends only on its id, so no other id can block it. The room's NATS names are claimed before the
//! room is registered ([`names`]). Without JetStream the buckets are in this process's memory, for ephemeral rooms.

mod change;
pub(crate) mod changes;
pub(crate) mod known;
pub(crate) mod members;
mod names;
mod newest;

use std::{
    collections::BTreeSet,
    ops::Bound,
    sync::{Arc, Mutex},
};

use async_nats::jetstream::ErrorCode;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use self::{
    change::RoomChange,
    changes::Changes,
    known::{KnownRooms, Registered, RoomRecord},
    names::{Claim, ClaimedRoom},
};
use crate::{
    domain::{NewRoom, Room, RoomId, RoomState, StreamName},
    error::{Error, Reason, Result},
    nats::bucket::{Bucket, Buckets, Versioned},
    store::names::{NAMES_BUCKET, ROOMS_BUCKET},
    sync::lock,
};

/// The result of naming a room that is being created.
#[derive(Debug)]
pub(crate) enum NameClaim {
    /// Names that are claimed for the room. The caller registers the room or releases the names.
    Claimed(Box<ClaimedRoom>),
    /// A room with this id exists.
    Found(Registration),
}

/// The result of an attempt to register a room.
#[derive(Debug)]
pub(crate) enum Registration {
    /// The id was free. The room is registered.
    New(Arc<Registered>),
    /// A room with the same settings exists.
    Existing,
    /// A room with this id is being deleted. The caller finishes the deletion, then tries again.
    Deleting(Arc<Registered>),
}

#[derive(Clone, Debug)]
pub(crate) struct Registry {
    rooms: Bucket<RoomRecord>,
    names: Bucket<Claim>,
    known: Arc<Mutex<KnownRooms>>,
    changes: Changes,
}

impl Registry {
    /// The registry of this NATS account. Without JetStream, a registry in this process's memory.
    pub(super) fn new(buckets: &Buckets, changes: &Changes) -> Self {
        Self {
            rooms: Bucket::new(buckets, ROOMS_BUCKET, "unibus: rooms by id"),
            names: Bucket::new(buckets, NAMES_BUCKET, "unibus: whose the names of streams and subjects are"),
            known: Arc::default(),
            changes: changes.clone(),
        }
    }

    /// Returns an error if the NATS server can never store as many copies of the registry as it should. Other failures can
    /// pass, and [`Self::follow`] tries again after them.
    ///
    /// # Errors
    /// `INVALID_FIELD` with `registry_replicas`; nothing was created.
    pub(super) async fn check_replicas(&self) -> Result<()> {
        match self.rooms.create_if_missing().await {
            Err(error) if error.is(ErrorCode::STREAM_REPLICAS_NOT_SUPPORTED) => Err(Error::field(
                "registry_replicas",
                "needs a NATS cluster, and the NATS server is in none; set 1, or use a cluster",
            )),
            _ => Ok(()),
        }
    }

    /// Watches the bucket until `stop`. `complete` fires when all existing entries are known.
    pub(crate) async fn follow(self, stop: CancellationToken, complete: oneshot::Sender<()>) {
        let complete = || {
            let _ = complete.send(());
        };
        self.rooms.follow(&self.known, stop, complete).await;
    }

    /// Returns the room from memory. If this instance does not know the room, reads the bucket.
    ///
    /// # Errors
    /// `ROOM_NOT_FOUND`.
    pub(crate) async fn find(&self, id: &RoomId) -> Result<Arc<Registered>> {
        match self.known(id) {
            Some(registered) => Ok(registered),
            // boxed, because it is rare and too large for the future of every publish
            None => Box::pin(self.find_fresh(id)).await,
        }
    }

    /// Reads the room from the bucket, for decisions that must not use old knowledge.
    ///
    /// # Errors
    /// `ROOM_NOT_FOUND`.
    pub(crate) async fn find_fresh(&self, id: &RoomId) -> Result<Arc<Registered>> {
        let registered = self.read(id).await?;
        registered.filter(|registered| !registered.deleting).ok_or_else(|| not_found(id))
    }

    /// The room with this stream, if this instance knows it.
    pub(crate) fn known_by_stream(&self, stream: &StreamName) -> Option<Arc<Registered>> {
        let known = lock(&self.known);
        let id = known.id_by_stream.get(stream)?;
        known.by_id.get(id).filter(|registered| !registered.deleting).cloned()
    }

    /// The number of rooms that this instance knows.
    pub(crate) fn count(&self) -> usize {
        lock(&self.known).by_id.len()
    }

    /// The room, if this instance knows it.
    pub(crate) fn known(&self, id: &RoomId) -> Option<Arc<Registered>> {
        lock(&self.known).by_id.get(id).filter(|registered| !registered.deleting).cloned()
    }

    /// Applies a state of a room's log. It shows which announced purges have happened.
    pub(super) fn note(&self, id: &RoomId, state: &RoomState) {
        let registered = lock(&self.known).by_id.get(id).cloned();
        if let Some(registered) = registered {
            registered.note(state);
        }
    }

    /// Up to `limit` rooms with an id after `after`, by ascending id.
    pub(crate) fn list(&self, after: Option<&RoomId>, limit: usize) -> Vec<Arc<Registered>> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        lock(&self.known)
            .by_id
            .range((from, Bound::Unbounded))
            .filter(|(_, registered)| !registered.deleting)
            .take(limit)
            .map(|(_, registered)| Arc::clone(registered))
            .collect()
    }

    /// The rooms with an id after `after` that `creator` created.
    pub(crate) fn created_by(&self, creator: &str, after: Option<&RoomId>) -> BTreeSet<RoomId> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let known = lock(&self.known);
        let created = known.by_creator.get(creator).into_iter();
        created.flat_map(|rooms| rooms.range((from, Bound::Unbounded))).cloned().collect()
    }

    /// The rooms of this creator, including those that are being deleted. For the empty name, the rooms without a
    /// creator.
    pub(crate) fn created(&self, creator: &str) -> Vec<Arc<Registered>> {
        let known = lock(&self.known);
        if creator.is_empty() {
            let rooms = known.by_id.values().filter(|registered| registered.room.creator.is_empty());
            return rooms.cloned().collect();
        }
        let ids = known.by_creator.get(creator).into_iter().flatten();
        ids.filter_map(|id| known.by_id.get(id)).cloned().collect()
    }

    /// Returns the room if its deletion has begun and is not finished.
    pub(crate) async fn find_deleting(&self, id: &RoomId) -> Result<Option<Arc<Registered>>> {
        Ok(self.read(id).await?.filter(|registered| registered.deleting))
    }

    /// Claims the NATS names for a room that is being created.
    ///
    /// # Errors
    /// `ROOM_EXISTS`, `SUBJECT_TAKEN`: nothing was claimed.
    pub(crate) async fn name(&self, new: &NewRoom) -> Result<NameClaim> {
        if let Some(found) = self.read(&new.preferred().room_id).await? {
            return registration_of(new, found).map(NameClaim::Found);
        }
        Ok(NameClaim::Claimed(Box::new(self.claim_names(new).await?)))
    }

    /// Releases the names of a room that is not created. Best effort: another room can take over names that remain
    /// claimed.
    pub(crate) async fn release(&self, claimed: &ClaimedRoom) -> Result<()> {
        self.release_names(&claimed.room).await
    }

    /// Registers a room with its names.
    ///
    /// # Errors
    /// `ROOM_EXISTS`, `CONFLICT`: nothing was registered.
    pub(crate) async fn register(&self, new: &NewRoom, claimed: &ClaimedRoom) -> Result<Registration> {
        let record = RoomRecord { room: claimed.room.clone(), deleting: false };
        if claimed.is_late() {
            return Err(conflict());
        }
        let id = &claimed.room.room_id;
        if let Some(revision) = self.rooms.create(&id.key(), &record).await? {
            return Ok(Registration::New(self.spread(Versioned { value: record, revision }).await));
        }
        let found = self.read(id).await?;
        if found.as_ref().is_none_or(|found| found.room.stream != claimed.room.stream) {
            self.release(claimed).await?;
        }
        registration_of(new, found.ok_or_else(conflict)?)
    }

    /// Removes the registration of a room whose creation failed. Best effort: a later call repairs the room, or can
    /// delete it.
    pub(crate) async fn unregister(&self, registered: &Registered) -> Result<()> {
        let id = &registered.room.room_id;
        self.rooms.delete(&id.key(), registered.revision).await?;
        self.release_names(&registered.room).await?;
        lock(&self.known).deleted(id, registered.revision);
        self.spread_deletion(registered).await;
        Ok(())
    }

    /// Replaces `registered` with `room`, which was made from it. `None` if `registered` is no longer registered.
    pub(crate) async fn update(&self, registered: &Registered, room: Room) -> Result<Option<Arc<Registered>>> {
        let record = RoomRecord { room, deleting: false };
        let revision = self.rooms.put(&record.room.room_id.key(), &record, Some(registered.revision)).await?;
        match revision {
            Some(revision) => Ok(Some(self.spread(Versioned { value: record, revision }).await)),
            None => Ok(None),
        }
    }

    /// Makes the room unusable everywhere, before its stream is deleted.
    pub(crate) async fn begin_deletion(&self, registered: &Registered) -> Result<Arc<Registered>> {
        let key = registered.room.room_id.key();
        let record = RoomRecord { room: registered.room.clone(), deleting: true };
        let revision = self.rooms.put(&key, &record, Some(registered.revision)).await?.ok_or_else(conflict)?;
        Ok(self.spread(Versioned { value: record, revision }).await)
    }

    /// Reads the room, even if it is being deleted.
    async fn read(&self, id: &RoomId) -> Result<Option<Arc<Registered>>> {
        let found = self.rooms.get(&id.key()).await?.filter(|found| found.value.room.room_id == *id);
        Ok(found.map(|record| self.remember(record)))
    }

    /// Applies a record to memory, unless memory has a newer one. Returns the room as memory has it then.
    fn remember(&self, record: Versioned<RoomRecord>) -> Arc<Registered> {
        let mut known = lock(&self.known);
        let id = record.value.room.room_id.clone();
        known.put(record.clone());
        known.by_id.get(&id).cloned().unwrap_or_else(|| Arc::new(Registered::new(record)))
    }
}

fn registration_of(new: &NewRoom, found: Arc<Registered>) -> Result<Registration> {
    if found.deleting {
        Ok(Registration::Deleting(found))
    } else if found.room.same_settings(&new.named(found.room.stream.clone())) {
        Ok(Registration::Existing)
    } else {
        Err(Error::new(
            Reason::RoomExists,
            "`room_id`: the room exists with other settings; use GetRoom to see them, or choose another id",
        ))
    }
}

pub(crate) fn not_found(id: &RoomId) -> Error {
    Error::new(
        Reason::RoomNotFound,
        format!("`room_id`: the room {:?} does not exist; create it with CreateRoom", id.as_str()),
    )
}

fn subject_taken() -> Error {
    Error::new(Reason::SubjectTaken, "`subject`: belongs to another room; choose another subject")
}

fn conflict() -> Error {
    Error::new(Reason::Conflict, "another call changes the same room at this moment; call again")
}
