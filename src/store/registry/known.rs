//! The rooms in this instance's memory, as read from the bucket or reported by its watch.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::newest::Newest;
use crate::{
    domain::{Removals, Room, RoomId, RoomState, StreamName},
    nats::bucket::{
        Versioned,
        follow::{Mirror, WatchProgress},
    },
};

/// A room as this instance knows it.
#[derive(Debug)]
pub(crate) struct Registered {
    pub room: Room,
    pub(super) revision: u64,
    pub(super) deleting: bool,
    gone: CancellationToken,
    newest: Arc<Newest>,
}

impl Registered {
    /// Applies a state of the log. It shows which announced purges have happened.
    pub(super) fn note(&self, state: &RoomState) {
        self.newest.note(state);
    }

    /// The state of the log, if it did not change between the last two answers. It may have changed since.
    pub(crate) fn quiet_state(&self) -> Option<RoomState> {
        self.newest.quiet_state()
    }

    /// The known removals after `position` in the log with this `epoch`.
    pub(crate) fn removals(&self, epoch: i64, position: u64) -> Removals {
        self.newest.removals(epoch, position)
    }

    /// Messages in memory up to this sequence, in the log with this `epoch`, may be removed from the log.
    pub(crate) fn doubted_through(&self, epoch: i64) -> u64 {
        self.newest.doubted_through(epoch)
    }

    /// The lifetime of messages in the newest settings of the room.
    pub(crate) fn max_age(&self) -> Option<Duration> {
        self.newest.max_age()
    }

    /// Changes when messages are removed on request, or the room's settings change.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.newest.changes()
    }

    /// Records that a message of the log with this `epoch` was deleted.
    pub(in crate::store) fn deleted(&self, epoch: i64, sequence: u64) {
        self.newest.deleted(epoch, sequence);
    }

    /// Records that a message of the log with this `epoch` may have been deleted.
    pub(in crate::store) fn doubt(&self, epoch: i64, sequence: u64) {
        self.newest.doubt(epoch, sequence);
    }

    /// Waits until the room is deleted, by any instance.
    pub(crate) async fn gone(&self) {
        self.gone.cancelled().await;
    }

    /// Returns true if the room is deleted.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.is_cancelled()
    }
}

/// A room's value in the bucket.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct RoomRecord {
    #[serde(flatten)]
    pub room: Room,
    /// Deletion has begun. The room cannot be used. Its id is free once its stream is deleted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deleting: bool,
}

#[derive(Debug, Default)]
pub(super) struct KnownRooms {
    pub by_id: BTreeMap<RoomId, Arc<Registered>>,
    pub id_by_stream: HashMap<StreamName, RoomId>,
    pub by_creator: HashMap<String, BTreeSet<RoomId>>,
    pub progress: WatchProgress,
    /// Rooms that an instance deleted, with the revision of the deleted record. Kept until the watch reports the
    /// deletion.
    pub deletions: HashMap<RoomId, u64>,
}

impl Mirror<RoomRecord> for KnownRooms {
    fn progress(&mut self) -> &mut WatchProgress {
        &mut self.progress
    }

    fn on_put(&mut self, key: &str, record: Versioned<RoomRecord>) {
        self.forget_deleted(record.revision);
        // another program may have put the record under another key
        if record.value.room.room_id.key() == key {
            self.put(record);
        }
    }

    fn on_delete(&mut self, key: &str, revision: u64) {
        self.forget_deleted(revision);
        if let Some(id) = RoomId::of_key(key) {
            self.delete(&id, revision);
        }
    }

    fn on_complete(&mut self, noted: &HashSet<String>) {
        let gone: Vec<_> = self.by_id.keys().filter(|id| !noted.contains(&id.key())).cloned().collect();
        for id in gone {
            self.remove(&id);
        }
    }
}

impl KnownRooms {
    pub(super) fn put(&mut self, record: Versioned<RoomRecord>) {
        let id = record.value.room.room_id.clone();
        self.progress.note(|| id.key());
        if self.is_deleted(&id, record.revision) {
            return;
        }
        let before = self.by_id.get(&id).cloned();
        if before.as_ref().is_some_and(|before| before.revision >= record.revision) {
            return;
        }
        let mut registered = Registered::new(record);
        if let Some(before) = before {
            // the token lives as long as the room; only the settings changed
            if before.room.created_at == registered.room.created_at {
                registered.gone = before.gone.clone();
                before.newest.set(&registered.room);
                registered.newest = Arc::clone(&before.newest);
            } else {
                before.gone.cancel();
                self.take_out(&id);
            }
        }
        if registered.deleting {
            registered.gone.cancel();
        }
        self.id_by_stream.insert(registered.room.stream.clone(), id.clone());
        if !registered.room.creator.is_empty() {
            self.by_creator.entry(registered.room.creator.clone()).or_default().insert(id.clone());
        }
        self.by_id.insert(id, Arc::new(registered));
    }

    pub(super) fn delete(&mut self, id: &RoomId, revision: u64) {
        if self.by_id.get(id).is_some_and(|registered| registered.revision < revision) {
            self.remove(id);
        }
    }

    fn remove(&mut self, id: &RoomId) {
        if let Some(registered) = self.take_out(id) {
            registered.gone.cancel();
        }
    }

    fn take_out(&mut self, id: &RoomId) -> Option<Arc<Registered>> {
        let registered = self.by_id.remove(id)?;
        let stream = &registered.room.stream;
        if self.id_by_stream.get(stream) == Some(id) {
            self.id_by_stream.remove(stream);
        }
        let creator = &registered.room.creator;
        if let Some(created) = self.by_creator.get_mut(creator) {
            created.remove(id);
            if created.is_empty() {
                self.by_creator.remove(creator);
            }
        }
        Some(registered)
    }
}

impl Registered {
    pub(super) fn new(record: Versioned<RoomRecord>) -> Self {
        let room = record.value.room;
        Self {
            newest: Arc::new(Newest::new(&room)),
            room,
            revision: record.revision,
            deleting: record.value.deleting,
            gone: CancellationToken::new(),
        }
    }
}
