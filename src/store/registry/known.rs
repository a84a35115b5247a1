//! What this instance knows of the rooms, as it was read from the bucket or told by its watch.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex},
};

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::super::{bucket::Versioned, lock};
use crate::domain::{Purged, Room, RoomId, RoomState};

/// A room as this instance knows it.
#[derive(Debug)]
pub(crate) struct Registered {
    pub room: Room,
    pub(super) revision: u64,
    pub(super) deleting: bool,
    gone: CancellationToken,
    removed: Arc<Mutex<Removed>>,
}

/// What is known now of the messages that are gone, whichever settings of the room say so.
#[derive(Debug, Default)]
struct Removed {
    purged: Option<Purged>,
    /// A purge that was announced. It counts as far as the log shows it: its messages may all be there.
    purging: Option<Purged>,
    /// In the life of the log that is named first, nothing is stored up to this sequence.
    empty_through: (i64, u64),
}

impl Registered {
    /// The last sequence that was purged in the life `epoch` of the log, as is known now; 0 if none was.
    pub(crate) fn purged_through(&self, epoch: i64) -> u64 {
        let removed = lock(&self.removed);
        let in_epoch =
            |purged: Option<Purged>| purged.filter(|purged| purged.epoch == epoch).map_or(0, |purged| purged.through);
        let shown = if removed.empty_through.0 == epoch { removed.empty_through.1 } else { 0 };
        in_epoch(removed.purged).max(in_epoch(removed.purging).min(shown))
    }

    /// What the log holds: it shows which of the announced purges have happened.
    pub(super) fn note(&self, state: &RoomState) {
        let empty_through = &mut lock(&self.removed).empty_through;
        *empty_through = (*empty_through).max((state.epoch, state.first_sequence.saturating_sub(1)));
    }

    /// Completes when the room is deleted, by whichever instance.
    pub(crate) async fn gone(&self) {
        self.gone.cancelled().await;
    }

    /// Whether the room is deleted.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.is_cancelled()
    }
}

/// A room's value in the bucket.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Record {
    #[serde(flatten)]
    pub room: Room,
    /// Deletion has begun: nobody may use the room, and the name is free once its stream is gone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deleting: bool,
}

#[derive(Debug, Default)]
pub(super) struct Known {
    pub by_id: BTreeMap<RoomId, Arc<Registered>>,
    pub id_by_name: HashMap<String, RoomId>,
    pub by_creator: HashMap<String, BTreeSet<RoomId>>,
    /// Names told since the watch began again; `None` once all were told.
    pub told: Option<HashSet<String>>,
}

impl Known {
    pub(super) fn put(&mut self, name: &str, record: Versioned<Record>) {
        if let Some(told) = &mut self.told {
            told.insert(name.to_owned());
        }
        let id = record.value.room.room_id.clone();
        let before = self.id_by_name.get(name).and_then(|id| self.by_id.get(id)).cloned();
        if before.as_ref().is_some_and(|before| before.revision >= record.revision) {
            return;
        }
        let mut registered = Registered::new(record);
        if let Some(before) = before {
            // one room's token lives as long as the room: what changes is its settings
            if before.room.room_id == id && before.room.created_at == registered.room.created_at {
                registered.gone = before.gone.clone();
                {
                    let mut removed = lock(&before.removed);
                    (removed.purged, removed.purging) = (registered.room.purged, registered.room.purging);
                }
                registered.removed = Arc::clone(&before.removed);
            } else {
                before.gone.cancel();
                self.forget(&before.room.room_id);
            }
        }
        if registered.deleting {
            registered.gone.cancel();
        }
        self.id_by_name.insert(name.to_owned(), id.clone());
        if !registered.room.creator.is_empty() {
            self.by_creator.entry(registered.room.creator.clone()).or_default().insert(id.clone());
        }
        self.by_id.insert(id, Arc::new(registered));
    }

    pub(super) fn delete(&mut self, name: &str, revision: u64) {
        let Some(id) = self.id_by_name.get(name).cloned() else { return };
        if self.by_id.get(&id).is_some_and(|registered| registered.revision < revision) {
            self.remove(name, &id);
        }
    }

    /// Forgets what the bucket did not have when it was read from the beginning.
    pub(super) fn forget_untold(&mut self) {
        let Some(told) = self.told.take() else { return };
        let untold: Vec<_> = self
            .id_by_name
            .iter()
            .filter(|(name, _)| !told.contains(*name))
            .map(|(name, id)| (name.clone(), id.clone()))
            .collect();
        for (name, id) in untold {
            self.remove(&name, &id);
        }
    }

    fn remove(&mut self, name: &str, id: &RoomId) {
        self.id_by_name.remove(name);
        if let Some(registered) = self.forget(id) {
            registered.gone.cancel();
        }
    }

    fn forget(&mut self, id: &RoomId) -> Option<Arc<Registered>> {
        let registered = self.by_id.remove(id)?;
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
    pub(super) fn new(record: Versioned<Record>) -> Self {
        let room = record.value.room;
        Self {
            removed: Arc::new(Mutex::new(Removed { purged: room.purged, purging: room.purging, ..Removed::default() })),
            room,
            revision: record.revision,
            deleting: record.value.deleting,
            gone: CancellationToken::new(),
        }
    }
}
