//! The newest messages of one active room, through which all its subscribers are served.
//!
//! What the ring holds is a span without holes: everything that the room's log held between the position `after` (not in
//! it) and the newest entry. So a subscriber needs nothing but its own position to know whether the ring has all that it
//! lacks: it has if the position is `after` or later. Whoever is further behind reads the log until it is not.
//!
//! The log is the authority on what is kept, and the ring forgets what the log may not have any more. Expired messages go when
//! their time has come. What is in doubt for another reason nobody joins, and it goes at the turn after the next: whoever reads
//! along at the end of the room has taken it by then, and in a room that keeps one message still gets every one.

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

/// A message stays for as long after its arrival, whatever the clocks say of its age: those who read along take it within that.
const STAY_MIN: Duration = Duration::from_secs(1);

/// What a ring may hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RingLimits {
    pub messages_max: usize,
    /// Beyond its newest batch.
    pub bytes_max: usize,
}

/// What all rings of the process may hold together; beyond it each keeps no more than its newest batch.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    used: Arc<AtomicUsize>,
    bytes_max: usize,
}

impl Budget {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { used: Arc::default(), bytes_max }
    }

    pub(super) fn is_exceeded(&self) -> bool {
        self.used.load(Ordering::Relaxed) > self.bytes_max
    }
}

/// What follows a position.
#[derive(Debug)]
pub(crate) enum Next {
    /// A batch whose last entry lies after the position, and all before it does not.
    Batch(Arc<Batch>),
    /// Nothing yet.
    Nothing,
    /// Some of what follows is not in the ring any more. The ring begins after `after`; so many disconnections lie before.
    Lagged { after: u64, disconnections: u64 },
}

#[derive(Debug)]
struct Kept {
    batch: Arc<Batch>,
    arrived_at: SystemTime,
}

impl Kept {
    fn expires_at(&self, max_age: Option<Duration>) -> Option<SystemTime> {
        self.batch.expires_at(max_age).map(|at| at.max(self.arrived_at + STAY_MIN))
    }
}

/// What changes in a log when messages other than its oldest are removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    first: u64,
    /// Sequences that are missing behind it.
    holes: u64,
}

#[derive(Debug)]
pub(crate) struct Ring {
    batches: VecDeque<Kept>,
    /// Everything that follows this position is here.
    after: u64,
    /// What is here up to this sequence may be gone from the log.
    doubted: u64,
    /// What of that was in doubt at the last turn already.
    going: u64,
    log: Option<Shape>,
    messages: usize,
    bytes: usize,
    disconnections: u64,
    disconnections_evicted: u64,
    limits: RingLimits,
    budget: Budget,
}

impl Ring {
    /// An empty ring that will hold what follows `after`.
    pub(crate) fn new(after: u64, limits: RingLimits, budget: &Budget) -> Self {
        Self {
            batches: VecDeque::new(),
            after,
            doubted: 0,
            going: 0,
            log: None,
            messages: 0,
            bytes: 0,
            disconnections: 0,
            disconnections_evicted: 0,
            limits,
            budget: budget.clone(),
        }
    }

    /// Adds what follows the newest entry; the oldest batches go if there is no room.
    pub(crate) fn push(&mut self, batch: Arc<Batch>, now: SystemTime) {
        self.messages += batch.items().len();
        self.bytes += batch.size();
        self.disconnections += batch.disconnections();
        self.budget.used.fetch_add(batch.size(), Ordering::Relaxed);
        self.batches.push_back(Kept { batch, arrived_at: now });
        while self.batches.len() > 1
            && (self.messages > self.limits.messages_max
                || self.bytes > self.limits.bytes_max
                || self.budget.is_exceeded())
        {
            self.evict();
        }
    }

    /// Position of the newest entry.
    pub(crate) fn last(&self) -> u64 {
        self.batches.back().map_or(self.after, |kept| kept.batch.last_sequence())
    }

    /// Disconnections noted since the beginning.
    pub(crate) fn disconnections(&self) -> u64 {
        self.disconnections
    }

    /// Whether a subscriber at `position` finds everything here that it lacks.
    pub(crate) fn reaches(&self, position: u64) -> bool {
        position >= self.after
    }

    /// Whether one that comes from the log had better join here: not where something is in doubt. In a ring that is about to evict its oldest entries it
    /// would soon be too late for one who joins there, so such a one reads on to the newer half.
    pub(crate) fn welcomes(&self, position: u64) -> bool {
        let filling = self.messages * 2 < self.limits.messages_max && self.bytes * 2 < self.limits.bytes_max;
        let middle = self.batches.get(self.batches.len() / 2).map_or(self.after, |kept| kept.batch.last_sequence());
        self.reaches(position) && position >= self.doubted && (filling || position >= middle)
    }

    /// What follows `position`.
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

    /// What is here up to this sequence may be gone from the log.
    pub(crate) fn doubt(&mut self, through: u64) {
        self.doubted = self.doubted.max(through);
    }

    /// The log held this. What may have gone since it was seen before, or is older than its oldest message, is in doubt.
    pub(crate) fn compare(&mut self, state: &RoomState) {
        let span = (state.last_sequence + 1).saturating_sub(state.first_sequence);
        let shape = Shape { first: state.first_sequence, holes: span.saturating_sub(state.messages) };
        let before = self.log.replace(shape);
        // without holes only the oldest messages can have gone
        if shape.holes > 0 && before.is_some_and(|before| before != shape) {
            self.doubt(state.last_sequence);
        }
        self.doubt(state.first_sequence.saturating_sub(1));
    }

    /// Forgets what has been in doubt for one turn.
    pub(crate) fn turn(&mut self) {
        while self.batches.front().is_some_and(|kept| kept.batch.first_sequence() <= self.going) {
            self.evict();
        }
        self.going = self.doubted;
    }

    /// Forgets what is expired in a room that keeps messages for `max_age`, and what is older than that.
    pub(crate) fn expire(&mut self, now: SystemTime, max_age: Option<Duration>) {
        let is_expired = |kept: &Kept| kept.expires_at(max_age).is_some_and(|at| at <= now);
        let expired = self.batches.iter().rposition(is_expired).map_or(0, |last| last + 1);
        (0..expired).for_each(|_| self.evict());
    }

    /// When the next message expires in a room that keeps messages for `max_age`.
    pub(crate) fn expires_at(&self, max_age: Option<Duration>) -> Option<SystemTime> {
        self.batches.iter().filter_map(|kept| kept.expires_at(max_age)).min()
    }

    /// Forgets everything; who lacks some of it reads the log.
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
        let Some(Kept { batch: oldest, .. }) = self.batches.pop_front() else { return };
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
