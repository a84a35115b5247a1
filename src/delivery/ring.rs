//! The ring: the newest messages of one active room, shared by its subscriptions.
//!
//! The ring is complete: it holds every entry of the room after the position `after`, up to the newest entry. So the
//! position of a subscription alone shows whether the ring has every entry that the subscription needs: it has, if the
//! position is `after` or later. A subscription with an earlier position reads the log until the ring reaches its
//! position.
//!
//! The log decides which messages are kept, and the ring drops the messages that the log may no longer have. It drops
//! expired messages when their time has come. Messages that may have been removed for another reason are *in doubt*: no
//! subscription switches to the ring at them, and the ring drops them at the second turn. A subscription that reads the
//! ring at its end has received them by then. So it receives every message even in a room that keeps only one.

pub(crate) mod page;

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use super::batch::Batch;
use crate::domain::RoomState;

/// Minimum time that a message stays in the ring after its arrival, whatever its age is by the clocks. Subscriptions
/// that read the ring receive it within this time.
const STAY_MIN: Duration = Duration::from_secs(1);

/// The bounds of a ring.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RingLimits {
    pub messages_max: usize,
    /// Bytes of all batches. The newest batch stays even if it is larger.
    pub bytes_max: usize,
}

/// The bytes that all rings of the process may hold together. Beyond this bound each ring keeps only its newest batch
/// after a push.
#[derive(Clone, Debug)]
pub(crate) struct RingBudget {
    used: Arc<AtomicUsize>,
    bytes_max: usize,
}

impl RingBudget {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { used: Arc::default(), bytes_max }
    }

    /// Bytes of all rings.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    pub(super) fn is_exceeded(&self) -> bool {
        self.used() > self.bytes_max
    }
}

/// The result of [`Ring::next`].
#[derive(Debug)]
pub(crate) enum Next {
    /// The first batch whose last entry is after the position.
    Batch(Arc<Batch>),
    /// No entry follows the position yet.
    Nothing,
    /// Entries after the position are no longer in the ring. The ring begins after `after`. `disconnections` is the
    /// number of disconnections among all earlier entries.
    Lagged { after: u64, disconnections: u64 },
}

#[derive(Debug)]
struct KeptBatch {
    batch: Arc<Batch>,
    arrived_at: SystemTime,
}

impl KeptBatch {
    fn expires_at(&self, max_age: Option<Duration>) -> Option<SystemTime> {
        self.batch.expires_at(max_age).map(|at| at.max(self.arrived_at + STAY_MIN))
    }
}

/// The part of a log's state that changes when messages other than its oldest are removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct LogShape {
    first: u64,
    /// Missing sequences after `first`.
    holes: u64,
}

impl LogShape {
    fn of(state: &RoomState) -> Self {
        let span = (state.last_sequence + 1).saturating_sub(state.first_sequence);
        Self { first: state.first_sequence, holes: span.saturating_sub(state.messages) }
    }
}

#[derive(Debug)]
pub(crate) struct Ring {
    batches: VecDeque<KeptBatch>,
    /// The ring holds every entry after this position.
    after: u64,
    /// The entries up to this sequence are in doubt: the log may no longer have them.
    doubted: u64,
    /// The entries up to this sequence were in doubt at the last turn. The next turn drops them.
    doubted_at_last_turn: u64,
    log: Option<LogShape>,
    messages: usize,
    bytes: usize,
    disconnections: u64,
    disconnections_evicted: u64,
    limits: RingLimits,
    budget: RingBudget,
}

impl Ring {
    /// An empty ring, which will hold the entries after `after`.
    pub(crate) fn new(after: u64, limits: RingLimits, budget: &RingBudget) -> Self {
        Self {
            batches: VecDeque::new(),
            after,
            doubted: 0,
            doubted_at_last_turn: 0,
            log: None,
            messages: 0,
            bytes: 0,
            disconnections: 0,
            disconnections_evicted: 0,
            limits,
            budget: budget.clone(),
        }
    }

    /// Adds the entries that follow the newest one. Drops the oldest batches while a bound is exceeded.
    pub(crate) fn push(&mut self, batch: Arc<Batch>, now: SystemTime) {
        self.messages += batch.items().len();
        self.bytes += batch.size();
        self.disconnections += batch.disconnections();
        self.budget.used.fetch_add(batch.size(), Ordering::Relaxed);
        self.batches.push_back(KeptBatch { batch, arrived_at: now });
        while self.batches.len() > 1
            && (self.messages > self.limits.messages_max
                || self.bytes > self.limits.bytes_max
                || self.budget.is_exceeded())
        {
            self.evict();
        }
    }

