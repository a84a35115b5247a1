//! Checks the ephemeral room: each message at most once and in order, and a gap for each loss that the service knows.

use super::{AirSubscription, End, Facts, Findings, Frame, SECOND, seconds};

const ONCE: &str = "an ephemeral room shows a message at most once, in order";
const NAMED: &str = "an ephemeral room loses nothing silently while NATS is reached";
const ANSWERS: &str = "a publish is answered as documented";
const END: &str = "a subscription ends for a documented reason that applies";

pub(super) fn check(facts: &Facts, found: &mut Findings) {
    "air".clone_into(&mut found.room_id);
    for message in &facts.air.messages {
        let Some(failure) = &message.failure else { continue };
        let allowed = match failure.reason.as_str() {
            "" => facts.was_out(message.instance, message.started, message.ended),
            "OUTCOME_UNKNOWN" | "NATS_UNAVAILABLE" | "DRAINING" | "TIMEOUT" => facts.disturbed,
            _ => false,
        };
        found.require(allowed, ANSWERS, || format!("{} at {}: {failure:?}", message.number, seconds(message.started)));
    }
    for subscription in &facts.air.subscriptions {
        check_subscription(facts, subscription, found);
    }
}

fn check_subscription(facts: &Facts, subscription: &AirSubscription, found: &mut Findings) {
    let who = format!("a reader on {} asked at {}", subscription.instance, seconds(subscription.asked));
    let mut before = 0;
    for (at, frame) in &subscription.frames {
        if let Frame::Message { sequence: number, digest: sequence } = frame {
            found.require(*number > before && *sequence == 0, ONCE, || {
                format!("{who}: {number} with the sequence {sequence} came after {before} at {}", seconds(*at))
            });
            before = *number;
        }
    }
    if let End::Failed(failure) = &subscription.end {
        let allowed = match failure.reason.as_str() {
            "" => facts.was_out(subscription.instance, subscription.asked, subscription.ended),
            "NATS_UNAVAILABLE" | "DRAINING" => facts.disturbed,
            "TIMEOUT" => facts.disturbed && subscription.frames.is_empty(),
            _ => false,
        };
        found.require(allowed, END, || format!("{who}: ended at {} with {failure:?}", seconds(subscription.ended)));
    }
    let Some((opened, _)) = subscription.frames.first() else { return };
    let named = subscription.frames.iter().any(|(_, frame)| matches!(frame, Frame::Gap { .. }));
    if facts.disturbed || named {
        return;
    }
    // Messages that were on their way when the client left are no violation.
    let lost = facts.air.messages.iter().find(|message| {
        let during = message.started > *opened && message.ended + SECOND < subscription.ended;
        let came =
            |(_, frame): &(u64, Frame)| matches!(frame, Frame::Message { sequence, .. } if *sequence == message.number);
        during && message.failure.is_none() && !subscription.frames.iter().any(came)
    });
    found.require(lost.is_none(), NAMED, || format!("{who}: never got {lost:?}, and no gap came"));
}
