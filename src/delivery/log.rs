//! Delivery from a log: every message once, in order, and nothing missing but what a gap names.

use crate::domain::{Gap, GapReason, RoomState};

/// What the client is told next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The message that has just arrived.
    Deliver,
    Gap(Gap),
    /// The backlog of the opening is through, up to this position.
    CaughtUp(u64),
}

/// One subscription's way through a log.
///
/// Invariants: `position` never falls; every sequence up to it was delivered or named in a gap, once; `CaughtUp` is
/// told once.
#[derive(Clone, Debug)]
pub(crate) struct LogDelivery {
    position: u64,
    /// The last sequence when the subscription opened.
    backlog_end: u64,
    caught_up: bool,
    /// Whether the room's retention removes messages.
    expires: bool,
}

impl LogDelivery {
    /// A subscription that starts after `position` in a log that holds `state`; with the first steps.
    pub(crate) fn open(position: u64, state: &RoomState, expires: bool) -> (Self, Vec<Step>) {
        let mut delivery = Self { position, backlog_end: state.last_sequence, caught_up: false, expires };
        let mut steps = Vec::new();
        delivery.skip_to(state.first_sequence.saturating_sub(1), state.first_sequence, &mut steps);
        delivery.note_end(&mut steps);
        (delivery, steps)
    }

