//! Checks durable subscribers: each receives every stored message at least once, and its position moves back only by a
//! seek.

use std::collections::BTreeSet;

use super::{Ack, At, End, Findings, Frame, MoveKind, RemovalKind, SECOND, Subscription, room::Room, seconds};

const AT_LEAST_ONCE: &str = "a durable subscriber gets every message at least once";
const FORWARD: &str = "a position never moves back, except by a seek";
const GENERATIONS: &str = "an older subscription cannot acknowledge after a newer one was opened";
const ACKS: &str = "an acknowledgement is answered as documented";
/// How long a subscriber may be missing after a native client has deleted its consumer.
const MADE_AGAIN: At = 5 * SECOND;

pub(super) fn check(room: &Room, found: &mut Findings) {
    let names: BTreeSet<&String> =
        room.subscriptions.iter().filter_map(|subscription| subscription.durable.as_ref()).collect();
    for name in names {
        check_acks(room, name, found);
        check_positions(room, name, found);
        check_completeness(room, name, found);
    }
}

fn check_acks(room: &Room, name: &str, found: &mut Findings) {
    let deleted = |ack: &Ack| {
        let mut moves = room.moves.iter().filter(|moved| moved.durable == name && moved.kind == MoveKind::Deleted);
        moves.any(|moved| moved.started <= ack.ended && moved.done.is_none_or(|done| ack.started <= done + MADE_AGAIN))
    };
    let subscriptions = room.of_durable(name);
    let newer_than = |ack: &Ack, newer: &Subscription| newer.generation() > ack.generation;
    for ack in room.acks.iter().filter(|ack| ack.durable == name) {
        match &ack.answer {
            Ok(position) => {
                found.require(*position >= ack.sequence, ACKS, || {
                    format!("{name} acknowledged {} at {}, answered {position}", ack.sequence, seconds(ack.started))
                });
                let mut newer = subscriptions.iter().filter(|newer| newer_than(ack, newer));
                let newer = newer.find(|newer| newer.opened().is_some_and(|opened| opened < ack.started));
                found.require(ack.generation.is_none() || newer.is_none(), GENERATIONS, || {
                    let newer = newer.map(|newer| newer.name());
                    format!("{name} acknowledged {} at {} beside {newer:?}", ack.sequence, seconds(ack.started))
                });
            }
            Err(failure) => {
                let allowed = match failure.reason.as_str() {
                    // which instances were away is judged where calls are
                    "" | "NATS_UNAVAILABLE" | "DRAINING" | "TIMEOUT" => true,
                    "SUBSCRIBER_NOT_FOUND" => deleted(ack),
                    // the answer to a newer one may be lost
                    "TAKEN_OVER" => subscriptions.iter().any(|newer| {
                        newer.asked <= ack.ended && (newer.generation().is_none() || newer_than(ack, newer))
                    }),
                    _ => false,
                };
                found.require(allowed, ACKS, || {
                    format!("{name} acknowledged {} at {}: {failure:?}", ack.sequence, seconds(ack.started))
                });
            }
        }
    }
}

fn check_positions(room: &Room, name: &str, found: &mut Findings) {
    let subscriptions = room.of_durable(name);
    for (count, subscription) in subscriptions.iter().enumerate() {
        let Some(begins) = subscription.begins() else { continue };
        let earlier = subscriptions.get(..count).unwrap_or_default();
        let opened = subscription.opened().unwrap_or(subscription.ended);
        let lowest = room.lowest_position(name, earlier, subscription);
        found.require(begins >= lowest, FORWARD, || {
            format!("{}: begins after {begins}, and {lowest} had been reached", subscription.name())
        });
        let highest = room.highest_position(name, earlier, subscription, opened);
        found.require(begins <= highest, AT_LEAST_ONCE, || {
            format!("{}: begins after {begins}, and no more than {highest} was acknowledged", subscription.name())
        });
    }
}

