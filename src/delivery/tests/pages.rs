//! A model test of pages from the ring. The model has a log, a ring that follows it, and random events between.

use std::{collections::BTreeMap, sync::Arc};

use proptest::prelude::*;

use super::{MESSAGE_BYTES, at, ring, state};
use crate::{
    delivery::{Batch, BatchBuilder, PageFound, PageSought, Ring, Sizes, Slice},
    domain::{PageRequest, RoomState},
};

#[derive(Clone, Debug)]
enum Event {
    /// Stores messages that count for these bytes each.
    Publish(Vec<usize>),
    /// Removes a message, natively: nobody tells the ring.
    Delete(u64),
    /// Removes the messages up to a sequence, natively.
    Purge(u64),
    /// Lets the upstream read at most this number of messages.
    Upstream(usize),
    /// Compares the ring with the log, as when a subscription opens.
    Compare,
    /// Compares the ring with the log, and drops what was in doubt before.
    Check,
    /// Clears the ring, as after a while without messages.
    Idle,
    /// Asks for a page, and reads the ring after these events.
    Page(Asked, Vec<Event>),
}

#[derive(Clone, Debug)]
struct Asked {
    request: PageRequest,
    /// Messages up to this sequence are hidden from the caller.
    hidden: u64,
    messages_max: usize,
    bytes_max: usize,
}

fn change() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => proptest::collection::vec(1..5_usize, 1..4).prop_map(Event::Publish),
        1 => (1..40_u64).prop_map(Event::Delete),
        1 => (1..40_u64).prop_map(Event::Purge),
        8 => (1..6_usize).prop_map(Event::Upstream),
        1 => Just(Event::Compare),
        1 => Just(Event::Check),
        1 => Just(Event::Idle),
    ]
}

fn asked() -> impl Strategy<Value = Asked> {
    let request = prop_oneof![
        2 => Just(PageRequest::Before { end: u64::MAX }),
        2 => (0..45_u64).prop_map(|end| PageRequest::Before { end }),
        2 => (1..45_u64).prop_map(|start| PageRequest::From { start }),
    ];
    let hidden = prop_oneof![2 => Just(0), 1 => 0..40_u64];
    (request, hidden, 1..8_usize, 1..20_usize).prop_map(|(request, hidden, messages_max, bytes_max)| Asked {
        request,
        hidden,
        messages_max,
        bytes_max,
    })
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let page =
        (asked(), proptest::collection::vec(change(), 0..3)).prop_map(|(asked, events)| Event::Page(asked, events));
    proptest::collection::vec(prop_oneof![3 => change(), 2 => page], 0..120)
}

/// A page as the log answers: the sequences, and whether a newer message is stored.
type Page = (Vec<u64>, bool);

#[derive(Clone, Default)]
struct Log {
    /// For each sequence, the bytes that its message counts for.
    kept: BTreeMap<u64, usize>,
    last: u64,
}

impl Log {
    fn state(&self) -> RoomState {
        let first = self.kept.first_key_value().map_or(self.last + 1, |(first, _)| *first);
        state(first, self.last, self.kept.len() as u64)
    }

    fn page(&self, asked: &Asked) -> Page {
        let visible = self.kept.range(asked.hidden + 1..).map(|(sequence, bytes)| (*sequence, *bytes));
        let (mut page, mut bytes) = (Vec::new(), 0);
        let mut takes = |sequence, size| {
            let fits = page.is_empty() || bytes + size <= asked.bytes_max;
            let takes = fits && page.len() < asked.messages_max;
            if takes {
                page.push(sequence);
                bytes += size;
            }
            takes
        };
        match asked.request {
            PageRequest::Before { end } => {
                let below: Vec<_> = visible.clone().filter(|(sequence, _)| *sequence < end).collect();
                let _ = below.into_iter().rev().all(|(sequence, size)| takes(sequence, size));
                page.reverse();
                (page, visible.clone().any(|(sequence, _)| sequence >= end))
            }
            PageRequest::From { start } => {
                let rest = visible.filter(|(sequence, _)| *sequence >= start);
                let is_whole = rest.into_iter().all(|(sequence, size)| takes(sequence, size));
                (page, !is_whole)
            }
            PageRequest::Between { .. } => unreachable!("not asked"),
        }
    }
}

struct Model {
    log: Log,
    ring: Ring,
    upstream: u64,
    /// No message was removed, and the ring was never cleared.
    is_whole: bool,
}

