//! Follows the frames of an HTTP/2 connection in both directions (RFC 9113, section 4.1), to count the open streams.
//!
//! The HTTP library queues unwritten answers without a bound, so a client that reads nothing could let answers pile up.
//! Only the written bytes show when an answer has left the service.

use std::collections::HashSet;

use crate::limits::FRAME_OVERHEAD_BYTES;

/// Bytes of a frame's head: length (3), type (1), flags (1), stream (4).
const HEAD_BYTES: usize = 9;

/// The type of a `DATA` frame. The types are those of RFC 9113, section 6.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;
/// The flag of `DATA` and `HEADERS` that ends a stream.
const END_STREAM: u8 = 1;
/// The HTTP library ends a connection in order with two `GOAWAY` frames. It ignores streams that are opened after the
/// second.
const GOAWAYS_OF_AN_ORDERLY_END: u32 = 2;

/// The open streams of a connection.
#[derive(Debug)]
pub(super) struct Streams {
    received: Heads,
    sent: Heads,
    open: HashSet<u32>,
    opened: usize,
    newest: u32,
    goaways: u32,
    /// A new stream whose head was received, and that the HTTP library must not see yet.
    waiting: Option<u32>,
}

/// The result of [`Streams::receive`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Received {
    /// Bytes read, up to the end of the head of the first stream that has to wait.
    pub taken: usize,
    /// The cost in memory, in bytes, of the data frames that begin in the bytes read.
    pub data_cost: usize,
}

impl Streams {
    /// Starts before the client's preface, which has `preface_bytes` bytes.
    pub(super) fn before_preface(preface_bytes: usize) -> Self {
        Self {
            received: Heads { skip: preface_bytes, ..Heads::default() },
            sent: Heads::default(),
            open: HashSet::new(),
            opened: 0,
            newest: 0,
            goaways: 0,
            waiting: None,
        }
    }

    /// Reads bytes of the client, up to the new stream that would follow `new_max` other new streams.
    pub(super) fn receive(&mut self, bytes: &[u8], new_max: usize) -> Received {
        let mut rest = bytes;
        let mut data_cost = 0;
        let opened_max = self.opened.saturating_add(new_max);
        if let Some(stream) = self.waiting.take() {
            self.open(stream, opened_max);
        }
        while self.waiting.is_none()
            && let Some(head) = self.received.next(&mut rest)
        {
            match head.kind {
                DATA if head.length > 0 => data_cost += head.length + FRAME_OVERHEAD_BYTES,
                HEADERS if head.stream > self.newest => self.open(head.stream, opened_max),
                RST_STREAM => _ = self.open.remove(&head.stream),
                _ => {}
            }
        }
        Received { taken: bytes.len() - rest.len(), data_cost }
    }

    /// Reads bytes that the service has sent.
    pub(super) fn send(&mut self, mut bytes: &[u8]) {
        while let Some(head) = self.sent.next(&mut bytes) {
            match head.kind {
                DATA | HEADERS if head.flags & END_STREAM != 0 => _ = self.open.remove(&head.stream),
                RST_STREAM => _ = self.open.remove(&head.stream),
                GOAWAY => self.goaways += 1,
                _ => {}
            }
        }
    }

    /// The number of open streams.
    pub(super) fn count(&self) -> usize {
        self.open.len()
    }

    /// The number of streams that were opened so far.
    pub(super) fn opened(&self) -> usize {
        self.opened
    }

    /// Whether a new stream waits until another one ends.
    pub(super) fn has_waiting(&self) -> bool {
        self.waiting.is_some()
    }

    fn open(&mut self, stream: u32, opened_max: usize) {
        if self.goaways >= GOAWAYS_OF_AN_ORDERLY_END {
            return;
        }
        if self.opened >= opened_max {
            self.waiting = Some(stream);
            return;
        }
        self.newest = stream;
        self.opened += 1;
        self.open.insert(stream);
        // gives back the memory of a burst
        if self.open.capacity() > 64 && self.open.len() < self.open.capacity() / 8 {
            self.open.shrink_to(32);
        }
    }
}

/// Finds the frame heads in the bytes of one direction.
#[derive(Debug, Default)]
struct Heads {
    /// The first `come` bytes of the next head.
    head: [u8; HEAD_BYTES],
    come: usize,
    /// Bytes before the next head.
    skip: usize,
}

#[derive(Clone, Copy, Debug)]
struct Head {
    length: usize,
    kind: u8,
    flags: u8,
    stream: u32,
}

