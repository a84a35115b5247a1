//! Stored messages, page by page (U28).

use std::collections::VecDeque;

use futures_core::Stream;
use futures_util::stream;
use prost_types::Timestamp;
use unibus::v1::{HistoryRequest, HistoryResponse, Message, TimeRange, history_request::Anchor};

use crate::{Room, error::Result, retry::call};

impl Room {
    /// Begins to read the stored messages: forwards from the oldest one, unless the options say otherwise.
    pub fn history(&self) -> History {
        History {
            room: self.clone(),
            is_backwards: false,
            place: None,
            after: Bound::None,
            before: Bound::None,
            page_size: 200,
        }
    }
}

/// The options of a history.
#[derive(Clone, Debug)]
#[must_use]
pub struct History {
    room: Room,
    is_backwards: bool,
    place: Option<String>,
    after: Bound,
    before: Bound,
    page_size: u16,
}

/// One end of a history.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Bound {
    None,
    /// Exclusive.
    Sequence(u64),
    /// Inclusive at the begin, exclusive at the end.
    Time(Timestamp),
}

impl History {
    /// From the newest message to the oldest one.
    pub fn backwards(mut self) -> Self {
        self.is_backwards = true;
        self
    }

    /// Only messages after this sequence.
    pub fn after_sequence(mut self, sequence: u64) -> Self {
        self.after = Bound::Sequence(sequence);
        self
    }

    /// Only messages before this sequence.
    pub fn before_sequence(mut self, sequence: u64) -> Self {
        self.before = Bound::Sequence(sequence);
        self
    }

    /// Only messages that were stored at this time or later.
    pub fn since(mut self, time: impl Into<Timestamp>) -> Self {
        self.after = Bound::Time(time.into());
        self
    }

    /// Only messages that were stored before this time.
    pub fn until(mut self, time: impl Into<Timestamp>) -> Self {
        self.before = Bound::Time(time.into());
        self
    }

    /// Begins beside the message with this cursor: after it, or with [`backwards`](Self::backwards) before it.
    pub fn from_cursor(mut self, cursor: impl Into<String>) -> Self {
        self.place = Some(cursor.into());
        self
    }

    /// How many messages to ask for at a time: 200 by default, at most 1000.
    pub fn page_size(mut self, messages: u16) -> Self {
        self.page_size = messages;
        self
    }

    /// The messages, each once. Each page is a call of its own (U9). The stream ends at the end of the log, or with an error.
    pub fn messages(self) -> impl Stream<Item = Result<Message>> + Send + Unpin + 'static {
        let walk = Walk { history: self, page: VecDeque::new(), next: Some(Page::First) };
        Box::pin(stream::try_unfold(
            walk,
            |mut walk| async move { Ok(walk.next().await?.map(|message| (message, walk))) },
        ))
    }

    /// The place of the first page.
    fn first(&self) -> Option<Anchor> {
        match (&self.place, self.is_backwards) {
            (Some(cursor), false) => Some(Anchor::AfterCursor(cursor.clone())),
            (Some(cursor), true) => Some(Anchor::BeforeCursor(cursor.clone())),
            (None, false) => Some(match self.after {
                Bound::None => Anchor::AfterSequence(0),
                Bound::Sequence(sequence) => Anchor::AfterSequence(sequence),
                Bound::Time(time) => Anchor::TimeRange(TimeRange { start: Some(time), end: None }),
            }),
            (None, true) => match self.before {
                Bound::None => None,
                Bound::Sequence(sequence) => Some(Anchor::BeforeSequence(sequence)),
                // a page of the messages after that time leads to those before it
                Bound::Time(time) => Some(Anchor::TimeRange(TimeRange { start: Some(time), end: None })),
            },
        }
    }

    /// Whether the first page lies on the other side of the place.
    fn turns(&self) -> bool {
        self.is_backwards && self.place.is_none() && matches!(self.before, Bound::Time(_))
    }

    /// Whether the message lies beyond the end of the history.
    fn is_beyond(&self, message: &Message) -> bool {
        let nanos = |time: &Timestamp| (time.seconds, time.nanos);
        let at = message.published_at.as_ref().map(nanos);
        match if self.is_backwards { self.after } else { self.before } {
            Bound::None => false,
            Bound::Sequence(sequence) if self.is_backwards => message.sequence <= sequence,
            Bound::Sequence(sequence) => message.sequence >= sequence,
            Bound::Time(time) if self.is_backwards => at < Some(nanos(&time)),
            Bound::Time(time) => at >= Some(nanos(&time)),
        }
    }

    /// The place of the page after this one; `None` at the end of the log.
    fn after_page(&self, page: &HistoryResponse) -> Option<Anchor> {
        if self.is_backwards {
            page.has_older.then(|| Anchor::BeforeCursor(page.older_cursor.clone()))
        } else {
            page.has_newer.then(|| Anchor::AfterCursor(page.newer_cursor.clone()))
        }
    }
}

