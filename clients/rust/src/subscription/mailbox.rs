//! What lies between the connection of a subscription and the program.

use std::{
    collections::VecDeque,
    mem,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;
use unibus::v1;

use super::{
    Event,
    position::{Position, Ticket},
};
use crate::error::Result;

/// What the program gets, in order.
#[derive(Debug)]
pub(super) enum Item {
    Message(v1::Message, Ticket),
    Event(Event),
}

/// Read-ahead, in messages and in bytes of payload (U24).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Credit {
    pub(super) messages: u32,
    pub(super) bytes: u64,
}

/// Shared by the task of a subscription and by the program.
pub(super) struct Mailbox {
    state: Mutex<State>,
    /// Wakes the task when the program has done something.
    pub(super) work: Notify,
    /// The subscription shall end in an orderly way.
    pub(super) closing: CancellationToken,
    /// The program has dropped the subscription.
    pub(super) dropped: CancellationToken,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) position: Position,
    items: VecDeque<Item>,
    /// Messages of the program, and of the queue.
    held: Credit,
    /// What the service does not know yet that the program has taken.
    owed: Credit,
    /// Messages that the program works on.
    busy: usize,
    is_closing: bool,
    end: Option<Result<()>>,
    waker: Option<Waker>,
}

impl Mailbox {
    pub(super) fn new(position: Position, closing: CancellationToken) -> Self {
        Self {
            state: Mutex::new(State { position, ..State::default() }),
            work: Notify::new(),
            closing,
            dropped: CancellationToken::new(),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next item for the program; `None` at the end of the subscription, once.
    pub(super) fn poll_next(&self, context: &mut Context<'_>) -> Poll<std::result::Result<Item, Result<()>>> {
        let mut state = self.state();
        if let Some(item) = state.items.pop_front() {
            state.busy += usize::from(matches!(item, Item::Message(..)));
            if state.items.is_empty() {
                self.work.notify_one();
            }
            return Poll::Ready(Ok(item));
        }
        if let Some(end) = state.end.clone() {
            return Poll::Ready(Err(end));
        }
        state.waker = Some(context.waker().clone());
        Poll::Pending
    }

    /// The program has processed a message, or a handler has failed.
    pub(super) fn returned(&self, ticket: Ticket, is_processed: bool) {
        let mut state = self.state();
        state.busy = state.busy.saturating_sub(1);
        state.give_back(ticket.bytes);
        if is_processed {
            state.position.done(ticket, Instant::now());
        }
        self.work.notify_one();
    }

    /// The subscription has ended. The first end counts.
    pub(super) fn end(&self, end: Result<()>) {
        let mut state = self.state();
        state.end.get_or_insert(end);
        state.wake();
    }
}

impl State {
    /// Gives a message to the program, unless it had it already.
    pub(super) fn message(&mut self, message: v1::Message) {
        let bytes = message.payload.len() as u64;
        self.held.messages += 1;
        self.held.bytes += bytes;
        match self.position.message(&message).filter(|_| !self.is_closing) {
            Some(ticket) => {
                self.items.push_back(Item::Message(message, ticket));
                self.wake();
            }
            None => self.give_back(bytes),
        }
    }

    pub(super) fn event(&mut self, event: Event) {
        self.items.push_back(Item::Event(event));
        self.wake();
    }

    /// Takes back the messages that the program has not begun.
    pub(super) fn take_back(&mut self) {
        for item in mem::take(&mut self.items) {
            match item {
                Item::Message(_, ticket) => self.give_back(ticket.bytes),
                Item::Event(_) => self.items.push_back(item),
            }
        }
    }

    /// The program gets no further message.
    pub(super) fn close(&mut self) {
        self.is_closing = true;
        self.take_back();
    }

    /// Whether the program works on a message.
    pub(super) fn is_busy(&self) -> bool {
        self.busy > 0
    }

    /// Whether the program has processed everything.
    pub(super) fn is_empty(&self) -> bool {
        self.busy == 0 && self.items.is_empty()
    }

    /// Items in the queue.
    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    /// The credit with which a stream begins. It is at least 1, since 0 would mean no bound.
    pub(super) fn first_credit(&mut self, whole: Credit) -> Credit {
        self.owed = Credit::default();
        Credit {
            messages: whole.messages.saturating_sub(self.held.messages).max(1),
            bytes: whole.bytes.saturating_sub(self.held.bytes).max(1),
        }
    }

    /// The credit to give back, as soon as it is worth a command.
    pub(super) fn due_credit(&mut self, whole: Credit) -> Option<Credit> {
        let is_worth = self.owed.messages >= (whole.messages / 4).max(1) || self.owed.bytes >= (whole.bytes / 4).max(1);
        is_worth.then_some(self.owed)
    }

    pub(super) fn credited(&mut self) {
        self.owed = Credit::default();
    }

    fn give_back(&mut self, bytes: u64) {
        self.held.messages = self.held.messages.saturating_sub(1);
        self.held.bytes = self.held.bytes.saturating_sub(bytes);
        self.owed.messages += 1;
        self.owed.bytes += bytes;
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::task::noop_waker;

    use super::{super::position::AckBatch, *};

    const WHOLE: Credit = Credit { messages: 4, bytes: 100 };

    fn mailbox() -> Mailbox {
        let batch = AckBatch { messages: 100, time: Duration::ZERO };
        let mailbox = Mailbox::new(Position::new(true, batch), CancellationToken::new());
        for sequence in 1..=3 {
            let payload = vec![0; 10].into();
            mailbox.state().message(v1::Message { sequence, payload, ..v1::Message::default() });
        }
        mailbox
    }

    fn next(mailbox: &Mailbox) -> Option<Ticket> {
        match mailbox.poll_next(&mut Context::from_waker(&noop_waker())) {
            Poll::Ready(Ok(Item::Message(_, ticket))) => Some(ticket),
            _ => None,
        }
    }

    #[test]
    fn credit_comes_back_when_messages_are_processed_or_were_known() {
        let mailbox = mailbox();
        assert_eq!(mailbox.state().due_credit(WHOLE), None);
        let Some(ticket) = next(&mailbox) else { unreachable!() };
        mailbox.returned(ticket, true);
        assert_eq!(mailbox.state().due_credit(WHOLE), Some(Credit { messages: 1, bytes: 10 }));
        mailbox.state().credited();
        mailbox.state().message(v1::Message { sequence: 2, ..v1::Message::default() });
        assert_eq!(mailbox.state().due_credit(WHOLE), Some(Credit { messages: 1, bytes: 0 }));
        assert_eq!(mailbox.state().first_credit(WHOLE), Credit { messages: 2, bytes: 80 });
    }

    #[test]
    fn after_a_close_the_program_gets_no_message() {
        let mailbox = mailbox();
        let Some(ticket) = next(&mailbox) else { unreachable!() };
        mailbox.state().close();
        mailbox.state().message(v1::Message { sequence: 4, ..v1::Message::default() });
        assert!(next(&mailbox).is_none() && mailbox.state().is_busy());
        mailbox.returned(ticket, true);
        assert!(mailbox.state().is_empty() && mailbox.state().position.has_unconfirmed());
        assert_eq!(mailbox.state().position.ack().sequence, 1);
    }
}
