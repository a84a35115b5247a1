//! How much of a room's subscription may be sent, and whether it is to be closed.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

use crate::{delivery::Slice, domain::SubscriberId, rooms::subscribe::SubscribeOptions};

/// What may be sent before more credit is given. `None`: no bound.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Credit {
    messages: Option<u64>,
    /// Below zero when the last message was larger than what was left; the next credit pays that first.
    payload_bytes: Option<i64>,
}

impl Credit {
    /// So many messages and bytes of payload; 0: no bound.
    pub(crate) fn new(messages: u32, payload_bytes: u64) -> Self {
        Self {
            messages: (messages > 0).then_some(messages.into()),
            payload_bytes: (payload_bytes > 0).then(|| i64::try_from(payload_bytes).unwrap_or(i64::MAX)),
        }
    }

    /// More of what is bounded.
    fn add(&mut self, messages: u32, payload_bytes: u64) {
        self.messages = self.messages.map(|left| left.saturating_add(messages.into()));
        let added = i64::try_from(payload_bytes).unwrap_or(i64::MAX);
        self.payload_bytes = self.payload_bytes.map(|left| left.saturating_add(added));
    }

    fn is_spent(&self) -> bool {
        self.messages == Some(0) || self.payload_bytes.is_some_and(|left| left <= 0)
    }

    /// Keeps what may be sent, encoded in so many bytes but at least one message, and pays for it; the rest.
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

/// Whether a subscription is to be closed by its client's wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Closing {
    No,
    /// When it ends by itself, or its credit is spent.
    NoMoreCredit,
    /// When the acknowledgements under way are through; no message is sent any more.
    Soon,
    Now,
}

/// What both sides know of an open room.
#[derive(Debug)]
pub(super) struct Flow {
    pub subscriber: Option<SubscriberId>,
    pub until_caught_up: bool,
    state: watch::Sender<(Credit, Closing)>,
    /// The greatest sequence that the client was told of.
    told: AtomicU64,
}

impl Flow {
    pub(super) fn new(options: &SubscribeOptions, credit: Credit) -> Self {
        Self {
            subscriber: options.subscriber.clone(),
            until_caught_up: options.until_caught_up,
            state: watch::Sender::new((credit, Closing::No)),
            told: AtomicU64::new(0),
        }
    }

    pub(super) fn add(&self, messages: u32, payload_bytes: u64) {
        self.state.send_modify(|(credit, _)| credit.add(messages, payload_bytes));
    }

    pub(super) fn close(&self) {
        self.advance(Closing::Now);
    }

    /// Sends no further message. The subscription is closed by [`Self::close`].
    pub(super) fn stop(&self) {
        self.advance(Closing::Soon);
    }

    pub(super) fn no_more_credit(&self) {
        self.advance(Closing::NoMoreCredit);
    }

    /// Whether the client closed it: its further commands do not count.
    pub(super) fn is_closing(&self) -> bool {
        self.state.borrow().1 >= Closing::Soon
    }

    fn advance(&self, to: Closing) {
        self.state.send_modify(|(_, closing)| *closing = (*closing).max(to));
    }

    /// Returns when the subscription is to be closed at once.
    pub(super) async fn closed(&self) {
        // the sender lives in the flow that is held here
        let _ = self.state.subscribe().wait_for(|(_, closing)| *closing == Closing::Now).await;
    }

    /// Returns when something may be sent: true; or when nothing ever will: false.
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

    pub(super) fn tell(&self, sequence: u64) {
        self.told.fetch_max(sequence, Ordering::Relaxed);
    }

    /// Whether the client was told that the room holds something at or after this sequence.
    pub(super) fn was_told(&self, sequence: u64) -> bool {
        sequence <= self.told.load(Ordering::Relaxed)
    }
}
