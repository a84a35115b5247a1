//! Stored messages, page by page (U28).

use std::future;

use futures_core::Stream;
use futures_util::{TryStreamExt, stream};
use prost_types::Timestamp;
use unibus::v1::{HistoryRequest, HistoryResponse, Message, TimeRange, history_request::Anchor};

use crate::{
    Room,
    error::{Error, Result},
    retry::call,
};

impl Room {
    /// Begins to read the stored messages: forwards from the oldest one, unless the options say otherwise.
    pub fn history(&self) -> History {
        History {
            room: self.clone(),
            is_backwards: false,
            cursor: None,
            after: None,
            before: None,
            since: None,
            until: None,
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
    cursor: Option<String>,
    after: Option<u64>,
    before: Option<u64>,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    page_size: u16,
}

impl History {
    /// From the newest message to the oldest one.
    pub fn backwards(mut self) -> Self {
        self.is_backwards = true;
        self
    }

    /// Only messages after this sequence.
    pub fn after_sequence(mut self, sequence: u64) -> Self {
        self.after = Some(sequence);
        self
    }

    /// Only messages before this sequence.
    pub fn before_sequence(mut self, sequence: u64) -> Self {
        self.before = Some(sequence);
        self
    }

    /// Only messages that were stored at this time or later.
    pub fn since(mut self, time: impl Into<Timestamp>) -> Self {
        self.since = Some(time.into());
        self
    }

    /// Only messages that were stored before this time.
    pub fn until(mut self, time: impl Into<Timestamp>) -> Self {
        self.until = Some(time.into());
        self
    }

    /// Begins beside the message with this cursor: after it, or with [`backwards`](Self::backwards) before it.
    pub fn from_cursor(mut self, cursor: impl Into<String>) -> Self {
        self.cursor = Some(cursor.into());
        self
    }

    /// How many messages to ask for at a time: 200 by default, at most 1000.
    pub fn page_size(mut self, messages: u16) -> Self {
        self.page_size = messages;
        self
    }

    /// The messages, each once. Each page is a call of its own (U9). The stream ends at the end of the log, or with an error.
    pub fn messages(self) -> impl Stream<Item = Result<Message>> + Send + Unpin + 'static {
        let (history, near, first) = (self.clone(), self.clone(), Some(self.first()));
        let pages = stream::try_unfold(first, move |place| {
            let history = history.clone();
            async move {
                let Some(place) = place else { return Ok::<_, Error>(None) };
                let (messages, next) = history.page(place).await?;
                Ok(Some((stream::iter(messages.into_iter().map(Ok)), next)))
            }
        });
        let messages = pages.try_flatten().try_take_while(move |message| future::ready(Ok(!self.is_beyond(message))));
        Box::pin(messages.try_filter(move |message| future::ready(near.has_reached(message))))
    }

    /// The place of the first page.
    fn first(&self) -> Place {
        let since = |time| Some(Anchor::TimeRange(TimeRange { start: Some(time), end: None }));
        let anchor = match self {
            Self { cursor: Some(cursor), is_backwards: false, .. } => Some(Anchor::AfterCursor(cursor.clone())),
            Self { cursor: Some(cursor), .. } => Some(Anchor::BeforeCursor(cursor.clone())),
            Self { is_backwards: false, after: Some(sequence), .. } => Some(Anchor::AfterSequence(*sequence)),
            Self { is_backwards: false, since: Some(time), .. } => since(*time),
            Self { is_backwards: false, .. } => Some(Anchor::AfterSequence(0)),
            Self { before: Some(sequence), .. } => Some(Anchor::BeforeSequence(*sequence)),
            // a page of the messages after that time leads to those before it
            Self { until: Some(time), .. } => return Place { anchor: since(*time), is_turn: true },
            _ => None,
        };
        Place { anchor, is_turn: false }
    }

    /// Whether the message lies beyond the end of the history.
    fn is_beyond(&self, message: &Message) -> bool {
        !(if self.is_backwards { self.is_after(message) } else { self.is_before(message) })
    }

    /// Whether the history has begun with this message or earlier. It may be read from a place before its bounds.
    fn has_reached(&self, message: &Message) -> bool {
        if self.is_backwards { self.is_before(message) } else { self.is_after(message) }
    }

    /// Whether the message lies after the lower bounds.
    fn is_after(&self, message: &Message) -> bool {
        let is_since = |since| published_at(message) >= Some(nanos(since));
        self.after.is_none_or(|after| message.sequence > after) && self.since.as_ref().is_none_or(is_since)
    }

    /// Whether the message lies before the upper bounds.
    fn is_before(&self, message: &Message) -> bool {
        let is_until = |until| published_at(message) < Some(nanos(until));
        self.before.is_none_or(|before| message.sequence < before) && self.until.as_ref().is_none_or(is_until)
    }

    /// One page, and the place of the next one; `None` at the end of the log.
    async fn page(&self, Place { anchor, is_turn }: Place) -> Result<(Vec<Message>, Option<Place>)> {
        let limit = if is_turn { 1 } else { i32::from(self.page_size) };
        let request = HistoryRequest { room_id: self.room.room_id(), limit, anchor };
        let mut page = call!(self.room.client, Always, history, request)?;
        // the page after the last sequence would have nothing
        let is_last = |message: &Message| match (self.is_backwards, self.after, self.before) {
            (true, Some(after), _) => message.sequence <= after.saturating_add(1),
            (false, _, Some(before)) => message.sequence >= before.saturating_sub(1),
            _ => false,
        };
        let next = self.after_page(&page).filter(|_| !page.messages.iter().any(is_last));
        if is_turn {
            page.messages.clear();
        }
        if self.is_backwards {
            page.messages.reverse();
        }
        Ok((page.messages, next))
    }

    fn after_page(&self, page: &HistoryResponse) -> Option<Place> {
        let anchor = if self.is_backwards {
            page.has_older.then(|| Anchor::BeforeCursor(page.older_cursor.clone()))
        } else {
            page.has_newer.then(|| Anchor::AfterCursor(page.newer_cursor.clone()))
        };
        anchor.map(|anchor| Place { anchor: Some(anchor), is_turn: false })
    }
}

fn nanos(time: &Timestamp) -> (i64, i32) {
    (time.seconds, time.nanos)
}

fn published_at(message: &Message) -> Option<(i64, i32)> {
    message.published_at.as_ref().map(nanos)
}

/// The place of a page.
#[derive(Debug, PartialEq)]
struct Place {
    anchor: Option<Anchor>,
    /// The page lies on the other side of where the history begins, so its messages are none of it.
    is_turn: bool,
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
            assert_eq!(history.first().anchor, first);
            assert!(
                !history.is_beyond(&message(inside.0, inside.1)) && history.is_beyond(&message(beyond.0, beyond.1))
            );
        }
        Ok(())
    }

    #[tokio::test]
    async fn every_bound_holds_together_with_a_cursor_and_with_the_others() -> Result<()> {
        let history = Client::new("http://127.0.0.1:1")?.room("room").history();
        let time = |nanos| Timestamp { seconds: 7, nanos };
        let forwards = history.from_cursor("c").after_sequence(3).since(time(5)).before_sequence(9).until(time(8));
        for (one, has_reached, is_beyond) in [
            (message(3, 6), false, false),
            (message(4, 4), false, false),
            (message(4, 5), true, false),
            (message(9, 7), true, true),
            (message(8, 8), true, true),
        ] {
            assert_eq!((forwards.has_reached(&one), forwards.is_beyond(&one)), (has_reached, is_beyond), "{one:?}");
            let backwards = forwards.clone().backwards();
            assert_eq!((backwards.has_reached(&one), backwards.is_beyond(&one)), (!is_beyond, !has_reached));
        }
        Ok(())
    }

    #[tokio::test]
    async fn the_next_page_begins_at_the_cursor_of_the_last_one() -> Result<()> {
        let history = Client::new("http://127.0.0.1:1")?.room("room").history();
        let (older_cursor, newer_cursor) = ("o".to_owned(), "n".to_owned());
        let page = HistoryResponse { has_older: true, older_cursor, newer_cursor, ..HistoryResponse::default() };
        assert_eq!(history.after_page(&page), None, "the end of the log");
        let next = Place { anchor: Some(Anchor::BeforeCursor("o".to_owned())), is_turn: false };
        assert_eq!(history.backwards().after_page(&page), Some(next));
        Ok(())
    }
}