/// Checks that every stored message was delivered, or may have been lost with a client's connection.
fn check_completeness(room: &Room, name: &str, found: &mut Findings) {
    let subscriptions = room.of_durable(name);
    let Some(begin) = subscriptions.iter().find_map(|subscription| subscription.begins()) else { return };
    // A seek forward skips messages, and AUTO acknowledges messages that a broken connection may have lost.
    let sought = room.moves.iter().filter(|moved| moved.durable == name).map(|moved| match moved.kind {
        MoveKind::Seek { position } => position,
        MoveKind::Deleted => 0,
    });
    let excused = sought.max().unwrap_or(0);
    let mut delivered = BTreeSet::new();
    let mut swallowed = Vec::new();
    let mut stood = begin;
    for subscription in &subscriptions {
        let Some(begins) = subscription.begins() else { continue };
        if !subscription.explicit && begins > stood {
            swallowed.push(stood..=begins);
        }
        for (_, frame) in &subscription.frames {
            if let Frame::Message { sequence, .. } = frame {
                delivered.insert(*sequence);
            }
        }
        stood = stood.max(subscription.position().unwrap_or(0));
    }
    let end = stood;
    let missing = room.stored(begin + 1, end).map(|(sequence, _)| sequence).find(|sequence| {
        *sequence > excused && !delivered.contains(sequence) && !swallowed.iter().any(|range| range.contains(sequence))
    });
    found.require(missing.is_none(), AT_LEAST_ONCE, || {
        let gap_in =
            subscriptions.iter().find(|subscription| missing.is_some_and(|wanted| subscription.covers(wanted)));
        let gap_in = gap_in.map(|subscription| subscription.name());
        format!("{name} never got {missing:?} of {begin} to {end}; told as missing by {gap_in:?}")
    });
}

impl Room<'_> {
    fn of_durable(&self, name: &str) -> Vec<&Subscription> {
        let mut all: Vec<_> =
            self.subscriptions.iter().filter(|subscription| subscription.durable.as_deref() == Some(name)).collect();
        all.sort_by_key(|subscription| subscription.asked);
        all
    }

    /// Whether the position may have been moved between these moments.
    fn moved_between(&self, name: &str, from: At, to: At) -> bool {
        self.moves
            .iter()
            .any(|moved| moved.durable == name && moved.started <= to && moved.done.is_none_or(|done| done >= from))
    }

    /// The smallest position that a subscription may begin at.
    fn lowest_position(&self, name: &str, earlier: &[&Subscription], subscription: &Subscription) -> u64 {
        let asked = subscription.asked;
        let opened = subscription.opened().unwrap_or(asked);
        let acks = self.acks.iter().filter(|ack| ack.durable == name && ack.ended < asked);
        let acks = acks.filter(|ack| !self.moved_between(name, ack.started, opened));
        let acks = acks.filter_map(|ack| ack.answer.as_ref().ok().map(|position| (*position).max(ack.sequence)));
        let begins = earlier.iter().filter(|other| other.ended < asked);
        let begins = begins.filter(|other| !self.moved_between(name, other.asked, opened));
        acks.chain(begins.filter_map(|other| other.begins())).max().unwrap_or(0)
    }

    /// The greatest position that a subscription may begin at, because a greater one would skip undelivered messages.
    fn highest_position(&self, name: &str, earlier: &[&Subscription], subscription: &Subscription, opened: At) -> u64 {
        let acks = self.acks.iter().filter(|ack| ack.durable == name && ack.started <= opened);
        let acks = acks.map(|ack| ack.sequence);
        let seeks = self.moves.iter().filter(|moved| moved.durable == name && moved.started <= opened);
        let seeks = seeks.map(|moved| match moved.kind {
            MoveKind::Seek { position } => position,
            MoveKind::Deleted => 0,
        });
        let purges = self.removals.iter().filter(|removal| removal.started <= opened);
        let purges = purges.map(|removal| match removal.kind {
            RemovalKind::Purge { up_to } => up_to,
            RemovalKind::Delete { .. } => 0,
            RemovalKind::Bounds => self.log.first.saturating_sub(1),
        });
        let taken = earlier.iter().filter(|_| !subscription.explicit).map(|other| match &other.end {
            // messages on their way to the client count as taken
            End::ByClient | End::Silent => u64::MAX,
            End::Failed(failure) if failure.reason.is_empty() => u64::MAX,
            _ => other.position().unwrap_or(0),
        });
        let first = earlier.iter().find_map(|other| other.begins());
        let first = first.or(subscription.begins()).unwrap_or(0);
        acks.chain(seeks).chain(purges).chain(taken).chain([first]).max().unwrap_or(0)
    }
}
