//! Pages of history from the ring. A page from the ring has exactly the messages of the same page from the log.
//!
//! The state of the log decides. Without holes, every sequence from the first to the last is stored, so the ring's
//! messages between them are stored too. With holes, the ring must know that the same holes were there when it last
//! compared itself with the log: then nothing was removed since. The page itself must have no hole, because the upstream
//! never reads a message that is removed before. In every other case the log is read.

use super::{KeptBatch, LogShape, Ring};
use crate::{
    delivery::{Slice, batch::Item},
    domain::{PageRequest, RoomState},
};

/// A page of history to find.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PageSought {
    pub request: PageRequest,
    /// The state of the log, read after the caller asked for the page.
    pub state: RoomState,
    /// The first sequence that is stored and that the caller may see.
    pub first: u64,
    pub messages_max: usize,
    /// Payloads, headers and overhead. The page has at least one message, even if it is larger.
    pub bytes_max: usize,
}

/// A page of encoded messages.
#[derive(Debug)]
pub(crate) struct EncodedPage {
    /// At least one, ascending.
    pub slices: Vec<Slice>,
    pub first_sequence: u64,
    pub last_sequence: u64,
    /// A newer message is stored.
    pub has_newer: bool,
}

/// The result of [`Ring::page`].
#[derive(Debug)]
pub(crate) enum PageFound {
    Page(EncodedPage),
    /// The log has messages that the ring has not received yet.
    Behind,
    /// Only the log can answer.
    NotHeld,
}

/// A page while it is filled with messages of consecutive sequences.
struct Filling {
    messages_left: usize,
    bytes_left: usize,
    /// The sequence of the next message.
    next: u64,
    is_empty: bool,
    /// The next message does not fit.
    is_full: bool,
    /// The next message is missing.
    is_broken: bool,
}

impl Filling {
    fn new(sought: &PageSought, next: u64) -> Self {
        let PageSought { messages_max, bytes_max, .. } = *sought;
        Self {
            messages_left: messages_max,
            bytes_left: bytes_max,
            next,
            is_empty: true,
            is_full: messages_max == 0,
            is_broken: false,
        }
    }

    /// Whether the next message belongs to the page.
    fn takes(&mut self, item: &Item) -> bool {
        if self.is_full || self.is_broken {
            return false;
        }
        self.is_broken = item.sequence != self.next;
        self.is_full = !self.is_empty && item.sizes.page > self.bytes_left;
        if self.is_full || self.is_broken {
            return false;
        }
        self.is_empty = false;
        self.messages_left -= 1;
        self.is_full = self.messages_left == 0;
        self.bytes_left = self.bytes_left.saturating_sub(item.sizes.page);
        true
    }
}

impl Ring {
    /// The page that the log would answer with. Messages up to `doubted` may have been removed.
    pub(crate) fn page(&self, sought: &PageSought, doubted: u64) -> PageFound {
        let state = &sought.state;
        let shape = LogShape::of(state);
        if shape.holes > 0 && self.log != Some(shape) {
            return PageFound::NotHeld;
        }
        if self.last() < state.last_sequence {
            return PageFound::Behind;
        }
        let slices = match sought.request {
            PageRequest::Before { end } => self.newest_before(end.min(state.last_sequence + 1), sought),
            PageRequest::From { start } => self.oldest_from(start.max(sought.first), sought),
            PageRequest::Between { .. } => None,
        };
        let page = slices.and_then(|slices| self.encoded(slices, state));
        match page.filter(|page| page.first_sequence > doubted.max(self.doubted)) {
            Some(page) => PageFound::Page(page),
            None => PageFound::NotHeld,
        }
    }

    fn newest_before(&self, end: u64, sought: &PageSought) -> Option<Vec<Slice>> {
        let mut slices = Vec::new();
        let mut filling = Filling::new(sought, end.checked_sub(1)?);
        let later = self.batches.partition_point(|kept| kept.batch.first_sequence() < end);
        for KeptBatch { batch, .. } in self.batches.range(..later).rev() {
            let top = batch.items().partition_point(|item| item.sequence < end);
            let below = batch.items().iter().take(top).rev();
            let mut taken = 0;
            for item in below.take_while(|item| item.sequence >= sought.first) {
                if !filling.takes(item) {
                    break;
                }
                filling.next -= 1;
                taken += 1;
            }
            if taken > 0 {
                slices.push(Slice::new(batch, top - taken..top));
            }
            if taken < top || filling.is_full {
                break;
            }
        }
        slices.reverse();
        let is_whole = filling.is_full || filling.next < sought.first;
        (is_whole && !filling.is_broken).then_some(slices)
    }

    fn oldest_from(&self, start: u64, sought: &PageSought) -> Option<Vec<Slice>> {
        let last = sought.state.last_sequence;
        let mut slices = Vec::new();
        let mut filling = Filling::new(sought, start);
        let earlier = self.batches.partition_point(|kept| kept.batch.last_sequence() < start);
        for KeptBatch { batch, .. } in self.batches.range(earlier..) {
            let bottom = batch.items().partition_point(|item| item.sequence < start);
            let from = batch.items().iter().skip(bottom);
            let mut taken = 0;
            for item in from.take_while(|item| item.sequence <= last) {
                if !filling.takes(item) {
                    break;
                }
                filling.next += 1;
                taken += 1;
            }
            if taken > 0 {
                slices.push(Slice::new(batch, bottom..bottom + taken));
            }
            if bottom + taken < batch.items().len() || filling.is_full {
                break;
            }
        }
        let is_whole = filling.is_full || filling.next > last;
        (is_whole && !filling.is_broken).then_some(slices)
    }

    fn encoded(&self, slices: Vec<Slice>, state: &RoomState) -> Option<EncodedPage> {
        let (first_sequence, last_sequence) = (slices.first()?.first_sequence(), slices.last()?.last_sequence());
        let has_newer = last_sequence < state.last_sequence;
        // in a log with holes, the newest sequences may be missing
        if has_newer && !state.is_dense() && !self.holds(state.last_sequence) {
            return None;
        }
        Some(EncodedPage { slices, first_sequence, last_sequence, has_newer })
    }

    fn holds(&self, sequence: u64) -> bool {
        let earlier = self.batches.partition_point(|kept| kept.batch.last_sequence() < sequence);
        let items = self.batches.get(earlier).map_or(&[][..], |kept| kept.batch.items());
        items.binary_search_by_key(&sequence, |item| item.sequence).is_ok()
    }
}