/// A walk through the pages.
struct Walk {
    history: History,
    page: VecDeque<Message>,
    next: Option<Page>,
}

enum Page {
    First,
    At(Anchor),
}

impl Walk {
    async fn next(&mut self) -> Result<Option<Message>> {
        loop {
            if let Some(message) = self.page.pop_front() {
                if !self.history.is_beyond(&message) {
                    return Ok(Some(message));
                }
                (self.next, self.page) = (None, VecDeque::new());
            }
            let Some(page) = self.next.take() else { return Ok(None) };
            let turns = matches!(page, Page::First) && self.history.turns();
            let anchor = match page {
                Page::First => self.history.first(),
                Page::At(anchor) => Some(anchor),
            };
            let (room, limit) = (&self.history.room, if turns { 1 } else { i32::from(self.history.page_size) });
            let request = HistoryRequest { room_id: room.room_id(), limit, anchor };
            let mut page = call!(room.client, Always, history, request)?;
            self.next = self.history.after_page(&page).map(Page::At);
            if !turns {
                if self.history.is_backwards {
                    page.messages.reverse();
                }
                self.page = page.messages.into();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Client;

    fn message(sequence: u64, nanos: i32) -> Message {
        let published_at = Some(Timestamp { seconds: 7, nanos });
        Message { sequence, published_at, ..Message::default() }
    }

    #[tokio::test]
    async fn a_history_begins_and_ends_where_its_bounds_say() -> Result<()> {
        let history = Client::new("http://127.0.0.1:1")?.room("room").history();
        let time = |nanos| Timestamp { seconds: 7, nanos };
        let range = |nanos| Anchor::TimeRange(TimeRange { start: Some(time(nanos)), end: None });
        for (history, first, (inside, beyond)) in [
            (history.clone().after_sequence(3).before_sequence(9), Some(Anchor::AfterSequence(3)), ((8, 0), (9, 0))),
            (
                history.clone().backwards().after_sequence(3).before_sequence(9),
                Some(Anchor::BeforeSequence(9)),
                ((4, 0), (3, 0)),
            ),
            (history.clone().since(time(1)).until(time(2)), Some(range(1)), ((1, 1), (1, 2))),
            (history.clone().backwards().since(time(1)).until(time(2)), Some(range(2)), ((1, 1), (1, 0))),
            (
                history.clone().from_cursor("c").until(time(2)),
                Some(Anchor::AfterCursor("c".to_owned())),
                ((1, 1), (1, 2)),
            ),
            (history.clone().backwards().after_sequence(1), None, ((2, 0), (1, 0))),
        ] {
            assert_eq!(history.first(), first);
            assert!(
                !history.is_beyond(&message(inside.0, inside.1)) && history.is_beyond(&message(beyond.0, beyond.1))
            );
        }
        Ok(())
    }

    #[tokio::test]
    async fn the_next_page_begins_at_the_cursor_of_the_last_one() -> Result<()> {
        let history = Client::new("http://127.0.0.1:1")?.room("room").history();
        let (older_cursor, newer_cursor) = ("o".to_owned(), "n".to_owned());
        let page = HistoryResponse { has_older: true, older_cursor, newer_cursor, ..HistoryResponse::default() };
        assert_eq!(history.after_page(&page), None, "the end of the log");
        assert_eq!(history.backwards().after_page(&page), Some(Anchor::BeforeCursor("o".to_owned())));
        Ok(())
    }
}
