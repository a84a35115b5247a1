//! Batches of messages, encoded once and shared by all subscribers.

use std::{
    ops::Range,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::{Bytes, BytesMut};

use crate::{
    domain::{GapReason, Removals},
    limits::{BATCH_BYTES_MAX, BATCH_MESSAGES_MAX},
};

/// An entry of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    /// In a log, the sequence of the message. In an ephemeral room, the number of the entry since the upstream started.
    pub sequence: u64,
    pub kind: ItemKind,
    pub sizes: Sizes,
    /// The end of the encoded entry in [`Batch::bytes`].
    end: usize,
}

/// The sizes of a message in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sizes {
    /// The payload, without headers or encoding.
    pub payload: usize,
    /// The bytes that the message counts for in a page of history.
    pub page: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ItemKind {
    /// A message. If sequences are missing before it, `first_kept` is the oldest sequence in the log when the message
    /// was read.
    Message { first_kept: u64 },
    /// The NATS connection was lost here. This entry has no encoded form.
    Disconnected,
}

/// At least one entry, in ascending order, encoded one after the other.
#[derive(Debug)]
pub(crate) struct Batch {
    items: Box<[Item]>,
    bytes: Bytes,
    lifetime: Lifetime,
}

/// The times that decide when the first message of a batch expires.
#[derive(Clone, Copy, Debug, Default)]
struct Lifetime {
    /// When the oldest message was stored.
    oldest: Option<SystemTime>,
    /// The earliest end among messages with a lifetime of their own.
    ends_at: Option<SystemTime>,
}

impl Batch {
    pub(crate) fn items(&self) -> &[Item] {
        &self.items
    }

    /// The sequence of the last entry.
    pub(crate) fn last_sequence(&self) -> u64 {
        self.items.last().map_or(0, |item| item.sequence)
    }

    /// The sequence of the first entry.
    pub(super) fn first_sequence(&self) -> u64 {
        self.items.first().map_or(0, |item| item.sequence)
    }

    /// The memory that the batch takes, in bytes.
    pub(crate) fn size(&self) -> usize {
        self.bytes.len() + size_of_val(&*self.items)
    }

    /// When NATS stored the oldest message; `None` if that is not known.
    pub(crate) fn oldest(&self) -> Option<SystemTime> {
        self.lifetime.oldest
    }

    /// When the first message of the batch expires, in a room that keeps messages for `max_age`.
    pub(super) fn expires_at(&self, max_age: Option<Duration>) -> Option<SystemTime> {
        let Lifetime { oldest, ends_at } = self.lifetime;
        let of_age = oldest.zip(max_age).and_then(|(oldest, max_age)| oldest.checked_add(max_age));
        of_age.into_iter().chain(ends_at).min()
    }

    pub(crate) fn disconnections(&self) -> u64 {
        self.items.iter().filter(|item| item.kind == ItemKind::Disconnected).count() as u64
    }

    fn start_of(&self, index: usize) -> usize {
        index.checked_sub(1).and_then(|before| self.items.get(before)).map_or(0, |item| item.end)
    }
}

/// At least one message of a batch, consecutive.
#[derive(Clone, Debug)]
pub(crate) struct Slice {
    batch: Arc<Batch>,
    range: Range<usize>,
}

impl Slice {
    pub(crate) fn new(batch: &Arc<Batch>, range: Range<usize>) -> Self {
        Self { batch: Arc::clone(batch), range }
    }

    /// The encoded messages. The bytes are shared with the batch, not copied.
    pub(crate) fn bytes(&self) -> Bytes {
        self.batch.bytes.slice(self.batch.start_of(self.range.start)..self.batch.start_of(self.range.end))
    }

    /// Keeps the longest prefix of messages whose encoding has at most `bytes` bytes, but at least one message. Returns
    /// the rest, if there is one.
    pub(crate) fn split_off(&mut self, bytes: usize) -> Option<Self> {
        let start = self.batch.start_of(self.range.start);
        let kept = self.items().partition_point(|item| item.end - start <= bytes).max(1);
        let middle = self.range.start + kept;
        let rest = (middle < self.range.end).then(|| Self::new(&self.batch, middle..self.range.end));
        self.range.end = self.range.end.min(middle);
        rest
    }

