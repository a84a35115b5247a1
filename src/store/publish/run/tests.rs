//! A model of a stream that takes runs, against the answers that a run makes of it.

use std::collections::HashMap;

use async_nats::jetstream;
use proptest::prelude::*;

use super::*;

/// What happens to the message at each place, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Arrives,
    /// The message never arrives. Nobody answers.
    IsLost,
    /// The stream refuses this message, and counts it as part of the batch.
    IsRefused,
    /// The stream refuses this message before it looks at the batch.
    IsRefusedEarly,
    /// Nobody listens on the subject.
    FindsNobody,
    /// The server restarts before the message arrives, and forgets the batch.
    FindsAnotherServer,
    /// Another program stores a message before this one.
    FollowsAnother,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        40 => Just(Event::Arrives),
        1 => Just(Event::IsLost),
        1 => Just(Event::IsRefused),
        1 => Just(Event::IsRefusedEarly),
        1 => Just(Event::FindsNobody),
        1 => Just(Event::FindsAnotherServer),
        4 => Just(Event::FollowsAnother),
    ]
}

fn error(code: u64) -> jetstream::Error {
    serde_json::from_value(serde_json::json!({ "code": 400, "err_code": code, "description": "no" }))
        .unwrap_or_else(|error| unreachable!("{error}"))
}

/// A stream with one replica, as nats-server 2.15.1 treats fast batches that end at a gap.
#[derive(Default)]
struct Stream {
    last_sequence: u64,
    /// The sequence of each stored message of the run, by place.
    stored: HashMap<usize, u64>,
    /// The last place of the batch, and its sequence. `None`: the batch is unknown.
    batch: Option<(usize, u64)>,
    answers: Vec<(usize, RunAnswer)>,
}

impl Stream {
    fn answer(&mut self, place: usize, answer: RunAnswer) {
        self.answers.push((place, answer));
    }

    fn end(&mut self, place: usize) {
        if let Some((count, sequence)) = self.batch.take() {
            self.answer(place, RunAnswer::Ended { count, sequence });
        }
    }

    fn take(&mut self, place: usize, of: usize, event: Event) {
        match event {
            Event::IsLost => return,
            Event::IsRefusedEarly => return self.answer(place, RunAnswer::Refused(error(10054))),
            Event::FindsNobody => return self.answer(place, RunAnswer::NotTaken),
            Event::FindsAnotherServer => self.batch = None,
            Event::FollowsAnother => self.last_sequence += 1,
            Event::Arrives | Event::IsRefused => {}
        }
        if place == 1 {
            self.batch = Some((0, 0));
        }
        let Some((count, sequence)) = self.batch else { return self.answer(place, RunAnswer::NotTaken) };
        if count + 1 != place {
            return self.end(place);
        }
        if event == Event::IsRefused {
            self.answer(place, RunAnswer::Refused(error(10077)));
            self.batch = Some((place, sequence));
        } else {
            self.last_sequence += 1;
            self.stored.insert(place, self.last_sequence);
            self.batch = Some((place, self.last_sequence));
        }
        if place == of {
            self.end(place);
        }
    }
}

proptest! {
    #[test]
    fn no_outcome_says_more_than_the_log_shows(
        events in prop::collection::vec(event(), 2..40),
        heard in prop::collection::vec(prop::bool::weighted(0.97), 80),
        is_replicated in any::<bool>(),
    ) {
        let of = events.len();
        let mut stream = Stream::default();
        for (event, place) in events.iter().zip(1..) {
            stream.take(place, of, *event);
        }
        let was_smooth = events.iter().all(|event| matches!(event, Event::Arrives | Event::FollowsAnother));
        // answers are lost from a point on, when the connection breaks
        let heard = heard.iter().take_while(|heard| **heard).count();
        let mut answers = RunAnswers::new(of, is_replicated);
        let mut is_complete = false;
        for (place, answer) in stream.answers.iter().take(heard) {
            prop_assert!(!is_complete || !was_smooth, "an answer after the last");
            // later answers find no waiter
            if !is_complete {
                is_complete = answers.apply(*place, answer.clone());
            }
        }
        if was_smooth && heard > 0 {
            prop_assert!(is_complete);
        }
        let outcomes = answers.outcomes();
        prop_assert_eq!(outcomes.len(), of);
        for (outcome, place) in outcomes.iter().zip(1..) {
            let stored = stream.stored.get(&place);
            match outcome {
                RunOutcome::Stored(Some(sequence)) => prop_assert_eq!(Some(sequence), stored),
                RunOutcome::Stored(None) => prop_assert!(stored.is_some()),
                RunOutcome::Refused(_) | RunOutcome::NotTaken => prop_assert!(stored.is_none()),
                RunOutcome::Lost => prop_assert!(!was_smooth || heard == 0),
            }
        }
        if was_smooth && heard > 0 {
            prop_assert!(matches!(outcomes.last(), Some(RunOutcome::Stored(Some(_)))));
        }
    }
}

#[test]
fn a_server_without_fast_batches_answers_each_message() {
    let mut answers = RunAnswers::new(3, false);
    assert!(!answers.apply(1, RunAnswer::Stored(7)));
    assert!(!answers.apply(2, RunAnswer::Refused(error(10054))));
    assert!(answers.apply(3, RunAnswer::Stored(9)));
    let outcomes = answers.outcomes();
    assert!(matches!(
        outcomes.as_slice(),
        [RunOutcome::Stored(Some(7)), RunOutcome::Refused(_), RunOutcome::Stored(Some(9))]
    ));
}

#[test]
fn few_runs_are_in_flight_unless_they_are_full() {
    assert!(may_start(0, 1) && may_start(1, 1) && !may_start(2, 1));
    assert!(may_start(2, RUN_MESSAGES_MAX) && may_start(7, RUN_MESSAGES_MAX) && !may_start(8, RUN_MESSAGES_MAX));
}