    /// Everything up to this sequence was delivered or named in a gap.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    pub(crate) fn is_caught_up(&self) -> bool {
        self.caught_up
    }

    /// Whether sequences are missing between the position and `sequence`.
    pub(crate) fn misses_before(&self, sequence: u64) -> bool {
        sequence > self.position + 1
    }

    /// A message arrived after which `pending` more are stored. `first_kept` is the oldest sequence kept, as known when
    /// something is missing before the message.
    pub(crate) fn arrive(&mut self, sequence: u64, pending: u64, first_kept: u64) -> Vec<Step> {
        let mut steps = Vec::new();
        if sequence <= self.position {
            return steps;
        }
        self.skip_to(sequence - 1, first_kept, &mut steps);
        self.position = sequence;
        steps.push(Step::Deliver);
        if pending == 0 && !self.caught_up {
            // what is missing up to the end was deleted, or the message is the end
            let end = self.backlog_end;
            self.skip_to(end, first_kept, &mut steps);
        }
        self.note_end(&mut steps);
        steps
    }

    /// The log holds nothing after the position, and `state` otherwise.
    pub(crate) fn nothing_follows(&mut self, state: &RoomState) -> Vec<Step> {
        let mut steps = Vec::new();
        self.skip_to(state.last_sequence, state.first_sequence, &mut steps);
        self.note_end(&mut steps);
        steps
    }

    fn skip_to(&mut self, to: u64, first_kept: u64, steps: &mut Vec<Step>) {
        if to <= self.position {
            return;
        }
        let reason = match (to < first_kept, self.expires) {
            (false, _) => GapReason::Deleted,
            (true, true) => GapReason::Expired,
            (true, false) => GapReason::Purged,
        };
        steps.push(Step::Gap(Gap { from: self.position + 1, to, reason, dropped: 0 }));
        self.position = to;
    }

    fn note_end(&mut self, steps: &mut Vec<Step>) {
        if !self.caught_up && self.position >= self.backlog_end {
            self.caught_up = true;
            steps.push(Step::CaughtUp(self.position));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn state(first: u64, last: u64, messages: u64) -> RoomState {
        RoomState { first_sequence: first, last_sequence: last, messages, ..RoomState::default() }
    }

    #[test]
    fn an_empty_room_is_caught_up_at_once() {
        let (_, steps) = LogDelivery::open(0, &state(1, 0, 0), false);
        assert_eq!(steps, [Step::CaughtUp(0)]);
    }

    #[test]
    fn a_start_before_the_first_kept_message_is_a_gap() {
        let (delivery, steps) = LogDelivery::open(2, &state(6, 9, 4), true);
        assert_eq!(steps, [Step::Gap(Gap { from: 3, to: 5, reason: GapReason::Expired, dropped: 0 })]);
        assert_eq!(delivery.position(), 5);
    }

    #[test]
    fn a_purged_room_is_one_gap_and_caught_up() {
        let (_, steps) = LogDelivery::open(0, &state(10, 9, 0), false);
        assert_eq!(
            steps,
            [Step::Gap(Gap { from: 1, to: 9, reason: GapReason::Purged, dropped: 0 }), Step::CaughtUp(9)]
        );
    }

    #[test]
    fn a_deleted_end_of_the_backlog_still_ends_it() {
        let (mut delivery, _) = LogDelivery::open(0, &state(1, 3, 2), false);
        assert_eq!(
            delivery.arrive(1, 0, 1),
            [
                Step::Deliver,
                Step::Gap(Gap { from: 2, to: 3, reason: GapReason::Deleted, dropped: 0 }),
                Step::CaughtUp(3)
            ]
        );
    }

    #[derive(Clone, Debug)]
    enum Event {
        Publish,
        Delete(u64),
        Purge(u64),
        Read,
        /// The reader begins again and delivers something that came before.
        Replay(u64),
        LookAtEnd,
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let event = prop_oneof![
            4 => Just(Event::Publish),
            1 => (1..60_u64).prop_map(Event::Delete),
            1 => (1..60_u64).prop_map(Event::Purge),
            6 => Just(Event::Read),
            1 => (1..60_u64).prop_map(Event::Replay),
            1 => Just(Event::LookAtEnd),
        ];
        proptest::collection::vec(event, 0..120)
    }

    /// The log as a set, the reader as an ordered walk over it, and all that the client was told.
    struct Model {
        log: BTreeSet<u64>,
        last: u64,
        delivery: LogDelivery,
        told: BTreeSet<u64>,
        caught_up: usize,
        target: u64,
    }

    impl Model {
        fn first(&self) -> u64 {
            self.log.first().copied().unwrap_or(self.last + 1)
        }

        fn state(&self) -> RoomState {
            state(self.first(), self.last, self.log.len() as u64)
        }

        fn apply(&mut self, arrived: Option<u64>, steps: &[Step]) {
            for step in steps {
                match step {
                    Step::Deliver => {
                        let sequence = arrived.unwrap();
                        assert!(self.told.iter().next_back().is_none_or(|told| *told < sequence), "out of order");
                        assert!(self.told.insert(sequence), "twice");
                    }
                    Step::Gap(gap) => {
                        assert!(gap.from <= gap.to);
                        for sequence in gap.from..=gap.to {
                            assert!(!self.log.contains(&sequence), "a gap names {sequence}, which is stored");
                            assert!(self.told.insert(sequence), "told twice");
                        }
                    }
                    Step::CaughtUp(position) => {
                        self.caught_up += 1;
                        assert!(*position >= self.target);
                    }
                }
            }
        }
    }

    proptest! {
        #[test]
        fn every_sequence_is_told_once_and_in_order(stored in 0..30_u64, start in 0..30_u64, expires: bool, events in events()) {
            let start = start.min(stored);
            let log: BTreeSet<u64> = (1..=stored).collect();
            let (delivery, steps) = LogDelivery::open(start, &state(1, stored, stored), expires);
            let mut model = Model { log, last: stored, delivery, told: (1..=start).collect(), caught_up: 0, target: stored };
            model.apply(None, &steps);
            for event in events {
                match event {
                    Event::Publish => {
                        model.last += 1;
                        model.log.insert(model.last);
                    }
                    Event::Delete(sequence) => {
                        model.log.remove(&sequence);
                    }
                    Event::Purge(sequence) => model.log.retain(|kept| *kept > sequence),
                    Event::Read => {
                        let position = model.delivery.position();
                        if let Some(next) = model.log.range(position + 1..).next().copied() {
                            let pending = model.log.range(next + 1..).count() as u64;
                            let first = model.first();
                            let steps = model.delivery.arrive(next, pending, first);
                            model.apply(Some(next), &steps);
                        }
                    }
                    Event::Replay(sequence) => {
                        if sequence <= model.delivery.position() {
                            prop_assert!(model.delivery.arrive(sequence, 1, 1).is_empty());
                        }
                    }
                    Event::LookAtEnd => {
                        let position = model.delivery.position();
                        if model.log.range(position + 1..).next().is_none() {
                            let state = model.state();
                            let steps = model.delivery.nothing_follows(&state);
                            model.apply(None, &steps);
                        }
                    }
                }
                let position = model.delivery.position();
                prop_assert_eq!(model.told.len() as u64, position, "a sequence up to the position was never told");
            }
            prop_assert!(model.caught_up <= 1);
            prop_assert_eq!(model.caught_up == 1, model.delivery.is_caught_up());
        }
    }
}
