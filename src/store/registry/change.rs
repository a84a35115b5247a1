//! Changes of rooms that one instance sends to the others.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{
    Registry, changes,
    known::{KnownRooms, Registered, RoomRecord},
};
use crate::{domain::RoomId, nats::bucket::Versioned, sync::lock};

/// A change of the bucket of rooms.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub(in crate::store) struct RoomChange(RoomChangeKind);

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum RoomChangeKind {
    Put {
        record: Box<RoomRecord>,
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
    pub(in crate::store) fn apply_change(&self, RoomChange(change): RoomChange) {
        let mut known = lock(&self.known);
        match change {
            RoomChangeKind::Put { record, revision } => known.put_received(Versioned { value: *record, revision }),
            RoomChangeKind::Deleted { room_id, revision } => known.deleted(&room_id, revision),
        }
    }

    /// Applies a written record to memory, and sends it to the other instances.
    pub(super) async fn spread(&self, record: Versioned<RoomRecord>) -> Arc<Registered> {
        let change = RoomChangeKind::Put { record: Box::new(record.value.clone()), revision: record.revision };
        let registered = self.remember(record);
        self.send_change(change).await;
        registered
    }

    /// Sends a deletion to the other instances.
    pub(super) async fn spread_deletion(&self, deleted: &Registered) {
        self.send_change(RoomChangeKind::Deleted { room_id: deleted.room.room_id.clone(), revision: deleted.revision })
            .await;
    }

    /// Sends the change without waiting for confirmations.
    async fn send_change(&self, change: RoomChangeKind) {
        drop(self.changes.send_change(changes::Change::Room(RoomChange(change))).await);
    }
}

impl KnownRooms {
    /// Applies a record that another instance has put. Ignores a revision that the watch has already reported,
    /// because the record may have been deleted since.
    fn put_received(&mut self, record: Versioned<RoomRecord>) {
        if !self.progress.has_reported(record.revision) {
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
        if !self.progress.has_reported(revision) {
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
    use crate::domain::{DedupeWindow, Labels, Retention, Room, StreamName, Subject};
    use crate::nats::bucket::{WatchEvent, follow::apply};

    fn lobby() -> RoomId {
        RoomId::parse("room_id", "lobby").unwrap()
    }

    fn record(revision: u64) -> Versioned<RoomRecord> {
        let stream = StreamName::try_from("UNIBUS_lobby".to_owned()).unwrap();
        let room = Room {
            subject: Subject::default_of(&stream),
            stream,
            room_id: lobby(),
            persist: true,
            retention: Retention::default(),
            dedupe: DedupeWindow::Default,
            replicas: 1,
            allow_message_ttl: false,
            labels: Labels::parse("labels", [("revision".to_owned(), revision.to_string())]).unwrap(),
            created_at: SystemTime::UNIX_EPOCH + Duration::from_secs(1),
            creator: "ann".into(),
            purged: None,
            purging: None,
        };
        Versioned { value: RoomRecord { room, deleting: false }, revision }
    }

    fn revision(known: &KnownRooms) -> Option<u64> {
        known.by_id.values().next().map(|registered| registered.revision)
    }

    /// The watch reports a change of another room.
    fn reported_through(known: &mut KnownRooms, revision: u64) {
        apply(known, WatchEvent::Delete("another".to_owned(), revision));
    }

    #[test]
    fn what_is_heard_late_or_twice_brings_no_room_back() {
        let mut known = KnownRooms::default();
        known.put_received(record(7));
        known.put_received(record(5));
        assert_eq!(revision(&known), Some(7));
        known.deleted(&lobby(), 5);
        assert_eq!(revision(&known), Some(7), "a room of that name was made since");
        known.deleted(&lobby(), 7);
        known.put_received(record(7));
        known.put_received(record(6));
        // a watch that lags, and a read that is old
        reported_through(&mut known, 7);
        known.put(record(7));
        assert_eq!(revision(&known), None);
        known.put_received(record(9));
        assert_eq!(revision(&known), Some(9));
        // the watch reports all of that, and the end of the newest room
        (8..=9).for_each(|revision| reported_through(&mut known, revision));
        apply(&mut known, WatchEvent::Delete(lobby().key(), 10));
        assert!(known.deletions.is_empty());
        for late in [5, 7, 9] {
            known.put_received(record(late));
            known.deleted(&lobby(), late);
        }
        assert!(known.by_id.is_empty() && known.deletions.is_empty());
    }

    #[test]
    fn a_watch_that_begins_again_while_a_room_changes_does_not_take_it_for_deleted() {
        // Goal: subscriptions survive a restart of the watch, and end with their room. Method: restart a watch that
        // reports nothing, once with a change of this instance before it is complete and once without.
        let mut known = KnownRooms::default();
        known.put(record(5));
        let registered = known.by_id.values().next().cloned().unwrap();
        apply(&mut known, WatchEvent::Restart);
        assert_eq!(revision(&known), Some(5));
        known.put(record(6));
        apply(&mut known, WatchEvent::Complete);
        assert_eq!((revision(&known), registered.is_gone()), (Some(6), false));
        apply(&mut known, WatchEvent::Restart);
        apply(&mut known, WatchEvent::Complete);
        assert_eq!((revision(&known), registered.is_gone()), (None, true));
    }
}
