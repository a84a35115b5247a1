//! The order of one room's messages around lost answers, delays and reconnections, without I/O: answers and time are
//! arguments.
//!
//! Plain publishes are pipelined. Their answers arrive in the order in which they were sent. A message that no stream
//! took is held. Then nothing is sent until the answers of all later messages are known. The held messages are then
//! sent again before all others. A held message is given up if a later message of the same call was stored, or may
//! have been stored, because it would be out of order.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

/// One call that publishes: its messages to a room are stored in the order in which they were sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PublishOrder(pub(super) u64);

/// First wait before held messages are sent again. It doubles up to [`RETRY_DELAY_MAX`].
const RETRY_DELAY: Duration = Duration::from_millis(25);
const RETRY_DELAY_MAX: Duration = Duration::from_millis(400);

/// A message that has an order.
pub(super) trait Ordered {
    /// The call whose messages stay in order. `None` for a message without an order.
    fn order(&self) -> Option<PublishOrder>;
    fn bytes(&self) -> usize;
    /// The latest time to send the message.
    fn send_by(&self) -> Instant;
}

/// The answer to a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PublishAnswer {
    Stored,
    Refused,
    /// No stream took the message: it is not stored.
    NobodyListens,
    /// The answer is lost: the message may be stored.
    Lost,
}

/// The next step of sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NextSend {
    /// A message may be sent.
    Send,
    /// Answers must be known first.
    AwaitAnswers,
    /// The held messages must be sent again first.
    Recover,
}

/// The result for the oldest message that was sent.
#[derive(Debug)]
pub(super) enum Settled<'a, T, A> {
    /// The message is held, and will be sent again.
    Held(&'a T),
    /// The message has its outcome. The `given_up` messages are not stored and never will be.
    Done { message: T, awaited: A, given_up: Vec<T> },
}

#[derive(Debug)]
struct Sent<T, A> {
    message: T,
    awaited: A,
    /// An answer that has not come by this time is lost.
    deadline: Instant,
}

/// The messages of one room that were sent and have no outcome yet. `A` is the awaited answer.
#[derive(Debug)]
pub(super) struct InFlight<T, A> {
    sent: VecDeque<Sent<T, A>>,
    bytes: usize,
    /// In the order in which they were sent.
    held: Vec<T>,
    retry_delay: Duration,
}

impl<T: Ordered, A> InFlight<T, A> {
    pub(super) fn new() -> Self {
        Self { sent: VecDeque::new(), bytes: 0, held: Vec::new(), retry_delay: RETRY_DELAY }
    }

    pub(super) fn next_send(&self) -> NextSend {
        match (self.held.is_empty(), self.sent.is_empty()) {
            (true, _) => NextSend::Send,
            (false, false) => NextSend::AwaitAnswers,
            (false, true) => NextSend::Recover,
        }
    }

    /// Number of messages whose answers are awaited.
    pub(super) fn count(&self) -> usize {
        self.sent.len()
    }

    /// Bytes of the messages whose answers are awaited.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Records that a message was sent.
    pub(super) fn sent(&mut self, message: T, awaited: A, deadline: Instant) {
        self.bytes += message.bytes();
        self.sent.push_back(Sent { message, awaited, deadline });
    }

    /// The awaited answer of the oldest message.
    pub(super) fn oldest(&mut self) -> Option<&mut A> {
        self.sent.front_mut().map(|sent| &mut sent.awaited)
    }

