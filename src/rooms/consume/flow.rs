//! The credit of a room's subscription, and whether it must close.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

use crate::{delivery::Slice, domain::SubscriberId, rooms::subscribe::SubscribeOptions};

/// The messages and bytes that may be sent before the client gives more credit. `None`: no bound.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Credit {
    messages: Option<u64>,
    /// Below zero if the last message was larger than the rest. The next credit pays that first.
    payload_bytes: Option<i64>,
}

impl Credit {
    /// A credit of `messages` messages and `payload_bytes` bytes of payload. 0: no bound.
    pub(crate) fn new(messages: u32, payload_bytes: u64) -> Self {
        Self {
            messages: (messages > 0).then_some(messages.into()),
            payload_bytes: (payload_bytes > 0).then(|| i64::try_from(payload_bytes).unwrap_or(i64::MAX)),
        }
    }

    /// Adds to the bounded parts.
    fn add(&mut self, messages: u32, payload_bytes: u64) {
        self.messages = self.messages.map(|left| left.saturating_add(messages.into()));
        let added = i64::try_from(payload_bytes).unwrap_or(i64::MAX);
        self.payload_bytes = self.payload_bytes.map(|left| left.saturating_add(added));
    }

    fn is_spent(&self) -> bool {
        self.messages == Some(0) || self.payload_bytes.is_some_and(|left| left <= 0)
    }

    /// Charges the messages of `slice` that may be sent: at most `encoded_bytes` encoded bytes, but at least one
    /// message. Returns the rest of `slice`.
    fn spend(&mut self, slice: &mut Slice, encoded_bytes: usize) -> Option<Slice> {
        let messages = self.messages.unwrap_or(u64::MAX);
        let payload_bytes = self.payload_bytes.map_or(u64::MAX, |left| u64::try_from(left).unwrap_or_default());
        let rest = slice.split_off_within(encoded_bytes, messages, payload_bytes);
        self.messages = self.messages.map(|left| left.saturating_sub(slice.messages()));
        let sent = i64::try_from(slice.payload_bytes()).unwrap_or(i64::MAX);
        self.payload_bytes = self.payload_bytes.map(|left| left.saturating_sub(sent));
        rest
    }
}

/// Whether the client closes the subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Closing {
    No,
    /// It closes when it ends by itself, or its credit is spent.
    NoMoreCredit,
    /// It closes when the running acknowledgements have finished. No message is sent any more.
    Soon,
    Now,
}

/// The state of an open room that both sides share.
#[derive(Debug)]
pub(super) struct Flow {
    pub subscriber: Option<SubscriberId>,
    pub until_caught_up: bool,
    state: watch::Sender<(Credit, Closing)>,
    /// The greatest sequence that was reported to the client.
    reported: AtomicU64,
}

impl Flow {
    pub(super) fn new(options: &SubscribeOptions, credit: Credit) -> Self {
        Self {
            subscriber: options.subscriber.clone(),
            until_caught_up: options.until_caught_up,
            state: watch::Sender::new((credit, Closing::No)),
            reported: AtomicU64::new(0),
        }
    }

    pub(super) fn add(&self, messages: u32, payload_bytes: u64) {
        self.state.send_modify(|(credit, _)| credit.add(messages, payload_bytes));
    }

    pub(super) fn close(&self) {
        self.advance(Closing::Now);
    }

    /// Stops sending messages. [`Self::close`] closes the subscription.
    pub(super) fn stop(&self) {
        self.advance(Closing::Soon);
    }

    pub(super) fn no_more_credit(&self) {
        self.advance(Closing::NoMoreCredit);
    }

    /// Returns true if the client closed the room. Its further commands are refused.
    pub(super) fn is_closing(&self) -> bool {
        self.state.borrow().1 >= Closing::Soon
    }

    fn advance(&self, to: Closing) {
        self.state.send_modify(|(_, closing)| *closing = (*closing).max(to));
    }

    /// Waits until the subscription must close at once.
    pub(super) async fn closed(&self) {
        // the sender lives in this flow, so this never fails
        let _ = self.state.subscribe().wait_for(|(_, closing)| *closing == Closing::Now).await;
    }

    /// Waits until a message may be sent: true. False: no message may be sent any more.
    pub(super) async fn may_send(&self) -> bool {
        let decided = |(credit, closing): &(Credit, Closing)| match closing {
            Closing::No => !credit.is_spent(),
            Closing::NoMoreCredit | Closing::Now => true,
            Closing::Soon => false,
        };
        let mut state = self.state.subscribe();
        state.wait_for(decided).await.is_ok_and(|state| !state.0.is_spent() && state.1 != Closing::Now)
    }

    /// See [`Credit::spend`].
    pub(super) fn spend(&self, slice: &mut Slice, encoded_bytes: usize) -> Option<Slice> {
        let mut rest = None;
        self.state.send_if_modified(|(credit, _)| {
            rest = credit.spend(slice, encoded_bytes);
            false
        });
        rest
    }

    pub(super) fn record_reported(&self, sequence: u64) {
        self.reported.fetch_max(sequence, Ordering::Relaxed);
    }

    /// Returns true if the client knows that the room has a message at or after this sequence.
    pub(super) fn was_reported(&self, sequence: u64) -> bool {
        sequence <= self.reported.load(Ordering::Relaxed)
    }
}
