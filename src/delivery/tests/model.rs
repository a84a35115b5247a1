//! A model test of the switch between log and ring. The model has a log as a set, an upstream that reads it,
//! subscriptions that read the log or the ring, and clients that grant windows. Events occur in random order.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use proptest::prelude::*;

use super::{MESSAGE_BYTES, at, deleted, ring, state};
use crate::{
    delivery::{Batch, BatchBuilder, EphemeralDelivery, LogDelivery, Next, ReadFrom, Ring, Sizes, Slice, Step},
    domain::{Gap, GapReason, Removals, RoomState},
};

const SUBSCRIBERS: usize = 3;

#[derive(Clone, Debug)]
enum Event {
    /// Stores this number of messages, with a lifetime in seconds if they have one.
    Publish(usize, Option<u64>),
    /// Deletes a sequence; `true`: by the service, `false`: natively.
    Delete(u64, bool),
    /// Purges up to a sequence; `true`: by the service, `false`: natively.
    Purge(u64, bool),
    /// Lets this number of seconds pass.
    Pass(u64),
    /// Compares the ring with the log.
    Check,
    /// Lets the upstream read at most this number of messages.
    Upstream(usize),
    /// Clears the ring, as after a while without messages.
    Idle,
    /// Lets a subscription read; from the log at most this number of messages.
    Read(usize, usize),
    /// Lets a subscription check whether the end of its backlog was deleted.
    CheckEnd(usize),
    /// Makes a subscription read the log from its position again, as after a lost connection.
    Reconnect(usize),
    /// Grows the window of a client by this number of bytes. The transport sends the chunks that fit.
    Grant(usize, usize),
    /// Ends a subscription and opens it again at its acknowledged position.
    Resume(usize),
    /// Ends all subscriptions, and with them the upstream; then opens them again.
    Abandon,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let index = 0..SUBSCRIBERS;
    let event = prop_oneof![
        5 => (1..4_usize).prop_map(|count| Event::Publish(count, None)),
        1 => (1..4_usize, 1..4_u64).prop_map(|(count, seconds)| Event::Publish(count, Some(seconds))),
        1 => (1..60_u64, any::<bool>()).prop_map(|(sequence, registered)| Event::Delete(sequence, registered)),
        1 => (1..3_u64).prop_map(Event::Pass),
        1 => Just(Event::Check),
        1 => (1..60_u64, any::<bool>()).prop_map(|(sequence, registered)| Event::Purge(sequence, registered)),
        5 => (1..5_usize).prop_map(Event::Upstream),
        1 => Just(Event::Idle),
        9 => (index.clone(), 1..5_usize).prop_map(|(index, count)| Event::Read(index, count)),
        1 => index.clone().prop_map(Event::CheckEnd),
        1 => index.clone().prop_map(Event::Reconnect),
        6 => (index.clone(), 1..40_usize).prop_map(|(index, bytes)| Event::Grant(index, bytes)),
        1 => index.prop_map(Event::Resume),
        1 => Just(Event::Abandon),
    ];
    proptest::collection::vec(event, 0..200)
}

/// A subscription, its client, and the frames that the client has received.
struct Client {
    delivery: LogDelivery,
    started_after: u64,
    received: BTreeSet<u64>,
    caught_up: usize,
    backlog_end: u64,
    /// Sequences that were missing when the subscription opened.
    gone: BTreeSet<u64>,
    /// The position of its reader in the log, while it reads the log.
    behind: Option<u64>,
    /// The end of the encoded bytes in the body.
    encoded: usize,
    /// The position that is complete with the encoded bytes.
    encoded_to: u64,
    /// The chunks that were not taken yet: the end of each in the body, and the position that is complete with it.
    chunks: VecDeque<(usize, u64)>,
    /// The total of bytes that the client's window has allowed.
    window: usize,
    taken: u64,
}

impl Client {
    fn open(position: u64, log: &Log) -> Self {
        let (delivery, steps) = LogDelivery::open(position, &log.state(), log.expires, log.removals());
        let mut client = Self {
            delivery,
            started_after: position,
            received: BTreeSet::new(),
            caught_up: 0,
            backlog_end: log.last,
            gone: (1..=log.last).filter(|sequence| !log.kept.contains_key(sequence)).collect(),
            behind: None,
            encoded: 0,
            encoded_to: 0,
            chunks: VecDeque::new(),
            window: 0,
            taken: 0,
        };
        client.apply(None, steps, log);
        client
    }

