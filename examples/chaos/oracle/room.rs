//! The facts of one room, indexed for the checks.

use std::{
    collections::{BTreeMap, HashMap},
    ops::{Bound, Deref},
};

use super::{At, Outcome, Publish, RoomFacts, Stored};

/// The facts of a room, indexed.
pub(super) struct Room<'a> {
    facts: &'a RoomFacts,
    /// By the digest of the payload.
    published: HashMap<u64, &'a Publish>,
    /// Messages with a lifetime of their own, by sequence.
    pub expiring: BTreeMap<u64, &'a Publish>,
    /// When a publish was acknowledged, with the greatest sequence that was acknowledged by then.
    acknowledged: Vec<(At, u64)>,
    /// The same, of those that each instance acknowledged.
    acknowledged_by: HashMap<usize, Vec<(At, u64)>>,
}

impl<'a> Room<'a> {
    pub(super) fn new(facts: &'a RoomFacts) -> Self {
        let published = facts.publishes.iter().map(|publish| (publish.digest, publish)).collect();
        let expiring = facts.publishes.iter().filter(|publish| publish.ttl.is_some());
        let expiring = expiring.filter_map(|publish| Some((publish.sequence()?, publish))).collect();
        let attempts = facts.publishes.iter().flat_map(|publish| &publish.attempts);
        let mut acknowledged = Vec::new();
        let mut acknowledged_by = HashMap::<usize, Vec<_>>::new();
        for attempt in attempts {
            if let Outcome::Stored { sequence, .. } = attempt.outcome {
                acknowledged.push((attempt.ended, sequence));
                acknowledged_by.entry(attempt.instance).or_default().push((attempt.ended, sequence));
            }
        }
        for list in acknowledged_by.values_mut().chain([&mut acknowledged]) {
            list.sort_unstable();
            let mut greatest = 0;
            for (_, sequence) in list {
                greatest = greatest.max(*sequence);
                *sequence = greatest;
            }
        }
        Self { facts, published, expiring, acknowledged, acknowledged_by }
    }

    /// The message with this payload.
    pub(super) fn published(&self, digest: u64) -> Option<&'a Publish> {
        self.published.get(&digest).copied()
    }

    /// The same by its name, for evidence.
    pub(super) fn name(&self, digest: u64) -> &str {
        self.published(digest).map_or("a message that nobody published", |publish| publish.label.as_str())
    }

    /// The stored messages from `from` to `to`, both included; empty when `from` is greater than `to`.
    pub(super) fn stored(&self, from: u64, to: u64) -> impl DoubleEndedIterator<Item = (u64, Stored)> {
        let to = to.max(from.saturating_sub(1));
        let range = (Bound::Included(from.min(to)), Bound::Included(to));
        let messages = self.facts.log.messages.range(range).map(|(sequence, stored)| (*sequence, *stored));
        messages.filter(move |(sequence, _)| *sequence >= from)
    }

    /// The greatest sequence whose publish was acknowledged before `at`.
    pub(super) fn acknowledged_before(&self, at: At) -> u64 {
        greatest_before(&self.acknowledged, at)
    }

    /// The greatest sequence that `instance` must know at the time `at`.
    pub(super) fn known_before(&self, at: At, instance: usize) -> u64 {
        if self.facts.has_copies {
            self.acknowledged_by.get(&instance).map_or(0, |list| greatest_before(list, at))
        } else {
            self.acknowledged_before(at)
        }
    }
}

fn greatest_before(list: &[(At, u64)], at: At) -> u64 {
    let earlier = list.partition_point(|(ended, _)| *ended < at);
    earlier.checked_sub(1).and_then(|place| list.get(place)).map_or(0, |(_, sequence)| *sequence)
}

impl Deref for Room<'_> {
    type Target = RoomFacts;

    fn deref(&self) -> &RoomFacts {
        self.facts
    }
}

impl Publish {
    /// The acknowledged sequence.
    pub(super) fn sequence(&self) -> Option<u64> {
        self.attempts.iter().find_map(|attempt| match attempt.outcome {
            Outcome::Stored { sequence, .. } => Some(sequence),
            _ => None,
        })
    }

    /// When the first attempt began.
    pub(super) fn started(&self) -> At {
        self.attempts.first().map_or(0, |attempt| attempt.started)
    }

    /// When the last attempt ended.
    pub(super) fn ended(&self) -> At {
        self.attempts.last().map_or(0, |attempt| attempt.ended)
    }
}
