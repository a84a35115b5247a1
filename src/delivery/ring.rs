//! The newest messages of one active room, through which all its subscribers are served.
//!
//! What the ring holds is a span without holes: everything that the room's log held between the position `after` (not in
//! it) and the newest entry. So a subscriber needs nothing but its own position to know whether the ring has all that it
//! lacks: it has if the position is `after` or later. Whoever is further behind reads the log until it is not.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::batch::Batch;

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
pub(crate) struct Ring {
    batches: VecDeque<Arc<Batch>>,
    /// Everything that follows this position is here.
    after: u64,
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
            messages: 0,
            bytes: 0,
            disconnections: 0,
            disconnections_evicted: 0,
            limits,
            budget: budget.clone(),
        }
    }

    /// Adds what follows the newest entry; the oldest batches go if there is no room.
    pub(crate) fn push(&mut self, batch: Arc<Batch>) {
        self.messages += batch.items().len();
        self.bytes += batch.size();
        self.disconnections += batch.disconnections();
        self.budget.used.fetch_add(batch.size(), Ordering::Relaxed);
        self.batches.push_back(batch);
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
        self.batches.back().map_or(self.after, |batch| batch.last_sequence())
    }

    /// Disconnections noted since the beginning.
    pub(crate) fn disconnections(&self) -> u64 {
        self.disconnections
    }

    /// Whether a subscriber at `position` finds everything here that it lacks.
    pub(crate) fn reaches(&self, position: u64) -> bool {
        position >= self.after
    }

    /// Whether one that comes from the log had better join here. In a ring that is about to evict its oldest entries it
    /// would soon be too late for one who joins there, so such a one reads on to the newer half.
    pub(crate) fn welcomes(&self, position: u64) -> bool {
        let filling = self.messages * 2 < self.limits.messages_max && self.bytes * 2 < self.limits.bytes_max;
        let middle = self.batches.get(self.batches.len() / 2).map_or(self.after, |batch| batch.last_sequence());
        self.reaches(position) && (filling || position >= middle)
    }

    /// What follows `position`.
    pub(crate) fn next(&self, position: u64) -> Next {
        if !self.reaches(position) {
            return Next::Lagged { after: self.after, disconnections: self.disconnections_evicted };
        }
        let index = self.batches.partition_point(|batch| batch.last_sequence() <= position);
        self.batches.get(index).map_or(Next::Nothing, |batch| Next::Batch(Arc::clone(batch)))
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
        let Some(oldest) = self.batches.pop_front() else { return };
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