    fn apply(&mut self, batch: Option<&Arc<Batch>>, steps: Vec<Step>, log: &Log) {
        for step in steps {
            let (bytes, position) = match step {
                Step::Deliver(range) => {
                    let batch = batch.unwrap();
                    for item in &batch.items()[range.clone()] {
                        self.receive(item.sequence);
                        assert!(log.was_stored(item.sequence));
                        assert!(
                            log.removals().reason(item.sequence).is_none(),
                            "{} is known to be removed",
                            item.sequence
                        );
                        assert!(!self.gone.contains(&item.sequence), "{} was gone at the opening", item.sequence);
                    }
                    let slice = Slice::new(batch, range.clone());
                    let expected: Vec<u8> =
                        batch.items()[range].iter().flat_map(|item| [item.sequence as u8; MESSAGE_BYTES]).collect();
                    assert_eq!(slice.bytes(), expected);
                    (slice.bytes(), slice.last_sequence())
                }
                Step::Gap(gap) => {
                    assert!(gap.from <= gap.to);
                    for sequence in gap.from..=gap.to {
                        assert!(!log.kept.contains_key(&sequence), "a gap names {sequence}, which is stored");
                        self.receive(sequence);
                    }
                    (Bytes::from_static(b"gap"), gap.to)
                }
                Step::CaughtUp(position) => {
                    self.caught_up += 1;
                    assert!(position >= self.backlog_end);
                    assert_eq!(self.received.last().copied().unwrap_or(self.started_after), position);
                    (Bytes::from_static(b"end"), 0)
                }
            };
            self.encoded += bytes.len();
            self.encoded_to = self.encoded_to.max(position);
            self.chunks.push_back((self.encoded, self.encoded_to));
        }
    }

    fn receive(&mut self, sequence: u64) {
        let before = self.received.last().copied().unwrap_or(self.started_after);
        assert_eq!(sequence, before + 1, "a sequence is missing, or comes twice, or out of order");
        self.received.insert(sequence);
    }

    fn read(&mut self, ring: &Ring, log: &Log, count: usize) {
        self.delivery.removed(log.removals());
        let position = self.delivery.position();
        match self.delivery.source(ring) {
            ReadFrom::Ring => {
                self.behind = None;
                match ring.next(position) {
                    Next::Batch(batch) => {
                        let steps = self.delivery.arrive(batch.items(), false);
                        for step in &steps {
                            let Step::Deliver(range) = step else { continue };
                            for item in &batch.items()[range.clone()] {
                                assert!(!log.forgotten.contains(&item.sequence), "{} is long gone", item.sequence);
                            }
                        }
                        self.apply(Some(&batch), steps, log);
                    }
                    Next::Nothing => {}
                    Next::Lagged { .. } => panic!("the ring was chosen"),
                }
            }
            ReadFrom::Log => {
                let from = *self.behind.get_or_insert(position);
                if let Some((batch, to)) = log.read(from, count) {
                    self.behind = Some(to);
                    let ends_log = log.kept.range(to + 1..).next().is_none();
                    let steps = self.delivery.arrive(batch.items(), ends_log);
                    self.apply(Some(&batch), steps, log);
                }
            }
        }
    }

    /// Acts as the transport: it sends the bytes that fit the window, and a chunk reports its position with its last
    /// byte. Returns the newest reported position.
    fn transport(&mut self, granted: usize) -> u64 {
        self.window += granted;
        while let Some((_, position)) = self.chunks.pop_front_if(|(end, _)| *end <= self.window) {
            self.taken = position;
        }
        self.taken
    }
}

struct Log {
    /// For each sequence, when it was stored, and when its lifetime ends.
    kept: BTreeMap<u64, (u64, Option<u64>)>,
    last: u64,
    expires: bool,
    /// The last sequence that the registry knows as purged.
    purged: u64,
    /// Sequences that the service deleted.
    deleted: BTreeSet<u64>,
    now: u64,
    /// Sequences that no ring has: they were missing two checks ago, or had expired when the ring last dropped expired
    /// messages.
    forgotten: BTreeSet<u64>,
}

impl Log {
    fn first(&self) -> u64 {
        self.kept.first_key_value().map_or(self.last + 1, |(first, _)| *first)
    }

