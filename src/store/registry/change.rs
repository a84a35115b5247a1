//! What one instance tells the others of rooms.

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
    /// `revision` is that of what was deleted.
    Deleted {
        room_id: RoomId,
        revision: u64,
    },
}

impl Registry {
    /// Another instance has changed something.
    pub(in crate::store) fn hear(&self, RoomChange(change): RoomChange) {
        let mut known = lock(&self.known);
        match change {
            Kind::Put { record, revision } => known.hear(Versioned { value: *record, revision }),
            Kind::Deleted { room_id, revision } => known.hear_deleted(&room_id, revision),
        }
    }

    /// Takes what was written into memory, and tells the other instances.
    pub(super) async fn spread(&self, record: Versioned<Record>) -> Arc<Registered> {
        let change = Kind::Put { record: Box::new(record.value.clone()), revision: record.revision };
        let registered = self.remember(record);
        self.tell(change).await;
        registered
    }

    /// Tells the other instances of a deletion.
    pub(super) async fn spread_deletion(&self, deleted: &Registered) {
        self.tell(Kind::Deleted { room_id: deleted.room.room_id.clone(), revision: deleted.revision }).await;
    }

    /// Nobody waits for the others: they know in a moment.
    async fn tell(&self, change: Kind) {
        drop(self.changes.tell(changes::Change::Room(RoomChange(change))).await);
    }
}

impl Known {
    /// Another instance has put this. What the watch has told already may have been deleted since: that is old.
    fn hear(&mut self, record: Versioned<Record>) {
        if record.revision > self.told_through {
            self.put(record);
        }
    }

    /// Whether another instance has deleted what had this revision, which the watch may not have told.
    pub(super) fn is_deleted(&self, id: &RoomId, revision: u64) -> bool {
        self.deleted.get(id).is_some_and(|deleted| *deleted >= revision)
    }

    /// Another instance has deleted what had this revision.
    fn hear_deleted(&mut self, id: &RoomId, revision: u64) {
        self.delete(id, revision.saturating_add(1));
        if revision > self.told_through {
            let deleted = self.deleted.entry(id.clone()).or_default();
            *deleted = revision.max(*deleted);
        }
    }

    /// The watch has told everything up to this revision.
    pub(super) fn told_through(&mut self, revision: u64) {
        self.told_through = self.told_through.max(revision);
        self.deleted.retain(|_, deleted| *deleted >= revision);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::domain::{Labels, Retention, Room, StreamName, Subject};

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

    #[test]
    fn what_is_heard_late_or_twice_brings_no_room_back() {
        let mut known = Known::default();
        known.hear(record(7));
        known.hear(record(5));
        assert_eq!(revision(&known), Some(7));
        known.hear_deleted(&lobby(), 5);
        assert_eq!(revision(&known), Some(7), "a room of that name was made since");
        known.hear_deleted(&lobby(), 7);
        known.hear(record(7));
        known.hear(record(6));
        // a watch that lags, and a read that is old
        known.told_through(7);
        known.put(record(7));
        assert_eq!(revision(&known), None);
        known.hear(record(9));
        assert_eq!(revision(&known), Some(9));
        // the watch tells all of that, and the end of the newest room
        (8..=10).for_each(|told| known.told_through(told));
        known.delete(&lobby(), 10);
        assert!(known.deleted.is_empty());
        for late in [5, 7, 9] {
            known.hear(record(late));
            known.hear_deleted(&lobby(), late);
        }
        assert!(known.by_id.is_empty() && known.deleted.is_empty());
    }
}