    /// Applies the answer of the oldest message. `None` if no message was sent.
    pub(super) fn settle(&mut self, answer: PublishAnswer) -> Option<Settled<'_, T, A>> {
        let Sent { message, awaited, .. } = self.sent.pop_front()?;
        self.bytes -= message.bytes();
        let given_up = match answer {
            PublishAnswer::NobodyListens => {
                self.hold(message);
                return self.held.last().map(Settled::Held);
            }
            PublishAnswer::Refused => Vec::new(),
            PublishAnswer::Stored => {
                self.stream_answers();
                self.give_up(message.order())
            }
            PublishAnswer::Lost => self.give_up(message.order()),
        };
        Some(Settled::Done { message, awaited, given_up })
    }

    /// Holds a message that no stream took.
    pub(super) fn hold(&mut self, message: T) {
        self.held.push(message);
    }

    /// Records that the stream answers: the retry delay restarts at [`RETRY_DELAY`].
    pub(super) fn stream_answers(&mut self) {
        self.retry_delay = RETRY_DELAY;
    }

    fn give_up(&mut self, order: Option<PublishOrder>) -> Vec<T> {
        if self.held.is_empty() || order.is_none() {
            return Vec::new();
        }
        self.held.extract_if(.., |message| message.order() == order).collect()
    }

    /// Records a reconnection: answers to messages that were sent before are lost at `by`.
    pub(super) fn reconnected(&mut self, by: Instant) {
        self.sent.iter_mut().for_each(|sent| sent.deadline = sent.deadline.min(by));
    }

    /// Returns true if the oldest message's answer is lost.
    pub(super) fn is_lost(&self, now: Instant) -> bool {
        self.sent.front().is_some_and(|sent| sent.deadline <= now)
    }

    /// Gives up the held messages that can no longer be sent in time.
    pub(super) fn give_up_late(&mut self, now: Instant) -> Vec<T> {
        self.held.extract_if(.., |message| message.send_by() <= now).collect()
    }

    /// The next time at which an answer is lost, or a held message is too late.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let sent = self.sent.front().map(|sent| sent.deadline);
        self.held.iter().map(T::send_by).chain(sent).min()
    }

    /// Returns the delay before the held messages are sent again. It doubles at each call.
    pub(super) fn back_off(&mut self) -> Duration {
        let delay = self.retry_delay;
        self.retry_delay = (self.retry_delay * 2).min(RETRY_DELAY_MAX);
        delay
    }

    /// Takes the held messages, which must be sent before all others. Also returns those that would be too late after
    /// another delay; they are given up.
    pub(super) fn recover(&mut self, now: Instant) -> (Vec<T>, Vec<T>) {
        let late = self.give_up_late(now + self.retry_delay);
        (std::mem::take(&mut self.held), late)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Message {
        number: usize,
        call: Option<u64>,
        send_by: Instant,
    }

    impl Ordered for Message {
        fn order(&self) -> Option<PublishOrder> {
            self.call.map(PublishOrder)
        }

        fn bytes(&self) -> usize {
            self.number + 1
        }

        fn send_by(&self) -> Instant {
            self.send_by
        }
    }

    /// An event for the oldest message, or for all of them.
    #[derive(Clone, Copy, Debug)]
    enum Event {
        Send,
        Stored,
        Refused,
        NobodyListens,
        LostAndStored,
        LostAndNotStored,
        Reconnected,
        Passes(u64),
        Recovers,
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            6 => Just(Event::Send),
            4 => Just(Event::Stored),
            1 => Just(Event::Refused),
            3 => Just(Event::NobodyListens),
            1 => Just(Event::LostAndStored),
            1 => Just(Event::LostAndNotStored),
            1 => Just(Event::Reconnected),
            1 => (1_u64..700).prop_map(Event::Passes),
            3 => Just(Event::Recovers),
        ]
    }

    /// The queue, the log and the outcomes of the calls.
    struct Model {
        queue: VecDeque<Message>,
        in_flight: InFlight<Message, ()>,
        /// The messages of the log, in order.
        log: Vec<Message>,
        outcomes: HashMap<usize, &'static str>,
        now: Instant,
    }

    impl Model {
        fn tell(&mut self, message: Message, outcome: &'static str) {
            assert_eq!(self.outcomes.insert(message.number, outcome), None, "{message:?} has a second outcome");
        }

        fn answer(&mut self, answer: PublishAnswer, is_stored: bool) {
            let Some(oldest) = self.in_flight.sent.front().map(|sent| sent.message) else { return };
            if is_stored {
                self.log.push(oldest);
            }
            if let Some(Settled::Done { message, given_up, .. }) = self.in_flight.settle(answer) {
                self.tell(message, if answer == PublishAnswer::Stored { "stored" } else { "not stored, or unknown" });
                for message in given_up {
                    self.tell(message, "given up");
                }
            }
        }

        fn step(&mut self, event: Event) {
            match event {
                Event::Send => {
                    if self.in_flight.next_send() == NextSend::Send
                        && let Some(message) = self.queue.pop_front()
                    {
                        let deadline = message.send_by + Duration::from_millis(200);
                        self.in_flight.sent(message, (), deadline);
                    }
                }
                Event::Stored => self.answer(PublishAnswer::Stored, true),
                Event::Refused => self.answer(PublishAnswer::Refused, false),
                Event::NobodyListens => self.answer(PublishAnswer::NobodyListens, false),
                Event::LostAndStored => self.answer(PublishAnswer::Lost, true),
                Event::LostAndNotStored => self.answer(PublishAnswer::Lost, false),
                Event::Reconnected => self.in_flight.reconnected(self.now + Duration::from_millis(100)),
                Event::Passes(millis) => {
                    self.now += Duration::from_millis(millis);
                    while self.in_flight.is_lost(self.now) {
                        self.answer(PublishAnswer::Lost, false);
                    }
                    for message in self.in_flight.give_up_late(self.now) {
                        self.tell(message, "given up");
                    }
                }
                Event::Recovers => {
                    if self.in_flight.next_send() != NextSend::Recover {
                        return;
                    }
                    self.now += self.in_flight.back_off();
                    let (held, late) = self.in_flight.recover(self.now);
                    for message in late {
                        self.tell(message, "given up");
                    }
                    for message in held.into_iter().rev() {
                        self.queue.push_front(message);
                    }
                }
            }
        }
    }

    proptest! {
        #[test]
        fn the_log_has_each_calls_messages_in_order_and_each_has_one_outcome(
            calls in prop::collection::vec(prop::option::weighted(0.9, 0_u64..3), 1..30),
            events in prop::collection::vec(event(), 0..200),
        ) {
            let now = Instant::now();
            let message = |(number, call): (usize, &Option<u64>)| {
                Message { number, call: *call, send_by: now + Duration::from_millis(400 + 20 * number as u64) }
            };
            let queue: VecDeque<_> = calls.iter().enumerate().map(message).collect();
            let mut model = Model {
                queue, in_flight: InFlight::new(), log: Vec::new(), outcomes: HashMap::new(), now,
            };
            for event in events {
                model.step(event);
            }
            // until nothing is left
            for _ in 0..1000 {
                let event = match model.in_flight.next_send() {
                    NextSend::Recover => Event::Recovers,
                    NextSend::Send if !model.queue.is_empty() => Event::Send,
                    NextSend::Send | NextSend::AwaitAnswers => Event::Stored,
                };
                model.step(event);
            }
            prop_assert!(model.queue.is_empty());
            prop_assert_eq!(model.in_flight.bytes(), 0);
            prop_assert_eq!(model.outcomes.len(), calls.len());
            let mut newest = HashMap::new();
            for message in &model.log {
                let Some(call) = message.call else { continue };
                let before = newest.insert(call, message.number);
                prop_assert!(before.is_none_or(|before| before < message.number), "{:?}", model.log);
            }
            for message in &model.log {
                prop_assert_ne!(model.outcomes.get(&message.number), Some(&"given up"));
            }
        }
    }
}