    fn removals(&self) -> Removals {
        Removals { purged: self.purged, ..deleted(self.deleted.iter().copied()) }
    }

    fn state(&self) -> RoomState {
        state(self.first(), self.last, self.kept.len() as u64)
    }

    fn was_stored(&self, sequence: u64) -> bool {
        sequence <= self.last
    }

    /// The next messages after `from` as a batch, and the position after them.
    fn read(&self, from: u64, count: usize) -> Option<(Arc<Batch>, u64)> {
        let mut before = from;
        let mut batch = BatchBuilder::default();
        for (&sequence, &(stored_at, ends_at)) in self.kept.range(from + 1..).take(count) {
            let first_kept = if sequence > before + 1 { self.first() } else { 0 };
            before = sequence;
            batch.lasts(at(stored_at), ends_at.map(at));
            batch.message(sequence, first_kept, Sizes::default(), |bytes| {
                bytes.extend_from_slice(&[sequence as u8; MESSAGE_BYTES]);
            });
        }
        batch.finish().map(|batch| (batch, before))
    }
}

struct Model {
    log: Log,
    ring: Ring,
    upstream: u64,
    /// Sequences that were missing at the last check.
    gone: BTreeSet<u64>,
    clients: Vec<Client>,
    /// The positions of the durable subscribers.
    acked: Vec<u64>,
}

impl Model {
    fn upstream(&mut self, count: usize) {
        if let Some((batch, to)) = self.log.read(self.upstream, count) {
            self.upstream = to;
            self.ring.push(batch, at(self.log.now));
        }
    }

    fn resume(&mut self, index: usize) {
        self.ring.compare(&self.log.state());
        self.clients[index] = Client::open(self.acked[index], &self.log);
    }

