//! Checks removals: each missing message has an explanation, and no removed message is delivered later.

use super::{At, Facts, Findings, Removal, RemovalKind, SECOND, room::Room, seconds};

/// How long nats-server may take to remove a message whose lifetime has ended, and the service to hear of it.
const EXPIRY_SLACK: At = 3 * SECOND;
/// How soon a removal counts on other instances than the one that answered it.
const OTHER_INSTANCES: At = SECOND;

impl Removal {
    fn covers(&self, sequence: u64, log_first: u64) -> bool {
        match self.kind {
            RemovalKind::Purge { up_to } => sequence <= up_to,
            RemovalKind::Delete { sequence: deleted } => sequence == deleted,
            RemovalKind::Bounds => sequence < log_first,
        }
    }
}

impl Room<'_> {
    /// Whether a removal that had begun by `by` can have removed this message.
    pub(super) fn may_be_removed(&self, sequence: u64, by: At) -> bool {
        let removed = |removal: &Removal| removal.started <= by && removal.covers(sequence, self.log.first);
        self.removals.iter().any(removed) || {
            let expiring = self.expiring.get(&sequence);
            expiring.is_some_and(|publish| publish.ttl.is_some_and(|ttl| publish.started() + ttl * SECOND <= by))
        }
    }

    /// Why a reader that asked this instance at this moment may not be shown the message any more.
    fn surely_removed(&self, facts: &Facts, sequence: u64, instance: usize, asked: At) -> Option<String> {
        for removal in self.removals.iter().filter(|removal| removal.kind != RemovalKind::Bounds) {
            let slack = if removal.instance == Some(instance) { 0 } else { OTHER_INSTANCES };
            if let Some(done) = removal.done
                && done + slack < asked
                && removal.covers(sequence, self.log.first)
            {
                return Some(format!("{:?} was answered at {}", removal.kind, seconds(done)));
            }
        }
        let publish = self.expiring.get(&sequence)?;
        let ended = publish.ended() + publish.ttl? * SECOND;
        // A nats-server that was away removes expired messages when it is back.
        let back = facts.unreached.iter().filter(|outage| outage.from < asked).map(|outage| outage.to);
        let expired = ended.max(back.max().unwrap_or(0)) + EXPIRY_SLACK;
        (expired < asked).then(|| format!("its ttl had ended by {}", seconds(expired)))
    }

    /// Checks that a message is not delivered after its removal.
    pub(super) fn check_shown(
        &self,
        facts: &Facts,
        found: &mut Findings,
        who: &str,
        instance: usize,
        asked: At,
        sequences: impl Iterator<Item = u64>,
    ) {
        for sequence in sequences.filter(|sequence| !self.log.messages.contains_key(sequence)) {
            if let Some(why) = self.surely_removed(facts, sequence, instance, asked) {
                found.add(
                    "a message that is gone does not come to who asks afterwards",
                    format!("{who} asked instance {instance} at {} and got {sequence}; {why}", seconds(asked)),
                );
                return;
            }
        }
    }

    /// Why a gap must not name this range at the time `at`; `None` when it may.
    pub(super) fn false_gap(&self, from: u64, to: u64, at: At) -> Option<String> {
        if let Some((sequence, _)) = self.stored(from, to).next() {
            let count = self.stored(from, to).count();
            return Some(format!("{sequence} is stored, as are {count} of {from}-{to}"));
        }
        let unexplained = (from..=to).find(|sequence| !self.may_be_removed(*sequence, at));
        unexplained.map(|sequence| format!("nothing had removed {sequence} by {}", seconds(at)))
    }
}
