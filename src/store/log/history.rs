//! Pages of a room's log, assembled from excerpts. The newest page of a room without holes needs two requests.
//!
//! A page is full if enough messages exist. If sequences are missing, more of the log is read, in spans that grow
//! over holes and shrink where messages are dense or large.

use std::{collections::VecDeque, time::SystemTime};

use super::{
    excerpt::{ExcerptLimits, Excerpts},
    fetch::{Fetched, Origin},
};
use crate::{
    domain::{Message, Page, PageRequest, RoomState},
    error::Result,
    limits::HISTORY_PAGE_BYTES_MAX,
};

/// Bytes of one read beyond the page's bound, so that one more message of any size fits.
const READ_SLACK_BYTES: usize = 1024 * 1024;
/// The factor for the next span if the last span held no message.
const SPAN_GROWTH: u64 = 8;

/// Bounds of a page.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PageLimits {
    pub messages: usize,
    /// Payload, headers and overhead. A page has at least one message, even if it is larger.
    pub bytes: usize,
}

/// Reads a page.
///
/// # Errors
/// `NATS_UNAVAILABLE`, `TIMEOUT`.
pub(in crate::store) async fn page(excerpts: Excerpts<'_>, want: PageRequest, limits: PageLimits) -> Result<Page> {
    let log = Log { excerpts, state: excerpts.state, limits };
    match want {
        PageRequest::Before { end } => log.newest_before(end.min(log.state.last_sequence + 1)).await,
        PageRequest::From { start } => log.oldest(Origin::Sequence(start.max(1)), None).await,
        PageRequest::Between { start, end } => log.oldest(Origin::Time(start), end).await,
    }
}

/// One room's log, as it was at the request.
struct Log<'a> {
    excerpts: Excerpts<'a>,
    state: RoomState,
    limits: PageLimits,
}