    /// Keeps the longest prefix of messages within three bounds, but at least one message. Returns the rest, if there
    /// is one.
    ///
    /// - The prefix has at most `messages` messages.
    /// - Its encoding has at most `bytes` bytes.
    /// - The payloads before its last message have less than `payload_bytes` bytes in total. So the last payload may
    ///   exceed this bound.
    pub(crate) fn split_off_within(&mut self, bytes: usize, messages: u64, payload_bytes: u64) -> Option<Self> {
        let mut before = 0;
        let begun = self.items().iter().take_while(|item| {
            let begins = before < payload_bytes;
            before += item.sizes.payload as u64;
            begins
        });
        let kept = (begun.count() as u64).min(messages).max(1);
        let middle = self.range.start + usize::try_from(kept).unwrap_or(usize::MAX).min(self.range.len());
        let beyond = Self::new(&self.batch, middle..self.range.end);
        self.range.end = middle;
        match self.split_off(bytes) {
            Some(rest) => Some(Self::new(&self.batch, rest.range.start..beyond.range.end)),
            None => Some(beyond).filter(|beyond| !beyond.range.is_empty()),
        }
    }

    /// Drops the leading messages that were removed for the same reason. Returns the sequence of the last dropped
    /// message, and the reason. Drops nothing and returns `None` when the first message was not removed.
    pub(crate) fn skip_removed(&mut self, removals: &Removals) -> Option<(u64, GapReason)> {
        let reason = removals.reason(self.items().first()?.sequence)?;
        let removed = self.items().iter().take_while(|item| removals.reason(item.sequence) == Some(reason));
        let last = removed.clone().last()?.sequence;
        let skipped = removed.count();
        self.range.start += skipped;
        Some((last, reason))
    }

    /// Keeps the messages before the first deleted one. Returns the rest; `None` when no message was deleted.
    pub(crate) fn split_off_removed(&mut self, removals: &Removals) -> Option<Self> {
        let deleted = removals.deleted.as_ref()?;
        let first = deleted.range(self.items().first()?.sequence..=self.last_sequence()).next()?;
        let kept = self.items().partition_point(|item| item.sequence < *first);
        let rest = Self::new(&self.batch, self.range.start + kept..self.range.end);
        self.range.end = self.range.start + kept;
        Some(rest)
    }

    /// Appends `rest`, which was split off from this slice.
    pub(crate) fn join(&mut self, rest: &Self) {
        self.range.end = self.range.end.max(rest.range.end);
    }

    /// The number of messages.
    pub(crate) fn messages(&self) -> u64 {
        self.range.len() as u64
    }

    /// The bytes of all payloads, without headers or encoding.
    pub(crate) fn payload_bytes(&self) -> u64 {
        self.items().iter().map(|item| item.sizes.payload as u64).sum()
    }

    /// The encoded messages one by one.
    pub(crate) fn encoded(&self) -> impl Iterator<Item = &[u8]> {
        self.range.clone().map(|index| {
            self.batch.bytes.get(self.batch.start_of(index)..self.batch.start_of(index + 1)).unwrap_or_default()
        })
    }

    fn items(&self) -> &[Item] {
        self.batch.items.get(self.range.clone()).unwrap_or_default()
    }

    /// The sequence of the first message.
    pub(super) fn first_sequence(&self) -> u64 {
        self.items().first().map_or(0, |item| item.sequence)
    }

    /// The sequence of the last message.
    pub(crate) fn last_sequence(&self) -> u64 {
        self.range.end.checked_sub(1).and_then(|last| self.batch.items.get(last)).map_or(0, |item| item.sequence)
    }
}

/// A batch that is being filled.
#[derive(Debug, Default)]
pub(crate) struct BatchBuilder {
    items: Vec<Item>,
    bytes: BytesMut,
    lifetime: Lifetime,
}

