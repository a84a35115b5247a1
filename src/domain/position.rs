//! Positions in the log of a room: the start of a subscription, the anchor of a page, and missing messages.

use std::{collections::BTreeSet, sync::Arc, time::SystemTime};

use super::{Cursor, Message, RoomState};

/// The start position of a subscription.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// `All` in a persisted room, `New` in an ephemeral room.
    #[default]
    Default,
    /// From the oldest stored message.
    All,
    /// Messages that are stored from now on.
    New,
    /// After this sequence.
    AfterSequence(u64),
    /// After the message with this cursor.
    AfterCursor(Cursor),
    /// From the first message that was stored at or after this time.
    Since(SystemTime),
    /// This number of newest messages.
    Last(u64),
}

/// How the position of a durable subscriber moves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AckMode {
    /// The client moves it.
    #[default]
    Explicit,
    /// The service moves it when the HTTP/2 stream of the client has accepted a message.
    Auto,
}

/// An acknowledgement of a durable subscriber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acknowledgement {
    /// Everything up to this sequence is processed.
    pub sequence: u64,
    /// The generation of the subscription that delivered the messages. The acknowledgement is refused if the subscriber
    /// has a newer one. `None`: it always counts.
    pub generation: Option<u64>,
}

/// The anchor of a history page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Anchor {
    /// The newest messages.
    #[default]
    Newest,
    /// The newest messages before this sequence.
    BeforeSequence(u64),
    /// The newest messages before this cursor.
    BeforeCursor(Cursor),
    /// The oldest messages after this sequence.
    AfterSequence(u64),
    /// The oldest messages after this cursor.
    AfterCursor(Cursor),
    /// The oldest messages in `[start, end)`.
    TimeRange(Option<SystemTime>, Option<SystemTime>),
}

/// The end of a page of subscribers, as the next page needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscriberToken {
    /// The index of the page's last subscriber in JetStream's list of consumers.
    pub offset: usize,
    /// The NATS name of that subscriber.
    pub nats_name: String,
}

/// A requested history page, with its anchor resolved to sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageRequest {
    /// The newest messages below `end` (exclusive).
    Before {
        /// Exclusive.
        end: u64,
    },
    /// The oldest messages from `start` on (inclusive).
    From {
        /// Inclusive.
        start: u64,
    },
    /// The oldest messages from one time to another.
    Between {
        /// Inclusive.
        start: SystemTime,
        /// Exclusive.
        end: Option<SystemTime>,
    },
}

/// A page of history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Ascending by sequence.
    pub messages: Vec<Message>,
    /// Older messages exist.
    pub has_older: bool,
    /// Newer messages exist.
    pub has_newer: bool,
    /// All messages before the page have a smaller sequence than this one.
    pub older_than: u64,
    /// All messages after the page have a greater sequence than this one.
    pub newer_than: u64,
    /// The state of the log when the page was read; `None` if the room has no log.
    pub state: Option<RoomState>,
}

/// Why messages are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GapReason {
    /// Retention removed them.
    Expired,
    /// A purge removed them.
    Purged,
    /// They were deleted between messages that exist.
    Deleted,
    /// In an ephemeral room: the reader was too slow.
    SlowReader,
    /// In an ephemeral room: the NATS connection was lost.
    Disconnected,
}

/// Messages that will not be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The first missing sequence; 0 in an ephemeral room.
    pub from: u64,
    /// The last missing sequence, inclusive; 0 in an ephemeral room.
    pub to: u64,
    /// Why they are missing.
    pub reason: GapReason,
    /// In an ephemeral room: the number of dropped messages.
    pub dropped: u64,
}

/// Removed messages of one epoch of a log. Memory or a lagging replica may still have them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removals {
    /// A purge removed all messages up to this sequence.
    pub purged: u64,
    /// Messages that were deleted one by one; `None` if none of them matters.
    pub deleted: Option<Arc<BTreeSet<u64>>>,
}

impl Removals {
    /// Returns why the message was removed; `None` if it is not known to be removed.
    #[must_use]
    pub fn reason(&self, sequence: u64) -> Option<GapReason> {
        if sequence <= self.purged {
            Some(GapReason::Purged)
        } else if self.deleted.as_ref().is_some_and(|deleted| deleted.contains(&sequence)) {
            Some(GapReason::Deleted)
        } else {
            None
        }
    }
}
