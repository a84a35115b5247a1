//! Changes of rooms that one instance sends to the others.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{
    Registry, changes,
    known::{Known, Record, Registered},
};
use crate::{domain::RoomId, nats::bucket::Versioned, sync::lock};

/// A change of the bucket of rooms.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub(in crate::store) struct RoomChange(Kind);

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Put {
        record: Box<Record>,
        revision: u64,
    },
    /// `revision` is the revision of the deleted value.
    Deleted {
        room_id: RoomId,
        revision: u64,
    },
}

impl Registry {
    /// Applies a change of another instance.
    pub(in crate::store) fn hear(&self, RoomChange(change): RoomChange) {
        let mut known = lock(&self.known);
        match change {
            Kind::Put { record, revision } => known.hear(Versioned { value: *record, revision }),
            Kind::Deleted { room_id, revision } => known.deleted(&room_id, revision),
        }
    }

    /// Applies a written record to memory, and sends it to the other instances.
    pub(super) async fn spread(&self, record: Versioned<Record>) -> Arc<Registered> {
        let change = Kind::Put { record: Box::new(record.value.clone()), revision: record.revision };
        let registered = self.remember(record);
        self.tell(change).await;
        registered
    }

    /// Sends a deletion to the other instances.
    pub(super) async fn spread_deletion(&self, deleted: &Registered) {
        self.tell(Kind::Deleted { room_id: deleted.room.room_id.clone(), revision: deleted.revision }).await;
    }

    /// Sends the change without waiting for confirmations.
    async fn tell(&self, change: Kind) {
        drop(self.changes.tell(changes::Change::Room(RoomChange(change))).await);
    }
}

impl Known {
    /// Applies a record that another instance has put. Ignores a revision that the watch has already reported,
    /// because the record may have been deleted since.
    fn hear(&mut self, record: Versioned<Record>) {
        if !self.told.has(record.revision) {
            self.put(record);
        }
    }

    /// Returns true if an instance has deleted the record with this revision. The watch may not have reported it yet.
    pub(super) fn is_deleted(&self, id: &RoomId, revision: u64) -> bool {
        self.deletions.get(id).is_some_and(|deleted| *deleted >= revision)
    }

    /// Records that an instance has deleted the record with this revision. The deletion is remembered until the watch
    /// reports it, so that a late report of an earlier put is ignored.
    pub(super) fn deleted(&mut self, id: &RoomId, revision: u64) {
        self.delete(id, revision.saturating_add(1));
        if !self.told.has(revision) {
            let deleted = self.deletions.entry(id.clone()).or_default();
            *deleted = revision.max(*deleted);
        }
    }

    /// Forgets the deletions that the watch has reported. The watch has reported everything up to this revision.
    pub(super) fn forget_deleted(&mut self, revision: u64) {
        self.deletions.retain(|_, deleted| *deleted >= revision);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::domain::{Labels, Retention, Room, StreamName, Subject};
    use crate::nats::bucket::{Change, follow::tell};

    fn lobby() -> RoomId {
        RoomId::parse("room_id", "lobby").unwrap()
    }

    fn record(revision: u64) -> Versioned<Record> {
        let stream = StreamName::try_from("UNIBUS_lobby".to_owned()).unwrap();
        let room = Room {
            subject: Subject::default_of(&stream),
            stream,
            room_id: lobby(),
            persist: true,
            retention: Retention::default(),
            replicas: 1,
            allow_message_ttl: false,
            labels: Labels::parse("labels", [("revision".to_owned(), revision.to_string())]).unwrap(),
            created_at: SystemTime::UNIX_EPOCH + Duration::from_secs(1),
            creator: "ann".into(),
            purged: None,
            purging: None,
        };
        Versioned { value: Record { room, deleting: false }, revision }
    }

    fn revision(known: &Known) -> Option<u64> {
        known.by_id.values().next().map(|registered| registered.revision)
    }

    /// The watch reports a change of another room.
    fn told_through(known: &mut Known, revision: u64) {
        tell(known, Change::Delete("another".to_owned(), revision));
    }

    #[test]
    fn what_is_heard_late_or_twice_brings_no_room_back() {
        let mut known = Known::default();
        known.hear(record(7));
        known.hear(record(5));
        assert_eq!(revision(&known), Some(7));
        known.deleted(&lobby(), 5);
        assert_eq!(revision(&known), Some(7), "a room of that name was made since");
        known.deleted(&lobby(), 7);
        known.hear(record(7));
        known.hear(record(6));
        // a watch that lags, and a read that is old
        told_through(&mut known, 7);
        known.put(record(7));
        assert_eq!(revision(&known), None);
        known.hear(record(9));
        assert_eq!(revision(&known), Some(9));
        // the watch reports all of that, and the end of the newest room
        (8..=9).for_each(|revision| told_through(&mut known, revision));
        tell(&mut known, Change::Delete(lobby().key(), 10));
        assert!(known.deletions.is_empty());
        for late in [5, 7, 9] {
            known.hear(record(late));
            known.deleted(&lobby(), late);
        }
        assert!(known.by_id.is_empty() && known.deletions.is_empty());
    }

    #[test]
    fn a_watch_that_begins_again_while_a_room_changes_does_not_take_it_for_deleted() {
        // Goal: subscriptions survive a restart of the watch, and end with their room. Method: restart a watch that
        // reports nothing, once with a change of this instance before it is complete and once without.
        let mut known = Known::default();
        known.put(record(5));
        let registered = known.by_id.values().next().cloned().unwrap();
        tell(&mut known, Change::Restart);
        assert_eq!(revision(&known), Some(5));
        known.put(record(6));
        tell(&mut known, Change::Complete);
        assert_eq!((revision(&known), registered.is_gone()), (Some(6), false));
        tell(&mut known, Change::Restart);
        tell(&mut known, Change::Complete);
        assert_eq!((revision(&known), registered.is_gone()), (None, true));
    }
}