    /// The position of the newest entry.
    pub(crate) fn last(&self) -> u64 {
        self.batches.back().map_or(self.after, |kept| kept.batch.last_sequence())
    }

    /// The number of disconnections since the ring was made.
    pub(crate) fn disconnections(&self) -> u64 {
        self.disconnections
    }

    /// Whether the ring holds every entry after `position`.
    pub(crate) fn reaches(&self, position: u64) -> bool {
        position >= self.after
    }

    /// Whether a subscription that reads the log should switch to the ring at `position`. It should not while entries
    /// after `position` are in doubt. In a ring that is at least half full it should not in the older half, because the
    /// ring will soon drop those entries.
    pub(crate) fn welcomes(&self, position: u64) -> bool {
        let filling = self.messages * 2 < self.limits.messages_max && self.bytes * 2 < self.limits.bytes_max;
        let middle = self.batches.get(self.batches.len() / 2).map_or(self.after, |kept| kept.batch.last_sequence());
        self.reaches(position) && position >= self.doubted && (filling || position >= middle)
    }

    /// The batch that follows `position`.
    pub(crate) fn next(&self, position: u64) -> Next {
        if !self.reaches(position) {
            return Next::Lagged { after: self.after, disconnections: self.disconnections_evicted };
        }
        let index = self.batches.partition_point(|kept| kept.batch.last_sequence() <= position);
        self.batches.get(index).map_or(Next::Nothing, |kept| Next::Batch(Arc::clone(&kept.batch)))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// Marks the entries up to `through` as in doubt: the log may no longer have them.
    pub(crate) fn doubt(&mut self, through: u64) {
        self.doubted = self.doubted.max(through);
    }

    /// Compares the ring with a `state` of the log. Entries that may have been removed since the last comparison are in
    /// doubt, and so are entries older than the oldest message of the log.
    pub(crate) fn compare(&mut self, state: &RoomState) {
        let shape = LogShape::of(state);
        let before = self.log.replace(shape);
        // without holes only the oldest messages can have been removed
        if shape.holes > 0 && before.is_some_and(|before| before != shape) {
            self.doubt(state.last_sequence);
        }
        self.doubt(state.first_sequence.saturating_sub(1));
    }

    /// Drops the entries that were already in doubt at the last turn.
    pub(crate) fn turn(&mut self) {
        while self.batches.front().is_some_and(|kept| kept.batch.first_sequence() <= self.doubted_at_last_turn) {
            self.evict();
        }
        self.doubted_at_last_turn = self.doubted;
    }

    /// Drops expired messages, in a room that keeps messages for `max_age`. Also drops every older batch, so that the
    /// ring stays complete.
    pub(crate) fn expire(&mut self, now: SystemTime, max_age: Option<Duration>) {
        let is_expired = |kept: &KeptBatch| kept.expires_at(max_age).is_some_and(|at| at <= now);
        let expired = self.batches.iter().rposition(is_expired).map_or(0, |last| last + 1);
        (0..expired).for_each(|_| self.evict());
    }

    /// When the next message expires, in a room that keeps messages for `max_age`.
    pub(crate) fn expires_at(&self, max_age: Option<Duration>) -> Option<SystemTime> {
        self.batches.iter().filter_map(|kept| kept.expires_at(max_age)).min()
    }

    /// Drops every entry. Subscriptions that have not received all of them read the log.
    pub(crate) fn clear(&mut self) {
        while !self.batches.is_empty() {
            self.evict();
        }
        self.batches.shrink_to_fit();
    }

    #[cfg(test)]
    pub(super) fn batches_kept(&self) -> usize {
        self.batches.len()
    }

    fn evict(&mut self) {
        let Some(KeptBatch { batch: oldest, .. }) = self.batches.pop_front() else { return };
        self.after = oldest.last_sequence();
        self.messages -= oldest.items().len();
        self.bytes -= oldest.size();
        self.disconnections_evicted += oldest.disconnections();
        self.budget.used.fetch_sub(oldest.size(), Ordering::Relaxed);
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.clear();
    }
}
