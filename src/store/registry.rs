//! The registry of rooms: the truth about names, kept in a key-value bucket, watched into memory.
//!
//! A room's key is its mapped name, so two ids that map to one name meet in one compare-and-set. Without JetStream the
//! registry lives in this process alone, for ephemeral rooms.

mod change;
mod known;

use std::{
    collections::{BTreeSet, HashSet},
    ops::Bound,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub(super) use self::change::RoomChange;
pub(crate) use self::known::Registered;
use self::known::{Known, Record};
use super::{
    bucket::{Bucket, Buckets, Change, Versioned},
    changes::Changes,
    lock,
};
use crate::{
    domain::{Room, RoomId, RoomState, Subject},
    error::{Error, Reason, Result},
    limits::NATS_REQUEST_TIMEOUT,
};

/// A claim of a subject without its room is another instance's creation under way, unless it is older than this.
const CLAIM_AGE_MAX: Duration = Duration::from_secs(10);

/// A subject's value in the bucket of subjects that were given by a creator.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Claim {
    room_id: RoomId,
    claimed_at_ms: u64,
}

/// What became of an attempt to register a room.
#[derive(Debug)]
pub(crate) enum Registration {
    /// The name was free and is now the room's.
    New(Arc<Registered>),
    /// The very same room is there.
    Existing,
    /// A room of this name is being deleted; finish that, then try again.
    Deleting(Arc<Registered>),
}

#[derive(Clone, Debug)]
pub(crate) struct Registry {
    rooms: Option<Bucket<Record>>,
    subjects: Option<Bucket<Claim>>,
    known: Arc<Mutex<Known>>,
    changes: Changes,
}

impl Registry {
    /// The registry of this NATS account, or one of this process alone if there is no JetStream.
    pub(super) fn new(buckets: &Buckets, changes: &Changes) -> Self {
        let available = buckets.nats.has_jetstream();
        Self {
            rooms: available.then(|| Bucket::new(buckets, "unibus_rooms", "unibus: rooms by mapped name")),
            subjects: available
                .then(|| Bucket::new(buckets, "unibus_subjects", "unibus: subjects that creators chose")),
            known: Arc::default(),
            changes: changes.clone(),
        }
    }

    /// Follows the bucket until `stop`. `complete` fires when all that was there is known.
    pub(crate) async fn follow(self, stop: CancellationToken, complete: tokio::sync::oneshot::Sender<()>) {
        let mut complete = Some(complete);
        let told = |complete: &mut Option<tokio::sync::oneshot::Sender<()>>| {
            if let Some(complete) = complete.take() {
                let _ = complete.send(());
            }
        };
        let Some(bucket) = self.rooms else {
            told(&mut complete);
            return;
        };
        let known = self.known;
        bucket
            .watch(stop, |change| {
                let mut known = lock(&known);
                if let Change::Put(_, Versioned { revision, .. }) | Change::Delete(_, revision) = &change {
                    known.told_through(*revision);
                }
                match change {
                    Change::Restart => known.told = Some(HashSet::new()),
                    Change::Put(name, record) => known.put(&name, record),
                    Change::Delete(name, revision) => known.delete(&name, revision),
                    Change::Complete => {
                        known.forget_untold();
                        told(&mut complete);
                    }
                }
            })
            .await;
    }

    /// The room, from memory; from the bucket if this instance has not heard of it yet.
    ///
    /// # Errors
    /// `ROOM_NOT_FOUND`.
    pub(crate) async fn find(&self, id: &RoomId) -> Result<Arc<Registered>> {
        match self.known(id) {
            Some(registered) => Ok(registered),
            // boxed: rare, and too large for the future of every publish
            None => Box::pin(self.find_fresh(id)).await,
        }
    }

    /// The room as the bucket has it now: for decisions that must not rest on old knowledge.
    ///
    /// # Errors
    /// `ROOM_NOT_FOUND`.
    pub(crate) async fn find_fresh(&self, id: &RoomId) -> Result<Arc<Registered>> {
        let registered = self.read(&id.mapped()).await?;
        registered
            .filter(|registered| registered.room.room_id == *id && !registered.deleting)
            .ok_or_else(|| not_found(id))
    }

    /// The room that owns a mapped name, if this instance knows one.
    pub(crate) fn known_by_name(&self, name: &str) -> Option<Arc<Registered>> {
        let known = lock(&self.known);
        let id = known.id_by_name.get(name)?;
        known.by_id.get(id).filter(|registered| !registered.deleting).cloned()
    }

