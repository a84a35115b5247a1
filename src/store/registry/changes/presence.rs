//! The other instances that are present.

use std::collections::HashMap;

use tokio::time::Instant;

use crate::limits::{INSTANCES_MAX, PRESENCE_INTERVAL};

/// Number of intervals for which an instance is present after its last announcement.
const INTERVALS: u32 = 3;

#[derive(Debug, Default)]
pub(super) struct Presence {
    /// When each instance last announced itself.
    seen: HashMap<String, Instant>,
}

impl Presence {
    /// Records that the instance announced itself. At most [`INSTANCES_MAX`] instances are kept.
    pub(super) fn record_announcement(&mut self, instance: &str, now: Instant) {
        if self.seen.len() >= INSTANCES_MAX && !self.seen.contains_key(instance) {
            self.remove_lapsed(now);
        }
        if self.seen.len() < INSTANCES_MAX || self.seen.contains_key(instance) {
            self.seen.insert(instance.to_owned(), now);
        }
    }

    /// Removes an instance that has left or does not answer.
    pub(super) fn remove(&mut self, instance: &str) {
        self.seen.remove(instance);
    }

    /// The instances that have announced themselves within the last [`INTERVALS`] intervals.
    pub(super) fn present(&mut self, now: Instant) -> Vec<String> {
        self.remove_lapsed(now);
        self.seen.keys().cloned().collect()
    }

    fn remove_lapsed(&mut self, now: Instant) {
        self.seen.retain(|_, seen| now.saturating_duration_since(*seen) <= PRESENCE_INTERVAL * INTERVALS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_lapses_when_it_is_silent_and_goes_when_it_says_so() {
        let (mut presence, start) = (Presence::default(), Instant::now());
        presence.record_announcement("a", start);
        presence.record_announcement("b", start);
        let later = start + PRESENCE_INTERVAL * INTERVALS;
        presence.record_announcement("b", later);
        assert_eq!(presence.present(later).len(), 2);
        assert_eq!(presence.present(later + PRESENCE_INTERVAL / 2), ["b"]);
        presence.remove("b");
        assert!(presence.present(later).is_empty());
    }

    #[test]
    fn no_more_are_remembered_than_there_may_be() {
        let (mut presence, start) = (Presence::default(), Instant::now());
        (0..2 * INSTANCES_MAX).for_each(|number| presence.record_announcement(&number.to_string(), start));
        assert_eq!(presence.present(start).len(), INSTANCES_MAX);
        let later = start + PRESENCE_INTERVAL * (INTERVALS + 1);
        presence.record_announcement("late", later);
        assert_eq!(presence.present(later), ["late"]);
    }
}