impl Log<'_> {
    /// The newest messages before `end`, collected from the end towards the beginning.
    async fn newest_before(&self, end: u64) -> Result<Page> {
        let first = self.state.first_sequence;
        let mut page: VecDeque<Message> = VecDeque::new();
        let mut bytes = 0;
        let mut full = false;
        let mut top = end;
        let mut span = self.first_span();
        while !full && page.len() < self.limits.messages && top > first {
            let bottom = top.saturating_sub(span).max(first);
            let fetched = self.read(Origin::Sequence(bottom), top - bottom).await?;
            let reaches_top = fetched.messages.last().is_some_and(|last| last.sequence + 1 >= top);
            let mut complete = fetched.pending == 0 || reaches_top;
            let mut found: Vec<_> = fetched.messages.into_iter().filter(|message| message.sequence < top).collect();
            if complete && !reaches_top {
                complete = self.excerpts.complete(&mut found, bottom, top - 1, self.excerpt(usize::MAX)).await?;
            }
            if !complete && bottom + 1 < top {
                // more messages than one read holds, so read nearer to the end
                span = (span / 2).max(1);
                continue;
            }
            span = next_span(top - bottom, found.len() as u64, (self.limits.messages - page.len()) as u64);
            for message in found.into_iter().rev() {
                let size = message.page_bytes();
                if page.len() == self.limits.messages || (bytes + size > self.limits.bytes && !page.is_empty()) {
                    full = true;
                    break;
                }
                bytes += size;
                page.push_front(message);
            }
            top = bottom;
        }
        let newest = page.back().map_or(0, |message| message.sequence);
        let has_newer = self.excerpts.exists_after(newest.max(end.saturating_sub(1))).await?;
        // if nothing is found, nothing is stored from the first sequence to the end
        Ok(self.page(page.into(), end.min(first), has_newer))
    }

    /// The oldest messages from `origin` on, stored before `until`.
    async fn oldest(&self, mut origin: Origin, until: Option<SystemTime>) -> Result<Page> {
        let first = self.state.first_sequence;
        let mut page: Vec<Message> = Vec::new();
        let mut bytes = 0;
        let mut next = None;
        let mut from = origin;
        'reading: while !self.is_past_end(from) {
            let wanted = (self.limits.messages - page.len() + 1) as u64;
            let mut fetched = self.read(from, wanted).await?;
            if let Origin::Time(start) = from {
                // for a time after the last message the server returns the log from its beginning
                fetched.messages.retain(|message| message.published_at >= start);
            }
            if let (Origin::Time(_), Some(found)) = (from, fetched.messages.first())
                && found.sequence < first
            {
                // the server returned a message before the first stored sequence
                origin = Origin::Sequence(first);
                from = origin;
                continue;
            }
            let mut more = fetched.pending > 0;
            let start = match (from, fetched.messages.first()) {
                (Origin::Sequence(start), _) => Some(start),
                (Origin::Time(_), Some(first)) => Some(first.sequence),
                // the server that answered may lack existing messages
                (Origin::Time(time), None) => self.excerpts.first_at(time).await?,
            };
            if let (false, Some(start)) = (more, start) {
                let (end, limits) = (self.state.last_sequence, self.excerpt(usize::MAX));
                more = !self.excerpts.complete(&mut fetched.messages, start, end, limits).await?;
            }
            let Some(last) = fetched.messages.last().map(|message| message.sequence) else { break };
            for message in fetched.messages {
                let size = message.page_bytes();
                let outside = until.is_some_and(|until| message.published_at >= until);
                let full = page.len() == self.limits.messages || (bytes + size > self.limits.bytes && !page.is_empty());
                if outside || full {
                    next = Some(message.sequence);
                    break 'reading;
                }
                bytes += size;
                page.push(message);
            }
            if !more {
                break;
            }
            from = Origin::Sequence(last + 1);
        }
        let end = self.state.last_sequence + 1;
        let begin = match origin {
            Origin::Sequence(start) => start.min(end),
            Origin::Time(_) => end,
        };
        Ok(self.page(page, next.unwrap_or(begin), next.is_some()))
    }

    /// Builds the page. A page without messages is before the sequence `place`.
    fn page(&self, messages: Vec<Message>, place: u64, has_newer: bool) -> Page {
        let older_than = messages.first().map_or(place, |message| message.sequence);
        let newer_than = messages.last().map_or(place.saturating_sub(1), |message| message.sequence);
        let has_older = self.state.messages > 0 && self.state.first_sequence < older_than;
        Page { messages, has_older, has_newer, older_than, newer_than, state: Some(self.state) }
    }

    fn is_past_end(&self, origin: Origin) -> bool {
        self.state.messages == 0 || matches!(origin, Origin::Sequence(start) if start > self.state.last_sequence)
    }

    async fn read(&self, origin: Origin, messages: u64) -> Result<Fetched> {
        self.excerpts.read(origin, self.excerpt(usize::try_from(messages).unwrap_or(usize::MAX))).await
    }

    /// The bounds of one read: one message more than the page takes.
    fn excerpt(&self, messages: usize) -> ExcerptLimits {
        ExcerptLimits {
            messages: messages.min(self.limits.messages + 1),
            bytes: self.limits.bytes.min(HISTORY_PAGE_BYTES_MAX) + READ_SLACK_BYTES,
        }
    }

    /// The number of sequences of the page if its messages have the average size and density.
    fn first_span(&self) -> u64 {
        let messages = self.state.messages.max(1);
        let average = usize::try_from(self.state.bytes / messages).unwrap_or(usize::MAX).max(1);
        // a page's bytes do not include NATS's bookkeeping, so this estimate is low
        let fits = (self.limits.bytes.min(HISTORY_PAGE_BYTES_MAX) / average).max(1).min(self.limits.messages) as u64;
        let sequences = (self.state.last_sequence + 1).saturating_sub(self.state.first_sequence).max(1);
        let holes = sequences / messages;
        fits.saturating_mul(holes.max(1))
    }
}

/// The sequence of the first message stored at or after `time`. `None` if there is none.
pub(in crate::store) async fn first_since(excerpts: Excerpts<'_>, time: SystemTime) -> Result<Option<u64>> {
    let limits = ExcerptLimits { messages: 1, bytes: HISTORY_PAGE_BYTES_MAX };
    let fetched = excerpts.read(Origin::Time(time), limits).await?;
    match fetched.messages.first().filter(|message| message.published_at >= time) {
        Some(message) => Ok(Some(message.sequence)),
        // the server that answered may lack existing messages
        None => excerpts.first_at(time).await,
    }
}

/// The number of sequences to read next, after `span` sequences held `found` messages and `needed` messages are
/// missing.
fn next_span(span: u64, found: u64, needed: u64) -> u64 {
    if found == 0 {
        return span.saturating_mul(SPAN_GROWTH);
    }
    // assumes the same density, and adds a quarter
    needed.saturating_mul(span).div_ceil(found).saturating_mul(5) / 4 + 1
}