    /// The room, if this instance knows it.
    pub(crate) fn known(&self, id: &RoomId) -> Option<Arc<Registered>> {
        lock(&self.known).by_id.get(id).filter(|registered| !registered.deleting).cloned()
    }

    /// What the log of a room holds: it shows which of the announced purges have happened.
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

    /// Whether the name is a room's, also while it is being deleted.
    pub(crate) async fn is_registered(&self, id: &RoomId) -> Result<bool> {
        Ok(self.read(&id.mapped()).await?.is_some())
    }

    /// The rooms with an id after `after` that `creator` created.
    pub(crate) fn created_by(&self, creator: &str, after: Option<&RoomId>) -> BTreeSet<RoomId> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let known = lock(&self.known);
        let created = known.by_creator.get(creator).into_iter();
        created.flat_map(|rooms| rooms.range((from, Bound::Unbounded))).cloned().collect()
    }

    /// How many rooms this creator has; for the empty name, those of nobody.
    pub(crate) fn count_of(&self, creator: &str) -> usize {
        let known = lock(&self.known);
        if creator.is_empty() {
            return known.by_id.values().filter(|registered| registered.room.creator.is_empty()).count();
        }
        known.by_creator.get(creator).map_or(0, BTreeSet::len)
    }

    /// The room whose deletion has begun and was not finished.
    pub(crate) async fn find_deleting(&self, id: &RoomId) -> Result<Option<Arc<Registered>>> {
        let registered = self.read(&id.mapped()).await?;
        Ok(registered.filter(|registered| registered.room.room_id == *id && registered.deleting))
    }

    /// Takes name and subject for `room`.
    ///
    /// # Errors
    /// `ROOM_EXISTS`, `ROOM_NAME_TAKEN`, `SUBJECT_TAKEN`; nothing was registered.
    pub(crate) async fn register(&self, room: &Room) -> Result<Registration> {
        let name = room.room_id.mapped();
        if let Some(registered) = self.read(&name).await? {
            return judge(room, registered);
        }
        let claimed_at = Instant::now();
        self.claim_subject(room).await?;
        if claimed_at.elapsed() + NATS_REQUEST_TIMEOUT > CLAIM_AGE_MAX {
            // by the time that the room is registered, others may take the claim for abandoned
            return Err(conflict());
        }
        let record = Record { room: room.clone(), deleting: false };
        let revision = match &self.rooms {
            Some(bucket) => bucket.create(&name, &record).await?,
            None => Some(1),
        };
        let Some(revision) = revision else {
            return match self.read(&name).await? {
                Some(registered) => judge(room, registered),
                None => Err(conflict()),
            };
        };
        Ok(Registration::New(self.spread(&name, Versioned { value: record, revision }).await))
    }

    /// Takes a registration back that came to nothing. Best effort: a leftover heals itself, or can be deleted.
    pub(crate) async fn unregister(&self, registered: &Registered) -> Result<()> {
        let name = registered.room.room_id.mapped();
        if let Some(bucket) = &self.rooms {
            bucket.delete(&name, registered.revision).await?;
        }
        self.release_subject(&registered.room).await?;
        lock(&self.known).delete(&name, registered.revision + 1);
        self.spread_deletion(registered).await;
        Ok(())
    }

    /// Registers `room` in the place of `registered`, which it was made from; `None` if that is no longer registered.
    pub(crate) async fn update(&self, registered: &Registered, room: Room) -> Result<Option<Arc<Registered>>> {
        let name = room.room_id.mapped();
        let record = Record { room, deleting: false };
        let Some(bucket) = &self.rooms else {
            let mut known = lock(&self.known);
            let present = known.by_id.get(&record.room.room_id).map(|present| present.revision);
            if present != Some(registered.revision) {
                return Ok(None);
            }
            known.put(&name, Versioned { value: record.clone(), revision: registered.revision + 1 });
            return Ok(known.by_id.get(&record.room.room_id).cloned());
        };
        let revision = bucket.put(&name, &record, Some(registered.revision)).await?;
        match revision {
            Some(revision) => Ok(Some(self.spread(&name, Versioned { value: record, revision }).await)),
            None => Ok(None),
        }
    }

    /// Makes the room unusable everywhere, before its stream is deleted.
    pub(crate) async fn begin_deletion(&self, registered: &Registered) -> Result<Arc<Registered>> {
        let name = registered.room.room_id.mapped();
        let record = Record { room: registered.room.clone(), deleting: true };
        let revision = match &self.rooms {
            Some(bucket) => bucket.put(&name, &record, Some(registered.revision)).await?.ok_or_else(conflict)?,
            None => registered.revision + 1,
        };
        Ok(self.spread(&name, Versioned { value: record, revision }).await)
    }

    async fn read(&self, name: &str) -> Result<Option<Arc<Registered>>> {
        let Some(bucket) = &self.rooms else {
            let known = lock(&self.known);
            return Ok(known.id_by_name.get(name).and_then(|id| known.by_id.get(id)).cloned());
        };
        Ok(bucket.get(name).await?.map(|record| self.remember(name, record)))
    }

    /// Takes a record into memory, unless memory has a newer one; answers with what memory then has.
    fn remember(&self, name: &str, record: Versioned<Record>) -> Arc<Registered> {
        let mut known = lock(&self.known);
        let id = record.value.room.room_id.clone();
        known.put(name, record.clone());
        known.by_id.get(&id).cloned().unwrap_or_else(|| Arc::new(Registered::new(record)))
    }

    async fn claim_subject(&self, room: &Room) -> Result<()> {
        if !is_chosen(room) {
            // a default subject is the mapped name once more
            return Ok(());
        }
        let Some(bucket) = &self.subjects else { return self.check_subject_in_memory(room) };
        let key = room.subject.as_str();
        let claim = Claim { room_id: room.room_id.clone(), claimed_at_ms: unix_ms() };
        if bucket.create(key, &claim).await?.is_some() {
            return Ok(());
        }
        let Some(found) = bucket.get(key).await? else { return Err(conflict()) };
        if found.value.room_id == room.room_id {
            return Ok(());
        }
        let young = unix_ms().saturating_sub(found.value.claimed_at_ms)
            < u64::try_from(CLAIM_AGE_MAX.as_millis()).unwrap_or(u64::MAX);
        let owner = self.read(&found.value.room_id.mapped()).await?;
        let in_use =
            owner.is_some_and(|owner| owner.room.room_id == found.value.room_id && owner.room.subject == room.subject);
        if in_use || young {
            return Err(subject_taken());
        }
        bucket.put(key, &claim, Some(found.revision)).await?.map(drop).ok_or_else(conflict)
    }

    /// Without JetStream this process has the only registry.
    fn check_subject_in_memory(&self, room: &Room) -> Result<()> {
        let known = lock(&self.known);
        let taken = known
            .by_id
            .values()
            .any(|other| other.room.subject == room.subject && other.room.room_id != room.room_id && !other.deleting);
        if taken { Err(subject_taken()) } else { Ok(()) }
    }

    async fn release_subject(&self, room: &Room) -> Result<()> {
        let (Some(bucket), true) = (&self.subjects, is_chosen(room)) else { return Ok(()) };
        match bucket.get(room.subject.as_str()).await? {
            Some(found) if found.value.room_id == room.room_id => {
                bucket.delete(room.subject.as_str(), found.revision).await.map(drop)
            }
            Some(_) | None => Ok(()),
        }
    }
}

fn judge(wanted: &Room, found: Arc<Registered>) -> Result<Registration> {
    if found.deleting {
        Ok(Registration::Deleting(found))
    } else if found.room.room_id != wanted.room_id {
        Err(Error::new(
            Reason::RoomNameTaken,
            "room_id: maps to the NATS name of another room; choose an id that differs in letters, digits or underscores",
        ))
    } else if found.room.same_settings(wanted) {
        Ok(Registration::Existing)
    } else {
        Err(Error::new(Reason::RoomExists, "room_id: the room exists with other settings; GetRoom shows them"))
    }
}

/// Whether the creator chose the subject; a default one belongs to the mapped name and needs no claim of its own.
fn is_chosen(room: &Room) -> bool {
    room.subject != Subject::default_of(&room.room_id)
}

pub(crate) fn not_found(id: &RoomId) -> Error {
    Error::new(Reason::RoomNotFound, format!("room_id: there is no room {:?}", id.as_str()))
}

fn subject_taken() -> Error {
    Error::new(Reason::SubjectTaken, "subject: belongs to another room; choose another")
}

fn conflict() -> Error {
    Error::new(Reason::Conflict, "another call changed the same room at this moment; try again")
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