impl BatchBuilder {
    /// Adds a message. `encode` appends its encoded form. `first_kept` is used only if sequences are missing before the
    /// message.
    pub(crate) fn message(&mut self, sequence: u64, first_kept: u64, sizes: Sizes, encode: impl FnOnce(&mut BytesMut)) {
        encode(&mut self.bytes);
        self.add(sequence, ItemKind::Message { first_kept }, sizes);
    }

    /// Records when the next message was stored, and when its own lifetime ends.
    pub(crate) fn lasts(&mut self, stored_at: SystemTime, ends_at: Option<SystemTime>) {
        let Lifetime { oldest, ends_at: first_end } = &mut self.lifetime;
        *oldest = Some(oldest.map_or(stored_at, |oldest| oldest.min(stored_at)));
        if let Some(ends_at) = ends_at {
            *first_end = Some(first_end.map_or(ends_at, |first| first.min(ends_at)));
        }
    }

    /// Adds an entry for the loss of the NATS connection.
    pub(crate) fn disconnected(&mut self, sequence: u64) {
        self.add(sequence, ItemKind::Disconnected, Sizes::default());
    }

    fn add(&mut self, sequence: u64, kind: ItemKind, sizes: Sizes) {
        self.items.push(Item { sequence, kind, sizes, end: self.bytes.len() });
    }

    /// Whether the batch has reached `BATCH_MESSAGES_MAX` or `BATCH_BYTES_MAX`.
    pub(crate) fn is_full(&self) -> bool {
        self.items.len() >= BATCH_MESSAGES_MAX || self.bytes.len() >= BATCH_BYTES_MAX
    }

    /// The batch; `None` if no entry was added.
    pub(crate) fn finish(self) -> Option<Arc<Batch>> {
        let Self { items, bytes, lifetime } = self;
        // a batch lives for a while in the ring, so unused capacity is given back
        let bytes = if bytes.capacity() > bytes.len() * 2 { Bytes::copy_from_slice(&bytes) } else { bytes.freeze() };
        (!items.is_empty()).then(|| Arc::new(Batch { items: items.into_boxed_slice(), bytes, lifetime }))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    const MESSAGE_BYTES: usize = 7;

    #[test]
    fn a_slice_is_cut_within_each_of_its_bounds_and_loses_nothing() {
        let mut builder = BatchBuilder::default();
        for (sequence, payload) in [(1, 0), (2, 10), (3, 0), (4, 10), (5, 10), (6, 0)] {
            builder.message(sequence, 1, Sizes { payload, page: 0 }, |bytes| {
                bytes.extend_from_slice(&[u8::try_from(sequence).unwrap(); MESSAGE_BYTES]);
            });
        }
        let batch = builder.finish().unwrap();
        let sequences = |slice: &Slice| slice.encoded().map(|bytes| u64::from(bytes[0])).collect::<Vec<_>>();
        let all = u64::MAX;
        for (bytes, messages, payload_bytes, kept) in [
            (usize::MAX, all, all, 5),
            (usize::MAX, 3, all, 3),
            (3 * MESSAGE_BYTES - 1, all, all, 2),
            (2 * MESSAGE_BYTES, 4, all, 2),
            (0, all, all, 1),
            (usize::MAX, all, 1, 1),
            (usize::MAX, all, 10, 1),
            (usize::MAX, all, 11, 3),
            (usize::MAX, all, 20, 3),
            (usize::MAX, all, 21, 4),
            (usize::MAX, all, 31, 5),
            (usize::MAX, 2, 11, 2),
            (usize::MAX, 0, 0, 1),
        ] {
            let mut slice = Slice::new(&batch, 1..6);
            let rest = slice.split_off_within(bytes, messages, payload_bytes);
            let case = (bytes, messages, payload_bytes);
            assert_eq!(slice.messages(), kept, "{case:?}");
            assert_eq!(sequences(&slice), (2..2 + kept).collect::<Vec<_>>(), "{case:?}");
            assert_eq!(rest.as_ref().map(sequences).unwrap_or_default(), (2 + kept..7).collect::<Vec<_>>(), "{case:?}");
            assert_eq!(rest.is_none(), kept == 5, "{case:?}");
            assert_eq!(slice.payload_bytes() + rest.map_or(0, |rest| rest.payload_bytes()), 30, "{case:?}");
        }
    }
}
