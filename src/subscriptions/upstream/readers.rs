//! How far the subscriptions of each room are behind it, for the metrics.

use std::sync::{
    Arc, Mutex, Weak,
    atomic::{AtomicU64, Ordering},
};

use super::Upstreams;
use crate::sync::lock;

/// The position that one subscription has reached. Dropping it ends its part in the metrics.
#[derive(Debug)]
pub(super) struct ReachedPosition(Arc<AtomicU64>);

impl ReachedPosition {
    pub(super) fn set(&self, position: u64) {
        self.0.store(position, Ordering::Relaxed);
    }
}

/// The positions of the subscriptions of one room.
#[derive(Debug, Default)]
pub(super) struct Readers(Mutex<Vec<Weak<AtomicU64>>>);

impl Readers {
    /// Adds a subscription at `position`.
    pub(super) fn add(&self, position: u64) -> ReachedPosition {
        let reached = Arc::new(AtomicU64::new(position));
        let mut readers = lock(&self.0);
        if readers.len() == readers.capacity() {
            readers.retain(|reader| reader.strong_count() > 0);
        }
        readers.push(Arc::downgrade(&reached));
        ReachedPosition(reached)
    }

    /// The number of messages that each subscription is behind `last`.
    fn lags(&self, last: u64) -> Vec<u64> {
        let readers = lock(&self.0);
        let reached = readers.iter().filter_map(Weak::upgrade);
        reached.map(|reached| last.saturating_sub(reached.load(Ordering::Relaxed))).collect()
    }
}

impl Upstreams {
    /// Adds the lag of every open subscription to the metrics, and counts the active rooms.
    pub(crate) fn read_lags(&self) {
        let upstreams: Vec<_> = self.active().values().cloned().collect();
        self.metrics.active_rooms.set_number(upstreams.len() as u64);
        let mut lag_max = 0;
        for upstream in &upstreams {
            let last = upstream.ring().last();
            for lag in upstream.readers.lags(last) {
                self.metrics.lag.observe_number(lag);
                lag_max = lag_max.max(lag);
            }
        }
        self.metrics.lag_max.set_number(lag_max);
    }

    /// Bytes of the rings of all rooms.
    pub(crate) fn ring_bytes(&self) -> usize {
        self.budget.used()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subscriptions_that_ended_leave_nothing_behind() {
        let readers = Readers::default();
        let kept = readers.add(10);
        for _ in 0..10_000 {
            drop(readers.add(0));
        }
        assert!(lock(&readers.0).capacity() < 100, "{}", lock(&readers.0).capacity());
        kept.set(7);
        assert_eq!(readers.lags(10), [3]);
        assert_eq!(readers.lags(5), [0]);
    }
}
