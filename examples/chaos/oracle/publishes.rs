//! Checks that the answers to publishers agree with the stored messages.

use std::collections::{BTreeMap, HashMap};

use super::{Facts, Findings, Frame, Group, Outcome, Publish, SECOND, room::Room, seconds};

const KEPT: &str = "an acknowledged message is stored at its sequence";
const ONCE: &str = "a message is stored once";
const REFUSED: &str = "what is refused is not stored";
const ORDER: &str = "messages are stored in their order";
const WHOLE: &str = "an atomic batch is stored whole and in sequence, or not at all";
const ANSWERS: &str = "a publish is answered as documented";

pub(super) fn check(facts: &Facts, room: &Room, found: &mut Findings) {
    let mut places: HashMap<u64, Vec<u64>> = HashMap::new();
    for (sequence, stored) in &room.log.messages {
        places.entry(stored.digest).or_default().push(*sequence);
        found.require(room.published(stored.digest).is_some(), "what is stored was published", || {
            format!("{sequence} is stored, and nobody published it")
        });
    }
    let mut delivered: HashMap<u64, u64> = HashMap::new();
    for (_, frame) in room.subscriptions.iter().flat_map(|subscription| &subscription.frames) {
        if let Frame::Message { sequence, digest } = frame {
            delivered.insert(*digest, *sequence);
        }
    }
    for publish in &room.publishes {
        let places = places.get(&publish.digest).map_or(&[][..], Vec::as_slice);
        found.require(places.len() <= 1, ONCE, || format!("{} is stored at {places:?}", publish.label));
        check_answers(facts, publish, found);
        check_outcome(room, publish, places.first().copied(), delivered.get(&publish.digest).copied(), found);
    }
    check_order(room, &places, found);
    check_streams(room, &places, found);
    check_groups(room, &places, found);
}

/// The answers to one message, beside where it is stored, and where it was delivered.
fn check_outcome(room: &Room, publish: &Publish, stored: Option<u64>, delivered: Option<u64>, found: &mut Findings) {
    let answered: Vec<(u64, bool)> = publish
        .attempts
        .iter()
        .filter_map(|attempt| match attempt.outcome {
            Outcome::Stored { sequence, duplicate } => Some((sequence, duplicate)),
            _ => None,
        })
        .collect();
    let label = &publish.label;
    if let Some((sequence, _)) = answered.first() {
        found.require(answered.iter().all(|(other, _)| other == sequence), KEPT, || {
            format!("{label} was answered with several sequences: {answered:?}")
        });
        found.require(answered.iter().skip(1).all(|(_, duplicate)| *duplicate), ONCE, || {
            format!("{label} was published again, and the answer was no duplicate: {answered:?}")
        });
        let gone = stored.is_none() && room.may_be_removed(*sequence, u64::MAX);
        found.require(stored == Some(*sequence) || gone, KEPT, || {
            let there = room.log.messages.get(sequence).map(|stored| room.name(stored.digest));
            format!("{label} was acknowledged as {sequence}; it is at {stored:?}, and there is {there:?}")
        });
        if let Some(expected) = publish.expected {
            found.require(*sequence == expected + 1, "expected_last_sequence is met", || {
                format!("{label} expected {expected} and was stored as {sequence}")
            });
        }
    } else if publish.attempts.iter().all(|attempt| is_refusal(&attempt.outcome)) {
        let seen = stored.or(delivered);
        found.require(seen.is_none(), REFUSED, || {
            format!("{label} was refused, and it is at {seen:?}: {:?}", publish.attempts)
        });
    }
}

/// Whether the answer says for certain that nothing was stored.
fn is_refusal(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Failed(failure) if !failure.is_open())
}

/// The refusals that a publisher may receive.
fn check_answers(facts: &Facts, publish: &Publish, found: &mut Findings) {
    for attempt in &publish.attempts {
        let Outcome::Failed(failure) = &attempt.outcome else { continue };
        let reason = failure.reason.as_str();
        let allowed = match reason {
            "" => facts.was_out(attempt.instance, attempt.started, attempt.ended),
            "SEQUENCE_MISMATCH" => publish.expected.is_some(),
            "BATCH_DUPLICATE" => publish.group.is_some() && publish.attempts.len() > 1,
            "PERMISSION_DENIED" => publish.member.is_some(),
            "OUTCOME_UNKNOWN" | "NATS_UNAVAILABLE" | "DRAINING" | "TIMEOUT" => facts.disturbed,
            "CONFLICT" => true,
            "STORAGE_FULL" => facts.full,
            _ => false,
        };
        found.require(allowed, ANSWERS, || {
            let (from, to) = (seconds(attempt.started), seconds(attempt.ended));
            format!("{} through {} from {from} to {to}: {failure:?}", publish.label, attempt.instance)
        });
    }
}

