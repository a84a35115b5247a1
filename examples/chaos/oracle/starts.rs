//! Checks where subscriptions without a durable name begin.

use super::{Findings, Frame, Publish, Start, Subscription, room::Room, seconds};

const START: &str = "a subscription begins where it was asked to";
const STATE: &str = "opened knows what was acknowledged before";

pub(super) fn check(room: &Room, found: &mut Findings) {
    for subscription in &room.subscriptions {
        let Some((at, Frame::Opened { position, first, last, .. })) = subscription.frames.first() else { continue };
        let who = subscription.name();
        let before = room.known_before(subscription.asked, subscription.instance);
        found.require(*last >= before, STATE, || {
            format!("{who}: opened says that the last is {last}, and {before} had been acknowledged when it asked")
        });
        found.require(*last <= room.log.last, STATE, || {
            format!("{who}: opened says that the last is {last}, and only {} were ever stored", room.log.last)
        });
        let wrong_first = room.stored(0, first.saturating_sub(1)).next().map(|(sequence, _)| sequence);
        found.require(wrong_first.is_none(), STATE, || {
            format!("{who}: opened says that the first is {first}, and {wrong_first:?} is stored")
        });
        if subscription.durable.is_none() && subscription.member.is_none() {
            check_start(room, subscription, *at, *position, *last, found);
        }
    }
}

fn check_start(room: &Room, subscription: &Subscription, at: u64, position: u64, last: u64, found: &mut Findings) {
    let who = subscription.name();
    let skipped = || room.stored(0, position).next().map(|(sequence, _)| sequence);
    match subscription.start {
        Start::After(sequence) => found.require(position == sequence, START, || {
            format!("{who}: asked for what comes after {sequence}, and it begins after {position}")
        }),
        Start::All => found.require(skipped().is_none(), START, || {
            format!("{who}: asked for all, and begins after {position}; {:?} is stored", skipped())
        }),
        Start::New => {
            let before = room.known_before(subscription.asked, subscription.instance);
            found.require(position >= before, START, || {
                format!("{who}: asked for new ones, and begins after {position}; {before} had been acknowledged")
            });
            let later = room.publishes.iter().filter(|publish| publish.started() > at);
            let missed = later.filter_map(Publish::sequence).find(|sequence| *sequence <= position);
            found.require(missed.is_none(), START, || {
                format!("{who}: begins after {position} at {}, and {missed:?} was published later", seconds(at))
            });
        }
        Start::Last(count) => {
            let kept = room.stored(position + 1, last).count() as u64;
            let older = room.stored(0, position).next().is_some();
            let whole = room.removals.is_empty() && room.expiring.is_empty();
            let right = kept <= count && (kept == count || !older || !whole);
            found.require(right, START, || {
                format!(
                    "{who}: asked for the last {count}, and begins {kept} before the last, after {position} of {last}"
                )
            });
        }
        Start::Since(time) => {
            let early = room.stored(position + 1, u64::MAX).find(|(_, stored)| stored.time < time);
            let late = room.stored(0, position).rev().find(|(_, stored)| stored.time >= time);
            found.require(early.is_none() && late.is_none(), START, || {
                format!("{who}: asked for since {time}, begins after {position}; earlier {early:?}, skipped {late:?}")
            });
        }
    }
}

impl Subscription {
    /// Whether the subscription has a message or a gap for this sequence.
    pub(super) fn covers(&self, wanted: u64) -> bool {
        self.frames.iter().any(|(_, frame)| match frame {
            Frame::Message { sequence, .. } => *sequence == wanted,
            Frame::Gap { from, to, .. } => (*from..=*to).contains(&wanted),
            _ => false,
        })
    }
}