impl Heads {
    /// The next complete head. Removes the bytes up to its end from `bytes`, or all bytes when no head is complete.
    fn next(&mut self, bytes: &mut &[u8]) -> Option<Head> {
        let skipped = self.skip.min(bytes.len());
        self.skip -= skipped;
        let rest = bytes.get(skipped..).unwrap_or_default();
        let needed = (HEAD_BYTES - self.come).min(rest.len());
        let (part, rest) = rest.split_at(needed);
        for (place, byte) in self.head.iter_mut().skip(self.come).zip(part) {
            *place = *byte;
        }
        self.come += needed;
        *bytes = rest;
        if self.come < HEAD_BYTES {
            return None;
        }
        self.come = 0;
        let [a, b, c, kind, flags, stream @ ..] = self.head;
        let length = usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap_or(usize::MAX);
        self.skip = length;
        // the first bit is reserved
        Some(Head { length, kind, flags, stream: u32::from_be_bytes(stream) & (u32::MAX >> 1) })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: usize) -> Vec<u8> {
        let length = u32::try_from(payload).unwrap_or_default().to_be_bytes();
        let head = [length.get(1..).unwrap_or_default(), &[kind, flags], &stream.to_be_bytes()].concat();
        [head, vec![kind; payload]].concat()
    }

    fn cut<'a>(mut bytes: &'a [u8], cuts: &'a [usize]) -> impl Iterator<Item = &'a [u8]> {
        cuts.iter().cycle().map_while(move |cut| {
            let (now, then) = bytes.split_at((*cut).min(bytes.len()));
            bytes = then;
            (!now.is_empty()).then_some(now)
        })
    }

    proptest! {
        #[test]
        fn frames_are_found_wherever_the_bytes_are_cut(
            frames in prop::collection::vec((0_u8..10, 0_usize..300), 0..20),
            cuts in prop::collection::vec(1_usize..40, 1..20),
        ) {
            let mut bytes = b"preface".to_vec();
            bytes.extend(frames.iter().flat_map(|(kind, payload)| frame(*kind, 0, 1, *payload)));
            let expected: usize = frames
                .iter()
                .filter(|(kind, payload)| *kind == DATA && *payload > 0)
                .map(|(_, payload)| payload + FRAME_OVERHEAD_BYTES)
                .sum();
            let mut streams = Streams::before_preface(b"preface".len());
            let mut cost = 0;
            for part in cut(&bytes, &cuts) {
                let received = streams.receive(part, usize::MAX);
                prop_assert_eq!(received.taken, part.len());
                cost += received.data_cost;
            }
            prop_assert_eq!(cost, expected);
        }

        #[test]
        fn no_more_streams_are_open_than_may_be_and_every_byte_is_taken_once(
            calls in 1_u32..40,
            open_max in 1_usize..5,
            cuts in prop::collection::vec(1_usize..60, 1..20),
        ) {
            let bytes: Vec<u8> = (0..calls).flat_map(|call| frame(HEADERS, END_STREAM, 2 * call + 1, 12)).collect();
            let mut streams = Streams::before_preface(0);
            let (mut taken, mut answered) = (0, 0);
            for part in cut(&bytes, &cuts) {
                let mut part = part;
                loop {
                    let received = streams.receive(part, open_max - streams.count());
                    taken += received.taken;
                    part = part.get(received.taken..).unwrap_or_default();
                    prop_assert!(streams.count() <= open_max);
                    if !streams.has_waiting() {
                        break;
                    }
                    prop_assert_eq!(streams.count(), open_max);
                    streams.send(&frame(HEADERS, END_STREAM, 2 * answered + 1, 3));
                    answered += 1;
                }
                prop_assert!(part.is_empty());
            }
            prop_assert_eq!(taken, bytes.len());
            for call in answered..calls {
                streams.send(&frame(HEADERS, END_STREAM, 2 * call + 1, 3));
            }
            prop_assert_eq!(streams.count(), 0);
        }
    }

    #[test]
    fn a_stream_ends_with_its_answer_or_a_reset_of_either_side_and_trailers_open_none() {
        let mut streams = Streams::before_preface(0);
        for stream in [1, 3, 5, 7] {
            streams.receive(&frame(HEADERS, 0, stream, 5), usize::MAX);
        }
        streams.receive(&frame(HEADERS, END_STREAM, 3, 5), usize::MAX);
        assert_eq!(streams.count(), 4);
        streams.send(&[frame(HEADERS, 0, 1, 5), frame(DATA, 0, 1, 9)].concat());
        assert_eq!(streams.count(), 4);
        streams.send(&frame(DATA, END_STREAM, 1, 0));
        streams.send(&frame(RST_STREAM, 0, 3, 4));
        streams.receive(&frame(RST_STREAM, 0, 5, 4), usize::MAX);
        assert_eq!(streams.count(), 1);
        // a stream that is answered and then reset ends once
        streams.send(&[frame(HEADERS, END_STREAM, 7, 5), frame(RST_STREAM, 0, 7, 4)].concat());
        assert_eq!(streams.count(), 0);
    }

    #[test]
    fn streams_that_are_ignored_after_the_end_was_announced_do_not_count() {
        let mut streams = Streams::before_preface(0);
        streams.send(&frame(GOAWAY, 0, 0, 8));
        streams.receive(&frame(HEADERS, 0, 1, 5), usize::MAX);
        streams.send(&frame(GOAWAY, 0, 0, 8));
        streams.receive(&frame(HEADERS, 0, 3, 5), usize::MAX);
        assert_eq!((streams.count(), streams.has_waiting()), (1, false));
    }
}
