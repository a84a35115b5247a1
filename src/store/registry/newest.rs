//! Changes of a room that its open subscriptions must see at once: removals, and message lifetimes.

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
    known: Mutex<NewestState>,
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct NewestState {
    purged: Option<Purged>,
    /// An announced purge. It is valid only as far as the log shows it, because its messages may still be stored.
    purging: Option<Purged>,
    /// An epoch and a sequence. In the log with this epoch, nothing is stored up to this sequence.
    empty_through: (i64, u64),
    max_age: Option<Duration>,
    deletions: Deletions,
    /// The last state of the log, and whether the state before it was the same.
    state: Option<(RoomState, bool)>,
}

/// Single messages that were deleted. Only the newest epoch with a deletion is kept.
#[derive(Debug, Default)]
struct Deletions {
    epoch: i64,
    sequences: Arc<BTreeSet<u64>>,
    /// The sequences in the order in which the deletions were reported.
    order: VecDeque<u64>,
    /// The greatest sequence that was deleted, or may have been deleted.
    greatest: u64,
}

impl Newest {
    pub(in crate::store) fn new(room: &Room) -> Self {
        let known = NewestState {
            purged: room.purged,
            purging: room.purging,
            max_age: room.retention.max_age,
            ..NewestState::default()
        };
        Self { known: Mutex::new(known), changed: watch::Sender::new(()) }
    }

    /// Applies a state of the log. It shows which announced purges have happened.
    pub(in crate::store) fn note(&self, state: &RoomState) {
        let mut known = lock(&self.known);
        known.empty_through = known.empty_through.max((state.epoch, state.first_sequence.saturating_sub(1)));
        let is_quiet = known.state.is_some_and(|(before, _)| before == *state);
        known.state = Some((*state, is_quiet));
        let is_awaited = known.purging.is_some();
        drop(known);
        if is_awaited {
            self.changed.send_replace(());
        }
    }

    /// The state of the log, if it did not change between the last two answers. It may have changed since.
    pub(in crate::store) fn quiet_state(&self) -> Option<RoomState> {
        lock(&self.known).state.filter(|(_, is_quiet)| *is_quiet).map(|(state, _)| state)
    }

    /// Applies new settings of the room.
    pub(in crate::store) fn set(&self, room: &Room) {
        let mut known = lock(&self.known);
        (known.purged, known.purging) = (room.purged, room.purging);
        known.max_age = room.retention.max_age;
        drop(known);
        self.changed.send_replace(());
    }

    /// Records that a message of the log with this `epoch` was deleted.
    pub(in crate::store) fn deleted(&self, epoch: i64, sequence: u64) {
        lock(&self.known).deletions.add(epoch, sequence);
        self.changed.send_replace(());
    }

    /// Records that a message of the log with this `epoch` may have been deleted.
    pub(in crate::store) fn doubt(&self, epoch: i64, sequence: u64) {
        lock(&self.known).deletions.doubt(epoch, sequence);
        self.changed.send_replace(());
    }

    pub(in crate::store) fn max_age(&self) -> Option<Duration> {
        lock(&self.known).max_age
    }

    /// The known removals after `position`.
    pub(in crate::store) fn removals(&self, epoch: i64, position: u64) -> Removals {
        let known = lock(&self.known);
        let Deletions { epoch: of, sequences, greatest, .. } = &known.deletions;
        let matters = *greatest > position && *of == epoch && !sequences.is_empty();
        Removals {
            purged: known.newest_purge(epoch),
            deleted: if matters { Some(Arc::clone(sequences)) } else { None },
        }
    }

    /// Messages in memory up to this sequence may be removed from the log.
    pub(in crate::store) fn doubted_through(&self, epoch: i64) -> u64 {
        let known = lock(&self.known);
        let deleted = if known.deletions.epoch == epoch { known.deletions.greatest } else { 0 };
        deleted.max(known.newest_purge(epoch))
    }

    /// Changes when removals or settings change.
    pub(in crate::store) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }
}

impl NewestState {
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

    /// False if the log already has a newer epoch.
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
