//! The cumulative answers of a `PublishStream`, without I/O: outcomes and time are arguments.

use tokio::time::Instant;

use super::convert;
use crate::{
    domain::{Acknowledged, Durability},
    error::Result,
    limits::{PUBLISH_ACK_INTERVAL, PUBLISH_ACK_MESSAGES_MAX},
    v1,
};

/// With this number of stored messages an answer is sent at the next message whose sequence is known.
const ENOUGH: u32 = PUBLISH_ACK_MESSAGES_MAX / 2;

/// Consecutive messages that are stored and have no answer yet.
#[derive(Debug)]
struct Unanswered {
    messages: u32,
    last: u64,
    last_sequence: u64,
    durability: Durability,
    /// When their answer is due.
    due: Instant,
}

/// Gathers the outcomes of messages, in the order of the requests, into as few responses as possible.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    unanswered: Option<Unanswered>,
}

impl Gathered {
    /// Applies the outcome of the next message. Returns the responses that it causes, in order.
    pub(super) fn add(
        &mut self,
        correlation_id: u64,
        outcome: Result<Acknowledged>,
        now: Instant,
    ) -> [Option<v1::PublishStreamResponse>; 2] {
        let stored = match outcome {
            Ok(stored) if !stored.duplicate => stored,
            own => return [self.take(), Some(convert::stream_response(correlation_id, own))],
        };
        // one answer has one durability
        let before = match &self.unanswered {
            Some(unanswered) if unanswered.durability != stored.durability => self.take(),
            Some(_) | None => None,
        };
        let unanswered = self.unanswered.get_or_insert(Unanswered {
            messages: 0,
            last: correlation_id,
            last_sequence: 0,
            durability: stored.durability,
            due: now + PUBLISH_ACK_INTERVAL,
        });
        unanswered.messages += 1;
        unanswered.last = correlation_id;
        unanswered.last_sequence = stored.sequence;
        let is_full =
            unanswered.messages >= PUBLISH_ACK_MESSAGES_MAX || (unanswered.messages >= ENOUGH && stored.sequence > 0);
        [before, if is_full { self.take() } else { None }]
    }

    /// When [`Self::take`] must be called at the latest.
    pub(super) fn due(&self) -> Option<Instant> {
        self.unanswered.as_ref().map(|unanswered| unanswered.due)
    }

    /// The answer for all messages that have none.
    pub(super) fn take(&mut self) -> Option<v1::PublishStreamResponse> {
        let Unanswered { messages, last, last_sequence, durability, .. } = self.unanswered.take()?;
        Some(convert::stream_through(last, messages, last_sequence, durability))
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use v1::publish_stream_response::Outcome;

    use super::*;
    use crate::error::{Error, Reason};

    fn stored(sequence: u64) -> Acknowledged {
        let published_at = SystemTime::UNIX_EPOCH;
        Acknowledged { sequence, duplicate: false, published_at, durability: Durability::Buffered }
    }

    /// What a response answers: the correlation id, and the number of messages with the last sequence.
    fn answered(response: &v1::PublishStreamResponse) -> (u64, Option<(u32, u64)>) {
        let through = match &response.outcome {
            Some(Outcome::Through(through)) => Some((through.messages, through.last_sequence)),
            _ => None,
        };
        (response.correlation_id, through)
    }

    /// Adds the outcomes of the messages 1, 2, 3 and so on. Returns what the responses answer.
    fn add(
        gathered: &mut Gathered,
        outcomes: impl IntoIterator<Item = Result<Acknowledged>>,
    ) -> Vec<(u64, Option<(u32, u64)>)> {
        let outcomes = (1..).zip(outcomes);
        let responses = outcomes.flat_map(|(id, outcome)| gathered.add(id, outcome, Instant::now())).flatten();
        responses.map(|response| answered(&response)).collect()
    }

    #[test]
    fn an_answer_ends_where_the_sequence_is_known_and_covers_no_more_than_it_may() {
        // every hundredth sequence is known; then none
        let outcomes = (1..=700).map(|number| Ok(stored(if number % 100 == 0 && number <= 400 { number } else { 0 })));
        let mut gathered = Gathered::default();
        assert_eq!(
            add(&mut gathered, outcomes),
            [(200, Some((200, 200))), (400, Some((200, 400))), (656, Some((256, 0)))]
        );
        assert_eq!(gathered.take().map(|response| answered(&response)), Some((700, Some((44, 0)))));
        assert_eq!(gathered.take(), None);
    }

    #[test]
    fn an_error_and_a_duplicate_come_after_what_was_stored_before_them() {
        let duplicate = Acknowledged { duplicate: true, ..stored(1) };
        let failed = || Err(Error::new(Reason::OutcomeUnknown, "lost"));
        let outcomes = [Ok(stored(1)), failed(), failed(), Ok(stored(3)), Ok(stored(4)), Ok(duplicate), Ok(stored(5))];
        let mut gathered = Gathered::default();
        let expected = [(1, Some((1, 1))), (2, None), (3, None), (5, Some((2, 4))), (6, None)];
        assert_eq!(add(&mut gathered, outcomes), expected);
        assert!(gathered.due().is_some());
    }

    #[test]
    fn one_answer_has_one_durability() {
        let ephemeral = Acknowledged { durability: Durability::None, ..stored(0) };
        let outcomes = [Ok(stored(1)), Ok(ephemeral), Ok(ephemeral), Ok(stored(2))];
        assert_eq!(add(&mut Gathered::default(), outcomes), [(1, Some((1, 1))), (3, Some((2, 0)))]);
    }

    #[test]
    fn an_answer_is_due_after_the_interval_from_its_first_message() {
        let (mut gathered, start) = (Gathered::default(), Instant::now());
        assert_eq!(gathered.due(), None);
        for millis in [0, 60, 90] {
            gathered.add(millis, Ok(stored(1)), start + Duration::from_millis(millis));
            assert_eq!(gathered.due(), Some(start + PUBLISH_ACK_INTERVAL));
        }
        assert_eq!(gathered.take().map(|response| answered(&response)), Some((90, Some((3, 1)))));
        assert_eq!(gathered.due(), None);
    }
}