/// Checks that a publish that began after an acknowledgement is stored after the acknowledged message.
fn check_order(room: &Room, places: &HashMap<u64, Vec<u64>>, found: &mut Findings) {
    for publish in &room.publishes {
        let place = publish.sequence().or_else(|| places.get(&publish.digest)?.first().copied());
        let Some(place) = place else { continue };
        let before = room.acknowledged_before(publish.started());
        found.require(place > before, ORDER, || {
            format!(
                "{} began at {} and is stored as {place}; {before} was acknowledged earlier",
                publish.label,
                seconds(publish.started())
            )
        });
    }
}

/// Checks that the messages of one `PublishStream` or `PublishBatch` are stored in the order in which they were sent, and
/// that those which a cumulative acknowledgement covers are stored before its last one.
fn check_streams(room: &Room, places: &HashMap<u64, Vec<u64>>, found: &mut Findings) {
    let mut calls: BTreeMap<u64, BTreeMap<u64, (&Publish, &Outcome)>> = BTreeMap::new();
    for publish in &room.publishes {
        for attempt in &publish.attempts {
            calls.entry(attempt.call).or_default().insert(attempt.place, (publish, &attempt.outcome));
        }
    }
    for messages in calls.values() {
        let (mut earlier, mut first) = (0, "nothing");
        for (publish, outcome) in messages.values() {
            let label = publish.label.as_str();
            let sequence = match outcome {
                Outcome::Stored { sequence, duplicate: false } => *sequence,
                Outcome::StoredBefore { last } => {
                    let end = last.unwrap_or(room.log.last + 1);
                    let Some(place) = places.get(&publish.digest).and_then(|places| places.first().copied()) else {
                        let gone = (earlier + 1..end).any(|sequence| room.may_be_removed(sequence, u64::MAX));
                        found.require(gone, KEPT, || {
                            format!("{label} was acknowledged as stored between {earlier} and {end}, and is not there")
                        });
                        continue;
                    };
                    found.require(place < end, KEPT, || {
                        format!("{label} was acknowledged as stored before {end}; it is at {place}")
                    });
                    place
                }
                _ => continue,
            };
            found.require(sequence > earlier, ORDER, || {
                format!("{first} was sent before {label}, and they are stored as {earlier} and {sequence}")
            });
            (earlier, first) = (sequence, label);
        }
    }
}

fn check_groups(room: &Room, places: &HashMap<u64, Vec<u64>>, found: &mut Findings) {
    let mut batches: BTreeMap<u64, Vec<(Group, &Publish)>> = BTreeMap::new();
    for publish in &room.publishes {
        if let Some(group) = publish.group {
            batches.entry(group.batch).or_default().push((group, publish));
        }
    }
    for members in batches.values() {
        let place = |publish: &Publish| places.get(&publish.digest).and_then(|places| places.first().copied());
        let answered = members.iter().find_map(|(group, publish)| Some(publish.sequence()?.wrapping_sub(group.index)));
        let stored = members.iter().find_map(|(group, publish)| Some(place(publish)?.wrapping_sub(group.index)));
        let Some(begin) = answered.or(stored) else { continue };
        for (group, publish) in members {
            let expected = begin + group.index;
            let answer_fits = publish.sequence().is_none_or(|sequence| sequence == expected);
            let is = place(publish);
            let there = is == Some(expected) || is.is_none() && room.may_be_removed(expected, u64::MAX);
            found.require(answer_fits && there, WHOLE, || {
                let (answered, label) = (publish.sequence(), &publish.label);
                format!(
                    "{label} is {} of {} from {begin}; answered {answered:?}, stored at {is:?}",
                    group.index, group.size
                )
            });
        }
    }
}

impl Facts {
    /// Whether this instance was down, or could have seemed down, at some time between `from` and `to`.
    pub(super) fn was_out(&self, instance: usize, from: u64, to: u64) -> bool {
        let near = SECOND / 2;
        let outages = self.outages.iter().filter(|outage| outage.instance == instance);
        outages.into_iter().any(|outage| outage.from <= to + near && from <= outage.to + near)
    }

    /// How long this program itself was stalled between `from` and `to`.
    pub(super) fn stalled(&self, from: u64, to: u64) -> u64 {
        self.stalls.iter().map(|(begin, end)| (*end).min(to).saturating_sub((*begin).max(from))).sum()
    }
}
