//! Checks each subscription: messages come once and in order, a true gap names every hole, heartbeats fill every
//! silence, and the end has a valid reason.

use super::{At, End, Facts, Findings, Frame, MoveKind, SECOND, Subscription, room::Room, seconds};

const ORDER: &str = "a subscription shows messages in order, each once, and names what is missing";
const CONTENT: &str = "what is delivered is what is stored";
const GAP: &str = "a gap is true";
const CAUGHT_UP: &str = "caught_up comes after everything that was stored before";
const SILENCE: &str = "a subscription is never silent for longer than two heartbeats";
const END: &str = "a subscription ends for a documented reason that applies";
/// How late a frame may be because the machine is busy.
const BUSY: At = 3 * SECOND / 2;
/// How long the first frame may take: as any call.
const OPEN_MAX: At = 12 * SECOND;

pub(super) fn check(facts: &Facts, room: &Room, found: &mut Findings) {
    for subscription in &room.subscriptions {
        check_frames(room, subscription, found);
        check_silence(facts, subscription, found);
        check_end(facts, room, subscription, found);
        let shown = subscription.frames.iter().filter_map(|(_, frame)| match frame {
            Frame::Message { sequence, .. } => Some(*sequence),
            _ => None,
        });
        let count = shown.clone().count() as u64;
        found.require(
            subscription.credit.is_none_or(|credit| count <= credit),
            "no message comes without credit",
            || format!("{}: {count} messages came for a credit of {:?}", subscription.name(), subscription.credit),
        );
        room.check_shown(facts, found, &subscription.reader, subscription.instance, subscription.asked, shown);
    }
}

fn check_frames(room: &Room, subscription: &Subscription, found: &mut Findings) {
    let who = subscription.name();
    let mut position = None;
    let mut caught_up = false;
    for (at, frame) in &subscription.frames {
        let expected = position.map(|position: u64| position + 1);
        match frame {
            Frame::Opened { position: begin, .. } => {
                let sought = position.is_none() || room.may_be_sought(subscription, *at);
                found.require(sought, ORDER, || format!("{who}: opened again at {begin}, and nobody had moved it"));
                (position, caught_up) = (Some(*begin), false);
            }
            Frame::Message { sequence, digest } => {
                found.require(expected == Some(*sequence), ORDER, || {
                    format!("{who}: {sequence} came at {} in place of {expected:?}", seconds(*at))
                });
                let stored = room.log.messages.get(sequence).map(|stored| stored.digest);
                let right = stored.map_or_else(
                    || room.may_be_removed(*sequence, u64::MAX) && room.published(*digest).is_some(),
                    |stored| stored == *digest,
                );
                found.require(right, CONTENT, || {
                    let stored = stored.map(|stored| room.name(stored));
                    format!("{who}: {sequence} came as {}; stored is {stored:?}", room.name(*digest))
                });
                position = Some(*sequence);
            }
            Frame::Gap { from, to, reason } => {
                found.require(expected == Some(*from) && to >= from, ORDER, || {
                    format!("{who}: a gap {from}-{to} came at {} in place of {expected:?}", seconds(*at))
                });
                if let Some(why) = room.false_gap(*from, *to, *at) {
                    found.add(GAP, format!("{who}: gap {from}-{to} {reason} at {}, but {why}", seconds(*at)));
                }
                position = Some(*to);
            }
            Frame::CaughtUp(at_position) => {
                found.require(position == Some(*at_position) && !caught_up, ORDER, || {
                    format!("{who}: caught up at {at_position}, stood at {position:?}, before: {caught_up}")
                });
                let before = room.known_before(subscription.asked, subscription.instance);
                found.require(*at_position >= before, CAUGHT_UP, || {
                    format!("{who}: caught up at {at_position}, and {before} had been acknowledged when it asked")
                });
                caught_up = true;
            }
            Frame::Heartbeat(at_position) => {
                found.require(position == Some(*at_position), ORDER, || {
                    format!("{who}: a heartbeat at {at_position}, stood at {position:?}")
                });
            }
        }
    }
}