    fn apply(&mut self, event: &Event) {
        match *event {
            Event::Publish(count, lifetime) => {
                for _ in 0..count {
                    self.log.last += 1;
                    let ends_at = lifetime.map(|seconds| self.log.now + seconds);
                    self.log.kept.insert(self.log.last, (self.log.now, ends_at));
                }
            }
            Event::Delete(sequence, registered) => {
                if self.log.kept.remove(&sequence).is_some() && registered {
                    self.log.deleted.insert(sequence);
                    self.ring.doubt(sequence);
                }
            }
            Event::Pass(seconds) => {
                self.log.now += seconds;
                let now = self.log.now;
                let ended = |(_, ends_at): &(u64, Option<u64>)| ends_at.is_some_and(|ends_at| ends_at <= now);
                let expired: Vec<u64> =
                    self.log.kept.iter().filter(|(_, kept)| ended(kept)).map(|(sequence, _)| *sequence).collect();
                self.log.kept.retain(|_, kept| !ended(kept));
                self.ring.expire(at(now), None);
                // the upstream never receives expired messages that it has not read yet
                self.log.forgotten.extend(expired);
            }
            Event::Check => {
                self.ring.compare(&self.log.state());
                self.ring.turn();
                let gone: BTreeSet<u64> = (1..=self.log.last).filter(|seq| !self.log.kept.contains_key(seq)).collect();
                let before = std::mem::replace(&mut self.gone, gone);
                self.log.forgotten.extend(before);
            }
            Event::Purge(sequence, registered) => {
                self.log.kept.retain(|kept, _| *kept > sequence);
                if registered {
                    self.log.purged = self.log.purged.max(sequence.min(self.log.last));
                }
            }
            Event::Upstream(count) => self.upstream(count),
            Event::Idle => self.ring.clear(),
            Event::Read(index, count) => self.clients[index].read(&self.ring, &self.log, count),
            Event::CheckEnd(index) => {
                let client = &mut self.clients[index];
                let position = client.delivery.position();
                if !client.delivery.is_caught_up() && self.log.kept.range(position + 1..).next().is_none() {
                    let steps = client.delivery.nothing_follows(&self.log.state());
                    client.apply(None, steps, &self.log);
                }
            }
            Event::Reconnect(index) => self.clients[index].behind = None,
            Event::Grant(index, bytes) => {
                let taken = self.clients[index].transport(bytes);
                self.acked[index] = self.acked[index].max(taken);
            }
            Event::Resume(index) => self.resume(index),
            Event::Abandon => {
                self.upstream = self.log.last;
                self.ring = ring(self.upstream);
                self.gone.clear();
                (0..SUBSCRIBERS).for_each(|index| self.resume(index));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn every_message_comes_once_and_in_order_whatever_comes_between(
        stored in 0..30_u64,
        expires: bool,
        starts in proptest::collection::vec(0..30_u64, SUBSCRIBERS),
        events in events(),
    ) {
        let log = Log {
            kept: (1..=stored).map(|sequence| (sequence, (0, None))).collect(),
            last: stored,
            expires,
            purged: 0,
            deleted: BTreeSet::new(),
            now: 0,
            forgotten: BTreeSet::new(),
        };
        let acked: Vec<u64> = starts.into_iter().map(|start| start.min(stored)).collect();
        let clients = acked.iter().map(|start| Client::open(*start, &log)).collect();
        let mut model = Model { log, ring: ring(stored), upstream: stored, gone: BTreeSet::new(), clients, acked };
        // each subscription compares when it opens
        model.ring.compare(&model.log.state());
        for event in events {
            model.apply(&event);
            for (client, acked) in model.clients.iter().zip(&model.acked) {
                let position = client.delivery.position();
                prop_assert_eq!(client.received.last().copied().unwrap_or(client.started_after), position);
                prop_assert!(*acked <= position.max(client.started_after));
            }
        }
        // in the end every stored message arrives, and gaps name the sequences that are missing up to the end of the
        // backlog
        model.upstream(usize::MAX);
        for index in 0..SUBSCRIBERS {
            for _ in 0..100 {
                model.apply(&Event::Read(index, 5));
                model.apply(&Event::CheckEnd(index));
            }
            model.apply(&Event::Grant(index, 1_000_000));
            let client = &model.clients[index];
            let newest = model.log.kept.keys().last().copied().unwrap_or(0);
            prop_assert!(client.delivery.position() >= newest, "{} of {newest}", client.delivery.position());
            prop_assert_eq!(client.caught_up, 1);
            prop_assert_eq!(model.acked[index], client.delivery.position().max(client.started_after));
        }
    }

    #[test]
    fn in_an_ephemeral_room_what_is_told_and_what_is_dropped_adds_up(
        events in proptest::collection::vec(prop_oneof![
            4 => (1..4_usize).prop_map(Some),
            2 => Just(Some(0)),
            3 => Just(None),
        ], 0..200),
    ) {
        let mut ring = ring(0);
        let mut delivery = EphemeralDelivery::open(0, 0);
        let (mut number, mut published, mut lost_connections) = (0, 0_u64, 0);
        let (mut delivered, mut dropped, mut disconnected) = (0_u64, 0, 0);
        for event in events.into_iter().chain([None; 50]) {
            match event {
                // the connection is lost
                Some(0) => {
                    let mut batch = BatchBuilder::default();
                    (number, lost_connections) = (number + 1, lost_connections + 1);
                    batch.disconnected(number);
                    ring.push(batch.finish().unwrap(), at(0));
                }
                Some(count) => {
                    let mut batch = BatchBuilder::default();
                    for _ in 0..count {
                        (number, published) = (number + 1, published + 1);
                        batch.message(number, 0, Sizes::default(), |bytes| bytes.extend_from_slice(b"m"));
                    }
                    ring.push(batch.finish().unwrap(), at(0));
                }
                None => {
                    let steps = match ring.next(delivery.position()) {
                        Next::Batch(batch) => delivery.arrive(batch.items()),
                        Next::Lagged { after, disconnections } => delivery.lagged(after, disconnections),
                        Next::Nothing => continue,
                    };
                    for step in steps {
                        match step {
                            Step::Deliver(range) => delivered += range.len() as u64,
                            Step::Gap(Gap { reason: GapReason::SlowReader, dropped: count, .. }) => dropped += count,
                            Step::Gap(gap) => {
                                prop_assert_eq!(gap.reason, GapReason::Disconnected);
                                disconnected += 1;
                            }
                            Step::CaughtUp(_) => panic!("an ephemeral room has no backlog"),
                        }
                    }
                }
            }
        }
        prop_assert_eq!(delivered + dropped, published);
        prop_assert!(disconnected <= lost_connections);
        prop_assert_eq!(disconnected > 0, lost_connections > 0);
        prop_assert_eq!(delivery.position(), number);
    }
}