impl Model {
    fn apply(&mut self, event: &Event) {
        match event {
            Event::Publish(sizes) => {
                for size in sizes {
                    self.log.last += 1;
                    self.log.kept.insert(self.log.last, *size);
                }
            }
            Event::Delete(sequence) => self.is_whole &= self.log.kept.remove(sequence).is_none(),
            Event::Purge(sequence) => {
                self.log.kept.retain(|kept, _| kept > sequence);
                self.is_whole = false;
            }
            Event::Upstream(count) => self.upstream(*count),
            Event::Compare => self.ring.compare(&self.log.state()),
            Event::Check => {
                self.ring.compare(&self.log.state());
                self.ring.turn();
            }
            Event::Idle => {
                self.ring.clear();
                self.is_whole = false;
            }
            Event::Page(asked, events) => self.page(asked, events),
        }
    }

    fn upstream(&mut self, count: usize) {
        let mut batch = BatchBuilder::default();
        for (&sequence, &page) in self.log.kept.range(self.upstream + 1..).take(count) {
            let encode = |bytes: &mut bytes::BytesMut| bytes.extend_from_slice(&[sequence as u8; MESSAGE_BYTES]);
            batch.message(sequence, 0, Sizes { payload: 0, page }, encode);
            self.upstream = sequence;
        }
        if let Some(batch) = batch.finish() {
            self.ring.push(batch, at(0));
        }
    }

    fn page(&mut self, asked: &Asked, events: &[Event]) {
        let (state, expected) = (self.log.state(), self.log.page(asked));
        let was_whole = self.is_whole;
        for event in events {
            self.apply(event);
        }
        if state.messages == 0 {
            return;
        }
        let Asked { request, hidden, messages_max, bytes_max } = *asked;
        let first = state.first_sequence.max(hidden + 1);
        let sought = PageSought { request, state, first, messages_max, bytes_max };
        match self.ring.page(&sought, 0) {
            PageFound::Page(page) => {
                let sequences: Vec<u64> =
                    page.slices.iter().flat_map(Slice::encoded).map(|bytes| u64::from(bytes[0])).collect();
                assert_eq!((page.first_sequence, page.last_sequence), (sequences[0], sequences[sequences.len() - 1]));
                assert_eq!((sequences, page.has_newer), expected);
            }
            PageFound::Behind => assert!(self.upstream < state.last_sequence),
            PageFound::NotHeld => {
                // the ring answers whenever it has the whole page, and one message more
                let oldest = expected.0.first().copied().unwrap_or(0);
                let holds = was_whole && self.is_whole && oldest > 0 && self.ring.reaches(oldest.saturating_sub(2));
                assert!(!holds, "the ring has the page {expected:?}");
            }
        }
    }
}

fn batch_of(sequences: std::ops::RangeInclusive<u64>) -> Arc<Batch> {
    super::batch(sequences.map(|sequence| (sequence, 0)))
}

fn newest(state: RoomState) -> PageSought {
    let request = PageRequest::Before { end: u64::MAX };
    PageSought { request, state, first: state.first_sequence, messages_max: 3, bytes_max: 100 }
}

#[test]
fn messages_in_doubt_are_in_no_page() {
    let mut ring = ring(0);
    ring.push(batch_of(1..=6), at(0));
    assert!(matches!(ring.page(&newest(state(1, 6, 6)), 0), PageFound::Page(_)));
    assert!(matches!(ring.page(&newest(state(1, 6, 6)), 3), PageFound::Page(_)));
    assert!(matches!(ring.page(&newest(state(1, 6, 6)), 4), PageFound::NotHeld));
    ring.doubt(4);
    assert!(matches!(ring.page(&newest(state(1, 6, 6)), 0), PageFound::NotHeld));
}

#[test]
fn holes_that_the_ring_does_not_know_are_left_to_the_log() {
    let mut ring = ring(0);
    ring.push(batch_of(1..=6), at(0));
    assert!(matches!(ring.page(&newest(state(1, 6, 5)), 0), PageFound::NotHeld));
    // the comparison puts every message so far in doubt, and later ones are known to be stored
    ring.compare(&state(1, 6, 6));
    ring.compare(&state(1, 6, 5));
    ring.push(batch_of(7..=9), at(0));
    assert!(matches!(ring.page(&newest(state(1, 9, 8)), 0), PageFound::Page(_)));
    assert!(matches!(ring.page(&newest(state(1, 9, 7)), 0), PageFound::NotHeld));
}

#[test]
fn a_stored_message_that_is_under_way_is_awaited() {
    let mut ring = ring(0);
    ring.push(batch_of(1..=6), at(0));
    assert!(matches!(ring.page(&newest(state(1, 7, 7)), 0), PageFound::Behind));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn a_page_from_the_ring_is_the_page_of_the_log(stored in 0..20_u64, events in events()) {
        let log = Log { kept: (1..=stored).map(|sequence| (sequence, 1)).collect(), last: stored };
        let mut model = Model { log, ring: ring(stored), upstream: stored, is_whole: true };
        model.ring.compare(&model.log.state());
        for event in events {
            model.apply(&event);
        }
    }
}
