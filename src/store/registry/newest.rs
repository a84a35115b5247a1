//! What all that an instance holds of a room has to know at once when it changes: what is removed, and how long messages last.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::sync::watch;

use crate::{
    domain::{Purged, Removals, Room, RoomState},
    limits::DELETIONS_REMEMBERED_MAX,
    sync::lock,
};

/// Shared by every version of a registered room.
#[derive(Debug)]
pub(in crate::store) struct Newest {
    known: Mutex<Known>,
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Known {
    purged: Option<Purged>,
    /// A purge that was announced. It counts as far as the log shows it: its messages may all be there.
    purging: Option<Purged>,
    /// In the life of the log that is named first, nothing is stored up to this sequence.
    empty_through: (i64, u64),
    max_age: Option<Duration>,
    deletions: Deletions,
}

/// Single messages that were deleted in the newest life of the log that any was deleted in.
#[derive(Debug, Default)]
struct Deletions {
    epoch: i64,
    sequences: Arc<BTreeSet<u64>>,
    /// In the order in which they were heard of.
    order: VecDeque<u64>,
    /// The greatest sequence of all that were deleted, or may have been.
    greatest: u64,
}

impl Newest {
    pub(in crate::store) fn new(room: &Room) -> Self {
        let known =
            Known { purged: room.purged, purging: room.purging, max_age: room.retention.max_age, ..Known::default() };
        Self { known: Mutex::new(known), changed: watch::Sender::new(()) }
    }

    /// What the log holds: it shows which of the announced purges have happened.
    pub(in crate::store) fn note(&self, state: &RoomState) {
        let mut known = lock(&self.known);
        known.empty_through = known.empty_through.max((state.epoch, state.first_sequence.saturating_sub(1)));
        let is_awaited = known.purging.is_some();
        drop(known);
        if is_awaited {
            self.changed.send_replace(());
        }
    }

    /// The room's settings are these now.
    pub(in crate::store) fn set(&self, room: &Room) {
        let mut known = lock(&self.known);
        (known.purged, known.purging) = (room.purged, room.purging);
        known.max_age = room.retention.max_age;
        drop(known);
        self.changed.send_replace(());
    }

    /// A message of the life `epoch` of the log was deleted.
    pub(in crate::store) fn deleted(&self, epoch: i64, sequence: u64) {
        lock(&self.known).deletions.add(epoch, sequence);
        self.changed.send_replace(());
    }

    /// A message may have been deleted.
    pub(in crate::store) fn doubt(&self, epoch: i64, sequence: u64) {
        lock(&self.known).deletions.doubt(epoch, sequence);
        self.changed.send_replace(());
    }

    pub(in crate::store) fn max_age(&self) -> Option<Duration> {
        lock(&self.known).max_age
    }

    /// What is removed after `position`.
    pub(in crate::store) fn removals(&self, epoch: i64, position: u64) -> Removals {
        let known = lock(&self.known);
        let Deletions { epoch: of, sequences, greatest, .. } = &known.deletions;
        let matters = *greatest > position && *of == epoch && !sequences.is_empty();
        Removals {
            purged: known.newest_purge(epoch),
            deleted: if matters { Some(Arc::clone(sequences)) } else { None },
        }
    }

    /// What is in memory up to this sequence may be gone from the log.
    pub(in crate::store) fn doubted_through(&self, epoch: i64) -> u64 {
        let known = lock(&self.known);
        let deleted = if known.deletions.epoch == epoch { known.deletions.greatest } else { 0 };
        deleted.max(known.newest_purge(epoch))
    }

    /// Changes whenever any of it does.
    pub(in crate::store) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }
}

impl Known {
    fn newest_purge(&self, epoch: i64) -> u64 {
        let in_epoch =
            |purged: Option<Purged>| purged.filter(|purged| purged.epoch == epoch).map_or(0, |purged| purged.through);
        let shown = if self.empty_through.0 == epoch { self.empty_through.1 } else { 0 };
        in_epoch(self.purged).max(in_epoch(self.purging).min(shown))
    }
}

impl Deletions {
    fn add(&mut self, epoch: i64, sequence: u64) {
        if !self.doubt(epoch, sequence) || self.sequences.contains(&sequence) {
            return;
        }
        let sequences = Arc::make_mut(&mut self.sequences);
        sequences.insert(sequence);
        self.order.push_back(sequence);
        if self.order.len() > DELETIONS_REMEMBERED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            sequences.remove(&oldest);
        }
    }

    /// False if the life of the log is over.
    fn doubt(&mut self, epoch: i64, sequence: u64) -> bool {
        if epoch < self.epoch {
            return false;
        }
        if epoch > self.epoch {
            *self = Self { epoch, ..Self::default() };
        }
        self.greatest = self.greatest.max(sequence);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deletions(newest: &Deletions) -> Vec<u64> {
        newest.sequences.iter().copied().collect()
    }

    #[test]
    fn the_newest_deletions_of_the_newest_life_are_remembered() {
        let mut newest = Deletions::default();
        for sequence in [7, 3, 7] {
            newest.add(10, sequence);
        }
        newest.add(9, 5);
        assert_eq!((deletions(&newest), newest.greatest), (vec![3, 7], 7));
        newest.doubt(10, 100);
        assert_eq!((deletions(&newest), newest.greatest), (vec![3, 7], 100));
        newest.add(11, 1);
        assert_eq!((deletions(&newest), newest.greatest), (vec![1], 1));
        let many = DELETIONS_REMEMBERED_MAX as u64;
        (2..=many + 1).for_each(|sequence| newest.add(11, sequence));
        assert_eq!(deletions(&newest), (2..=many + 1).collect::<Vec<_>>());
        assert_eq!(newest.order.len(), DELETIONS_REMEMBERED_MAX);
    }
}
