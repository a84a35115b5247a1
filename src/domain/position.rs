//! Positions in a room's log: where a subscription starts, which page is wanted, what is missing.

use std::{collections::BTreeSet, sync::Arc, time::SystemTime};

use super::{Cursor, Message, RoomState};

/// Where a subscription starts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// `All` for a persisted room, `New` for an ephemeral one.
    #[default]
    Default,
    /// The oldest message kept.
    All,
    /// What is stored from now on.
    New,
    /// After a sequence.
    AfterSequence(u64),
    /// After the message of a cursor.
    AfterCursor(Cursor),
    /// The first message stored at or after a time.
    Since(SystemTime),
    /// The newest so many.
    Last(u64),
}

/// Who moves a durable subscriber's position.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AckMode {
    /// The client.
    #[default]
    Explicit,
    /// The service, once the client's HTTP/2 stream has taken a message.
    Auto,
}

/// Which page of history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Anchor {
    /// The newest messages.
    #[default]
    Newest,
    /// The newest before a sequence.
    BeforeSequence(u64),
    /// The newest before a cursor.
    BeforeCursor(Cursor),
    /// The oldest after a sequence.
    AfterSequence(u64),
    /// The oldest after a cursor.
    AfterCursor(Cursor),
    /// The oldest in `[start, end)`.
    TimeRange(Option<SystemTime>, Option<SystemTime>),
}

/// A page of history that is wanted, its anchor resolved to sequences.
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
    /// The oldest messages from a time on, up to a time.
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
    /// What comes before the page has a smaller sequence than this.
    pub older_than: u64,
    /// What comes after the page has a greater sequence than this.
    pub newer_than: u64,
    /// What the room held when the page was read; `None` if it has no log.
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
    /// Ephemeral room: the reader was too slow.
    SlowReader,
    /// Ephemeral room: the NATS connection was lost.
    Disconnected,
}

/// Messages that will not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// First missing sequence; 0 in an ephemeral room.
    pub from: u64,
    /// Last missing sequence, inclusive; 0 in an ephemeral room.
    pub to: u64,
    /// Why.
    pub reason: GapReason,
    /// Ephemeral room: how many were dropped.
    pub dropped: u64,
}

/// What is known to be removed of one life of a room's log, although memory or a lagging replica may still have it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removals {
    /// Everything up to this sequence was purged.
    pub purged: u64,
    /// Messages that were deleted one by one; `None` if none was that matters.
    pub deleted: Option<Arc<BTreeSet<u64>>>,
}

impl Removals {
    /// Why the message is gone; `None` if it is not known to be.
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