fn check_silence(facts: &Facts, subscription: &Subscription, found: &mut Findings) {
    let mut before = subscription.asked;
    let times = subscription.frames.iter().map(|(at, _)| *at).chain([subscription.ended]);
    for (count, at) in times.enumerate() {
        let allowed = if count == 0 { OPEN_MAX } else { 2 * facts.heartbeat + BUSY };
        let silent = (at - before).saturating_sub(facts.stalled(before, at));
        found.require(silent <= allowed, SILENCE, || {
            format!("{}: silent from {} to {}", subscription.name(), seconds(before), seconds(at))
        });
        before = at;
    }
    found.require(subscription.end != End::Silent || subscription.frames.is_empty(), SILENCE, || {
        format!("{}: given up at {}", subscription.name(), seconds(subscription.ended))
    });
}

fn check_end(facts: &Facts, room: &Room, subscription: &Subscription, found: &mut Findings) {
    let who = subscription.name();
    let caught_up = subscription.frames.iter().any(|(_, frame)| matches!(frame, Frame::CaughtUp(_)));
    let failure = match &subscription.end {
        End::Ok => {
            found.require(subscription.until_caught_up && caught_up, END, || format!("{who}: ended with OK"));
            return;
        }
        End::ByClient | End::Silent => return,
        End::Failed(failure) => failure,
    };
    let opened = !subscription.frames.is_empty();
    let others = || {
        room.subscriptions.iter().filter(|other| {
            other.durable == subscription.durable
                && !std::ptr::eq(*other, subscription)
                && other.asked <= subscription.ended
                && subscription.asked <= other.ended + 10 * SECOND
        })
    };
    let allowed = match failure.reason.as_str() {
        "" => facts.was_out(subscription.instance, subscription.asked, subscription.ended),
        "NATS_UNAVAILABLE" | "DRAINING" => facts.disturbed,
        // the answer to a call, not the end of what was open
        "TIMEOUT" => !opened && facts.disturbed,
        "TAKEN_OVER" => subscription.durable.is_some() && others().next().is_some(),
        "CONFLICT" => !opened || subscription.member.is_some(),
        "PERMISSION_DENIED" => subscription.member.is_some(),
        "SUBSCRIBER_NOT_FOUND" => room.is_deleted(subscription),
        _ => false,
    };
    found.require(allowed, END, || format!("{who}: ended at {} with {failure:?}", seconds(subscription.ended)));
    let position = subscription.position();
    if opened && subscription.durable.is_some() && matches!(failure.reason.as_str(), "DRAINING" | "TAKEN_OVER") {
        found.require(failure.sequence.is_some() && failure.sequence <= position, END, || {
            format!("{who}: ended with the position {:?}, and stood at {position:?}", failure.sequence)
        });
    }
}

impl Subscription {
    /// The name of the subscription in evidence.
    pub(super) fn name(&self) -> String {
        format!("{} on {} asked at {}", self.reader, self.instance, seconds(self.asked))
    }

    /// The position of its first frame.
    pub(super) fn begins(&self) -> Option<u64> {
        self.frames.iter().find_map(|(_, frame)| match frame {
            Frame::Opened { position, .. } => Some(*position),
            _ => None,
        })
    }

    /// When its first frame came.
    pub(super) fn opened(&self) -> Option<At> {
        self.frames.first().map(|(at, _)| *at)
    }

    /// Its number among those of the subscriber, if its first frame came.
    pub(super) fn generation(&self) -> Option<u64> {
        self.frames.iter().find_map(|(_, frame)| match frame {
            Frame::Opened { generation, .. } => Some(*generation),
            _ => None,
        })
    }

    /// The last sequence that was delivered or named in a gap.
    pub(super) fn position(&self) -> Option<u64> {
        self.frames.last().map(|(_, frame)| match frame {
            Frame::Message { sequence, .. } => *sequence,
            Frame::Gap { to, .. } => *to,
            Frame::Opened { position, .. } | Frame::CaughtUp(position) | Frame::Heartbeat(position) => *position,
        })
    }
}

impl Room<'_> {
    /// Whether the subscriber was or is being moved at this moment.
    fn may_be_sought(&self, subscription: &Subscription, at: At) -> bool {
        self.moves.iter().any(|moved| Some(&moved.durable) == subscription.durable.as_ref() && moved.started <= at)
    }

    /// Whether the subscriber was deleted at some time.
    fn is_deleted(&self, subscription: &Subscription) -> bool {
        self.moves.iter().any(|moved| {
            Some(&moved.durable) == subscription.durable.as_ref()
                && moved.kind == MoveKind::Deleted
                && moved.started <= subscription.ended
        })
    }
}
