//! Where a subscription is: what was delivered, what is processed, what is acknowledged. Without I/O (U18 to U22).

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;
use unibus::v1::{self, start::At};

use crate::retry::later;

/// When acknowledgements are sent (U20).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct AckBatch {
    pub(super) messages: u32,
    pub(super) time: Duration,
}

/// A message that the program has, or will get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket {
    /// The life of the position in which the message was delivered: it ends when the position moves.
    life: u64,
    sequence: u64,
    pub(super) bytes: u64,
}

#[derive(Debug)]
struct Delivered {
    sequence: u64,
    cursor: String,
    /// Whether its handler has returned.
    is_done: bool,
}

/// The place of one subscription in its room, over all reconnections.
#[derive(Debug, Default)]
pub(super) struct Position {
    is_durable: bool,
    is_ephemeral: bool,
    batch: AckBatch,
    /// Everything up to this sequence was delivered or reported as a gap. `None` before the first `opened`.
    seen: Option<u64>,
    /// The cursor of the last message; of a durable subscriber, of the last one that is processed. Before, that of `opened`.
    cursor: Option<String>,
    life: u64,
    /// Delivered messages of this life after `processed`.
    unprocessed: VecDeque<Delivered>,
    /// The program has processed everything up to this sequence.
    processed: u64,
    /// The newest acknowledgement that was sent on the present stream.
    asked: u64,
    /// The newest acknowledgement that the service has confirmed.
    confirmed: u64,
    /// Messages that were processed after `asked`, and when they are acknowledged at the latest.
    waiting: u32,
    ack_at: Option<Instant>,
    generation: u64,
}

impl Position {
    pub(super) fn new(is_durable: bool, batch: AckBatch) -> Self {
        Self { is_durable, batch, ..Self::default() }
    }

    /// Whether a subscription was open before.
    pub(super) fn was_open(&self) -> bool {
        self.seen.is_some()
    }

    pub(super) fn is_ephemeral(&self) -> bool {
        self.is_ephemeral
    }

    /// Where the next subscription starts, if the program asked to start at `first` (U18).
    ///
    /// The service ignores it while it keeps a position. Where somebody deleted the subscriber, or the whole room, the cursor
    /// says where the client was: that of a deleted log is refused, so that no message of the new one is taken for an old one.
    pub(super) fn start(&self, first: Option<&v1::Start>) -> Option<v1::Start> {
        match &self.cursor {
            Some(cursor) => Some(v1::Start { at: Some(At::AfterCursor(cursor.clone())) }),
            None => first.cloned(),
        }
    }

    /// The subscription is open. Returns whether the subscriber was moved (U22).
    pub(super) fn opened(&mut self, opened: &v1::Opened, is_first_on_stream: bool, now: Instant) -> bool {
        let was_moved = self.is_durable && (!is_first_on_stream || opened.position < self.confirmed);
        // a persisted room without messages begins at 1
        self.is_ephemeral = opened.first_sequence == 0 && opened.last_sequence == 0;
        self.generation = opened.generation;
        if was_moved {
            self.begin_life(opened.position);
        }
        let known = if self.is_durable { self.processed } else { self.seen.unwrap_or_default() };
        if self.cursor.is_none() || known < opened.position {
            self.cursor = Some(opened.cursor.clone()).filter(|cursor| !cursor.is_empty());
        }
        self.seen = self.seen.max(Some(opened.position));
        self.processed = self.processed.max(opened.position);
        self.confirmed = self.confirmed.max(opened.position);
        self.asked = self.confirmed;
        // an acknowledgement of an earlier stream may be lost
        self.ack_at = (self.processed > self.confirmed).then_some(now);
        was_moved
    }

    /// The log was deleted and created again: nothing that is known holds any more (U26).
    pub(super) fn recreated(&mut self) {
        self.begin_life(0);
        self.seen = None;
    }

