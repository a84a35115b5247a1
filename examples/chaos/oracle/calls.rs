//! Checks that calls are answered in time, and only with statuses that the contract allows.

use super::{At, Facts, Findings, Outcome, SECOND, seconds};

/// Longest time of a publish from the call to its answer, as `PUBLISH_TIMEOUT` says, with room for a busy machine.
const PUBLISH_MAX: At = 7 * SECOND;
/// Longest time of any other call: a request to NATS has 5 s, and some calls make more than one.
const CALL_MAX: At = 12 * SECOND;
const IN_TIME: &str = "a call is answered in time";

pub(super) fn check(facts: &Facts, found: &mut Findings) {
    for call in &facts.calls {
        found.room_id.clone_from(&call.room_id);
        let took = (call.ended - call.started).saturating_sub(facts.stalled(call.started, call.ended));
        found.require(took <= CALL_MAX, IN_TIME, || {
            format!("{} on {} at {} took {}", call.what, call.instance, seconds(call.started), seconds(took))
        });
        let Some(failure) = &call.failure else { continue };
        let allowed = match failure.reason.as_str() {
            "" => facts.was_out(call.instance, call.started, call.ended),
            "NATS_UNAVAILABLE" | "DRAINING" | "TIMEOUT" => facts.disturbed,
            "CONFLICT" => true,
            // judged with the subscriber's other acknowledgements
            "SUBSCRIBER_NOT_FOUND" | "TAKEN_OVER" => call.what == "Acknowledge",
            // a second try, after an answer that was lost
            "MESSAGE_NOT_FOUND" => call.what == "DeleteMessage",
            "MEMBER_NOT_FOUND" => call.what == "RemoveMember",
            "STORAGE_FULL" => facts.full && call.what == "CreateRoom",
            _ => false,
        };
        found.require(allowed, "a call is answered as documented", || {
            format!("{} on {} at {}: {failure:?}", call.what, call.instance, seconds(call.started))
        });
    }
    for room in &facts.rooms {
        found.room_id.clone_from(&room.room_id);
        for publish in &room.publishes {
            for attempt in &publish.attempts {
                let took = attempt.ended - attempt.started;
                let took = took.saturating_sub(facts.stalled(attempt.started, attempt.ended));
                // a message in an open stream also waits for the messages before it
                let counts = attempt.outcome != Outcome::Unanswered && attempt.place == 0;
                found.require(!counts || took <= PUBLISH_MAX, IN_TIME, || {
                    format!(
                        "{} through {} at {} took {}",
                        publish.label,
                        attempt.instance,
                        seconds(attempt.started),
                        seconds(took)
                    )
                });
            }
        }
    }
}
