//! Runs: messages of one room that are sent together as one fast batch (ADR-50), without I/O: answers are arguments.
//!
//! A fast batch stores its messages as they arrive, and answers once, with the sequence of the last message. It ends at
//! the first gap, so what follows a lost message is not stored. An ordinary publish is acknowledged message by message,
//! which costs the server and the client more than the message itself. The sequences of the other messages stay
//! unknown, so only messages whose caller does without them join a run.
//!
//! A run is complete when it is sent: its last message ends the batch. So no batch waits on the server, and runs follow
//! each other like plain publishes. A duplicate is not answered at all inside a fast batch, and a refusal by
//! expectation ends it. So messages with `message_id`, `expected_last_sequence` or `ttl` are published plainly.
//!
//! NATS may answer single messages of a run: with a refusal, with "nobody listens", or, if the stream does not allow
//! fast batches or has forgotten this one, with "not taken". Such an answer precedes the answer of the whole run.

use async_nats::jetstream::{self, ErrorCode};
use tokio::time::Duration;

/// Maximum number of messages in a run.
pub(super) const RUN_MESSAGES_MAX: usize = 128;
/// Runs in flight beyond which only full runs are sent. Waiting messages then gather to larger runs.
const RUNS_IN_FLIGHT: usize = 2;
/// Maximum number of full runs in flight.
const FULL_RUNS_IN_FLIGHT: usize = 8;
/// How long messages are published plainly after NATS did not take a message of a run. The stream may not allow fast
/// batches for good.
pub(super) const PLAIN_AFTER_REFUSAL: Duration = Duration::from_secs(10);

/// Returns true if a run may be sent while `in_flight` runs are not answered and `waiting` messages wait.
pub(super) fn may_start(in_flight: usize, waiting: usize) -> bool {
    in_flight < RUNS_IN_FLIGHT || (in_flight < FULL_RUNS_IN_FLIGHT && waiting >= RUN_MESSAGES_MAX)
}

/// Returns true if NATS refused a message because it does not take fast batches now, or does not know this one.
pub(super) fn is_not_taken(error: &jetstream::Error) -> bool {
    matches!(
        error.error_code(),
        ErrorCode::BATCH_PUBLISH_DISABLED
            | ErrorCode::BATCH_PUBLISH_INVALID_PATTERN
            | ErrorCode::BATCH_PUBLISH_INVALID_BATCH_ID
            | ErrorCode::BATCH_PUBLISH_UNKNOWN_BATCH_ID
            | ErrorCode::BATCH_PUBLISH_TOO_MANY_INFLIGHT
    )
}

/// An answer of NATS to a run. Answers to one message belong to the place of the message in the run, from 1.
#[derive(Clone, Debug)]
pub(super) enum RunAnswer {
    /// The batch has ended. Its messages up to place `count` are stored, except those that were answered with an error.
    /// The message at place `count` is stored at `sequence`.
    Ended { count: usize, sequence: u64 },
    /// This message is stored at this sequence.
    Stored(u64),
    /// This message is not stored.
    Refused(jetstream::Error),
    /// This message is not stored, and may be sent again.
    NotTaken,
}

/// What became of one message of a run.
#[derive(Clone, Debug)]
pub(super) enum RunOutcome {
    /// Stored at this sequence, if it is known.
    Stored(Option<u64>),
    Refused(jetstream::Error),
    /// Not stored; may be sent again.
    NotTaken,
    /// May be stored.
    Lost,
}

/// The answers to one run.
#[derive(Debug)]
pub(super) struct RunAnswers {
    messages: usize,
    /// True: after a change of leader, a message that the answer of the run does not cover may be stored.
    is_replicated: bool,
    /// Answers to single messages, by place from 0.
    single: Vec<Option<RunOutcome>>,
    answered: usize,
    ended: Option<(usize, u64)>,
}

impl RunAnswers {
    pub(super) fn new(messages: usize, is_replicated: bool) -> Self {
        Self { messages, is_replicated, single: Vec::new(), answered: 0, ended: None }
    }

    /// Applies the answer that came for the message at `place`, from 1. Returns true if no further answer is awaited.
    pub(super) fn apply(&mut self, place: usize, answer: RunAnswer) -> bool {
        let outcome = match answer {
            RunAnswer::Ended { count, sequence } => {
                if count <= self.messages {
                    self.ended.get_or_insert((count, sequence));
                }
                return self.is_complete();
            }
            RunAnswer::Stored(sequence) => RunOutcome::Stored(Some(sequence)),
            RunAnswer::Refused(error) => RunOutcome::Refused(error),
            RunAnswer::NotTaken => RunOutcome::NotTaken,
        };
        if self.single.is_empty() {
            self.single.resize_with(self.messages, || None);
        }
        if let Some(slot) = place.checked_sub(1).and_then(|index| self.single.get_mut(index))
            && slot.is_none()
        {
            *slot = Some(outcome);
            self.answered += 1;
        }
        self.is_complete()
    }

    fn is_complete(&self) -> bool {
        // without its last message the batch does not end, so no answer to the whole run will come
        let last_is_out = matches!(self.single.last(), Some(Some(RunOutcome::Refused(_) | RunOutcome::NotTaken)));
        self.ended.is_some() || last_is_out || self.answered == self.messages
    }

    /// What became of each message, in order, as far as it was answered.
    pub(super) fn outcomes(mut self) -> Vec<RunOutcome> {
        self.single.resize_with(self.messages, || None);
        let (ended, is_replicated) = (self.ended, self.is_replicated);
        let rest = |place: usize| match ended {
            Some((count, sequence)) if place == count => RunOutcome::Stored(Some(sequence)),
            Some((count, _)) if place < count => RunOutcome::Stored(None),
            Some(_) if !is_replicated => RunOutcome::NotTaken,
            Some(_) | None => RunOutcome::Lost,
        };
        self.single.into_iter().zip(1..).map(|(single, place)| single.unwrap_or_else(|| rest(place))).collect()
    }
}

#[cfg(test)]
mod tests;