    fn begin_life(&mut self, position: u64) {
        self.life += 1;
        self.cursor = None;
        self.seen = Some(position);
        self.unprocessed.clear();
        (self.processed, self.asked, self.confirmed) = (position, position, position);
        (self.waiting, self.ack_at) = (0, None);
    }

    /// A message has arrived. `None`: it was delivered already (U22).
    pub(super) fn message(&mut self, message: &v1::Message) -> Option<Ticket> {
        let sequence = message.sequence;
        let ticket = Ticket { life: self.life, sequence, bytes: message.payload.len() as u64 };
        if sequence == 0 {
            return Some(ticket);
        }
        if Some(sequence) <= self.seen {
            return None;
        }
        self.seen = Some(sequence);
        let cursor = message.cursor.clone();
        if self.is_durable {
            self.unprocessed.push_back(Delivered { sequence, cursor, is_done: false });
        } else {
            self.cursor = Some(cursor);
        }
        Some(ticket)
    }

    /// A gap has arrived. Returns the part of it that was not reported already (U18).
    pub(super) fn gap(&mut self, gap: v1::Gap) -> Option<v1::Gap> {
        if gap.to_sequence == 0 {
            return Some(gap);
        }
        let seen = self.seen.unwrap_or_default();
        self.seen = Some(seen.max(gap.to_sequence));
        let from_sequence = gap.from_sequence.max(seen.saturating_add(1));
        (seen < gap.to_sequence).then_some(v1::Gap { from_sequence, ..gap })
    }

    /// Everything up to here was delivered or reported.
    pub(super) fn reached(&mut self, position: u64) {
        self.seen = self.seen.max(Some(position));
    }

    /// The handler of a message has returned (U19).
    pub(super) fn done(&mut self, ticket: Ticket, now: Instant) {
        if ticket.life != self.life {
            return;
        }
        let Ok(at) = self.unprocessed.binary_search_by_key(&ticket.sequence, |message| message.sequence) else {
            return;
        };
        if let Some(message) = self.unprocessed.get_mut(at) {
            message.is_done = true;
        }
        while self.unprocessed.front().is_some_and(|message| message.is_done)
            && let Some(Delivered { sequence, cursor, .. }) = self.unprocessed.pop_front()
        {
            self.processed = self.processed.max(sequence);
            self.cursor = Some(cursor);
            self.waiting += 1;
            self.ack_at.get_or_insert(later(now, self.batch.time));
        }
    }

    /// Whether the service may not know everything that is processed.
    pub(super) fn has_unconfirmed(&self) -> bool {
        self.is_durable && self.processed > self.confirmed
    }

    /// When an acknowledgement is due, if no further message is processed.
    pub(super) fn ack_at(&self) -> Option<Instant> {
        self.ack_at.filter(|_| self.processed > self.asked)
    }

    /// The acknowledgement to send now (U20).
    pub(super) fn due_ack(&self, now: Instant) -> Option<Ack> {
        let is_due = self.waiting >= self.batch.messages || self.ack_at.is_some_and(|at| at <= now);
        (is_due && self.processed > self.asked).then(|| self.ack())
    }

    /// The acknowledgement of everything that is processed.
    pub(super) fn ack(&self) -> Ack {
        Ack { sequence: self.processed, generation: (self.generation != 0).then_some(self.generation) }
    }

    /// This acknowledgement was sent.
    pub(super) fn asked(&mut self, ack: Ack) {
        self.asked = ack.sequence;
        (self.waiting, self.ack_at) = (0, None);
    }

    /// The service has confirmed an acknowledgement. It may be one from before the subscriber was moved back, and then covers
    /// nothing that was asked for since.
    pub(super) fn confirmed(&mut self, position: u64) {
        self.confirmed = self.confirmed.max(position.min(self.asked));
    }

    /// An acknowledgement must be repeated at this time.
    pub(super) fn ask_again(&mut self, at: Instant) {
        self.asked = self.confirmed;
        self.ack_at = Some(at);
    }
}

/// An acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ack {
    pub(super) sequence: u64,
    pub(super) generation: Option<u64>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing)]

    use super::*;

    const BATCH: AckBatch = AckBatch { messages: 3, time: Duration::from_millis(200) };

    fn message(sequence: u64) -> v1::Message {
        v1::Message { sequence, cursor: format!("c{sequence}"), ..v1::Message::default() }
    }

    fn opened(position: u64) -> v1::Opened {
        let cursor = format!("o{position}");
        v1::Opened { position, first_sequence: 1, generation: 7, resumed: true, cursor, ..v1::Opened::default() }
    }

    fn durable(position: u64) -> Position {
        let mut durable = Position::new(true, BATCH);
        assert!(!durable.opened(&opened(position), true, Instant::now()));
        durable
    }

    fn deliver(position: &mut Position, sequences: std::ops::RangeInclusive<u64>) -> Vec<Ticket> {
        sequences.filter_map(|sequence| position.message(&message(sequence))).collect()
    }

    #[test]
    fn an_acknowledgement_covers_no_message_whose_handler_runs() {
        let (mut position, now) = (durable(0), Instant::now());
        let tickets = deliver(&mut position, 1..=5);
        for (done, processed) in [(1, 0), (2, 0), (0, 3), (4, 3), (3, 5)] {
            position.done(tickets[done], now);
            assert_eq!(position.processed, processed);
        }
        assert_eq!(position.due_ack(now), Some(Ack { sequence: 5, generation: Some(7) }));
    }

    #[test]
    fn acknowledgements_are_batched_by_count_and_by_time() {
        let (mut position, now) = (durable(0), Instant::now());
        let tickets = deliver(&mut position, 1..=5);
        position.done(tickets[0], now);
        position.done(tickets[1], now + Duration::from_millis(100));
        assert_eq!(position.due_ack(now + Duration::from_millis(199)), None);
        assert_eq!(position.ack_at(), Some(now + BATCH.time));
        let ack = position.due_ack(now + BATCH.time);
        assert_eq!(ack.map(|ack| ack.sequence), Some(2));
        position.asked(position.ack());
        assert_eq!(position.ack_at(), None);
        for ticket in &tickets[2..] {
            position.done(*ticket, now);
        }
        assert_eq!(position.due_ack(now).map(|ack| ack.sequence), Some(5));
        position.asked(position.ack());
        position.ask_again(now);
        assert_eq!(position.due_ack(now).map(|ack| ack.sequence), Some(5));
        position.asked(position.ack());
        position.confirmed(5);
        assert!(!position.has_unconfirmed());
    }

    #[test]
    fn after_a_reconnection_no_message_is_delivered_twice() {
        let (mut position, now) = (durable(0), Instant::now());
        let tickets = deliver(&mut position, 1..=4);
        position.done(tickets[0], now);
        position.asked(position.ack());
        assert!(!position.opened(&opened(0), true, now));
        assert_eq!(position.due_ack(now).map(|ack| ack.sequence), Some(1), "the lost acknowledgement is sent again");
        assert_eq!(deliver(&mut position, 1..=5).len(), 1);
        position.done(tickets[1], now);
        assert_eq!(position.processed, 2);
    }

    #[test]
    fn a_moved_subscriber_delivers_from_there() {
        let (mut position, now) = (durable(0), Instant::now());
        let tickets = deliver(&mut position, 1..=4);
        position.done(tickets[0], now);
        position.asked(position.ack());
        position.confirmed(1);
        assert!(position.opened(&opened(2), false, now), "a second `opened` on one stream");
        assert_eq!(deliver(&mut position, 3..=4).len(), 2);
        position.done(tickets[1], now);
        assert_eq!(position.processed, 2, "a message of an earlier life counts for nothing");
        position.confirmed(3);
        assert!(position.opened(&opened(1), true, now), "a position before the confirmed one");
        assert_eq!(deliver(&mut position, 2..=4).len(), 3);
    }

    #[test]
    fn a_late_confirmation_counts_for_nothing_after_a_move_back() {
        let (mut position, now) = (durable(0), Instant::now());
        for ticket in deliver(&mut position, 1..=9) {
            position.done(ticket, now);
        }
        position.asked(position.ack());
        position.opened(&opened(2), false, now);
        position.confirmed(9);
        let tickets = deliver(&mut position, 3..=4);
        position.done(tickets[0], now);
        assert!(position.has_unconfirmed(), "3 must be acknowledged");
        position.asked(position.ack());
        position.confirmed(3);
        assert!(!position.has_unconfirmed());
    }

    #[test]
    fn an_unnamed_subscription_resumes_after_the_last_message() {
        let (mut position, now) = (Position::new(false, BATCH), Instant::now());
        let first = v1::Start { at: Some(At::New(())) };
        let start = |position: &Position| position.start(Some(&first)).and_then(|start| start.at);
        assert_eq!(start(&position), Some(At::New(())));
        position.opened(&opened(5), true, now);
        assert_eq!(start(&position), Some(At::AfterCursor("o5".to_owned())));
        position.reached(7);
        deliver(&mut position, 8..=8);
        assert_eq!(start(&position), Some(At::AfterCursor("c8".to_owned())));
        position.recreated();
        assert_eq!(start(&position), Some(At::New(())));
        position.opened(&v1::Opened::default(), true, now);
        assert_eq!(start(&position), Some(At::New(())), "an ephemeral room has no positions");
    }

    #[test]
    fn a_durable_subscriber_that_was_deleted_goes_on_after_the_last_processed_message() {
        let (mut position, now) = (durable(5), Instant::now());
        let start = |position: &Position| position.start(None).and_then(|start| start.at);
        let tickets = deliver(&mut position, 6..=8);
        position.done(tickets[0], now);
        assert_eq!(start(&position), Some(At::AfterCursor("c6".to_owned())), "7 and 8 may never be processed");
        assert!(!position.opened(&v1::Opened { resumed: false, ..opened(6) }, true, now), "the log is the same");
        assert_eq!(deliver(&mut position, 7..=9).len(), 1);
    }

    #[test]
    fn a_durable_subscriber_without_a_message_asks_for_the_log_that_was_opened() {
        let (mut position, now) = (durable(5), Instant::now());
        let at = |position: &Position| position.start(None).and_then(|start| start.at);
        assert_eq!(at(&position), Some(At::AfterCursor("o5".to_owned())));
        assert!(!position.opened(&opened(5), true, now), "the service knows the subscriber");
        assert!(!position.opened(&opened(9), true, now), "it was moved forwards meanwhile");
        assert_eq!(at(&position), Some(At::AfterCursor("o9".to_owned())));
        position.recreated();
        assert_eq!(at(&position), None);
        assert!(!position.opened(&v1::Opened { resumed: false, ..opened(0) }, true, now));
        assert_eq!(deliver(&mut position, 1..=8).len(), 8);
    }

    #[test]
    fn sequences_have_64_bits() {
        let (mut position, now) = (durable(u64::MAX - 3), Instant::now());
        let tickets = deliver(&mut position, u64::MAX - 2..=u64::MAX);
        for ticket in tickets {
            position.done(ticket, now);
        }
        assert_eq!(position.ack().sequence, u64::MAX);
        let gap = v1::Gap { from_sequence: u64::MAX, to_sequence: u64::MAX, ..v1::Gap::default() };
        assert_eq!(position.gap(gap), None);
    }

    #[test]
    fn a_gap_is_reported_once() {
        let mut position = durable(2);
        let gap = |from_sequence, to_sequence| v1::Gap { from_sequence, to_sequence, ..v1::Gap::default() };
        for (arrived, reported) in [
            (gap(3, 5), Some(gap(3, 5))),
            (gap(3, 5), None),
            (gap(3, 6), Some(gap(6, 6))),
            (gap(0, 0), Some(gap(0, 0))),
        ] {
            assert_eq!(position.gap(arrived), reported);
        }
        assert_eq!(deliver(&mut position, 6..=7).len(), 1);
    }
}
