//! What publishers and subscribers have counted, and what it adds up to.

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::cli::{failure::Failure, text::as_float};

/// Significant digits of a latency.
const LATENCY_DIGITS: u8 = 3;
/// The longest latency that is told apart; it bounds the size of a histogram.
const LATENCY_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// The percentiles that are shown, each with its name for people and in JSON.
pub(super) const PERCENTILES: [(f64, &str, &str); 4] =
    [(0.5, "P50", "p50"), (0.9, "P90", "p90"), (0.99, "P99", "p99"), (0.999, "P99.9", "p999")];

/// A set of numbers that are mostly consecutive, one bit for each.
#[derive(Clone, Debug, Default)]
pub(super) struct Numbers {
    words: Vec<u64>,
    count: u64,
}

impl Numbers {
    /// Adds a number. Returns whether it is new.
    pub(super) fn insert(&mut self, number: u64) -> bool {
        let index = usize::try_from(number / 64).unwrap_or(usize::MAX);
        if index >= self.words.len() {
            self.words.resize(index.saturating_add(1), 0);
        }
        let Some(word) = self.words.get_mut(index) else { return false };
        let bit = 1 << (number % 64);
        let is_new = *word & bit == 0;
        *word |= bit;
        self.count += u64::from(is_new);
        is_new
    }

    /// How many numbers it has.
    pub(super) fn len(&self) -> u64 {
        self.count
    }

    /// How many of these numbers `other` does not have.
    fn missing_in(&self, other: &Self) -> u64 {
        let others = other.words.iter().chain(std::iter::repeat(&0));
        self.words.iter().zip(others).map(|(ours, theirs)| u64::from((ours & !theirs).count_ones())).sum()
    }
}

/// Latencies, in microseconds. `None` in it is impossible: the number of digits is valid.
#[derive(Clone)]
pub(super) struct Latencies(Option<Histogram<u64>>);

impl fmt::Debug for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.json())
    }
}

impl Latencies {
    pub(super) fn new() -> Self {
        Self(Histogram::new(LATENCY_DIGITS).ok())
    }

    /// Adds a latency.
    pub(super) fn record(&mut self, latency: Duration) {
        if let Some(histogram) = &mut self.0 {
            let micros = u64::try_from(latency.min(LATENCY_MAX).as_micros()).unwrap_or(u64::MAX);
            // the histogram grows up to the value
            let _ = histogram.record(micros);
        }
    }

    fn add(&mut self, other: &Self) {
        if let (Some(ours), Some(theirs)) = (&mut self.0, &other.0) {
            // a histogram that grows takes every other one
            let _ = ours.add(theirs);
        }
    }

    /// The latency in microseconds that this share of the messages does not exceed; `None` without messages.
    pub(super) fn quantile(&self, share: f64) -> Option<u64> {
        self.0.as_ref().filter(|latencies| !latencies.is_empty()).map(|latencies| latencies.value_at_quantile(share))
    }

    /// The longest latency in microseconds; `None` without messages.
    pub(super) fn max(&self) -> Option<u64> {
        self.quantile(1.0)
    }

    /// In milliseconds.
    fn json(&self) -> Value {
        let millis = |micros: Option<u64>| micros.map(|micros| Duration::from_micros(micros).as_secs_f64() * 1e3);
        let mut object: serde_json::Map<_, _> = PERCENTILES
            .iter()
            .map(|(share, _, name)| ((*name).to_owned(), json!(millis(self.quantile(*share)))))
            .collect();
        object.insert("max".to_owned(), json!(millis(self.max())));
        Value::Object(object)
    }
}

/// The time from the first message to the last one.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TimeSpan(Option<(Instant, Instant)>);

impl TimeSpan {
    /// Extends the span to this time.
    pub(super) fn extend(&mut self, at: Instant) {
        let (first, last) = self.0.unwrap_or((at, at));
        self.0 = Some((first.min(at), last.max(at)));
    }

    fn join(&mut self, other: Self) {
        if let Some((first, last)) = other.0 {
            self.extend(first);
            self.extend(last);
        }
    }

    fn seconds(self) -> f64 {
        self.0.map_or(0.0, |(first, last)| last.duration_since(first).as_secs_f64())
    }
}

/// What one publisher has counted in one phase.
#[derive(Debug)]
pub(super) struct PublisherTally {
    /// The number of the publisher among all publishers.
    pub(super) publisher: u32,
    /// Messages that were handed to the connection.
    pub(super) sent: u64,
    /// Messages that the service confirmed.
    pub(super) acknowledged: Numbers,
    /// From the call, or from the time at which the message was due, to the acknowledgement.
    pub(super) latencies: Latencies,
    /// From the first message sent to the last acknowledgement.
    pub(super) span: TimeSpan,
    /// Messages that were not confirmed, by reason.
    pub(super) errors: BTreeMap<String, u64>,
    /// The first of the errors.
    pub(super) first_error: Option<Failure>,
}

impl PublisherTally {
    pub(super) fn new(publisher: u32) -> Self {
        Self {
            publisher,
            sent: 0,
            acknowledged: Numbers::default(),
            latencies: Latencies::new(),
            span: TimeSpan::default(),
            errors: BTreeMap::new(),
            first_error: None,
        }
    }

    /// Counts a message that was not confirmed.
    pub(super) fn failed(&mut self, failure: Failure) {
        *self.errors.entry(failure.reason().unwrap_or("NO_ANSWER").to_owned()).or_default() += 1;
        self.first_error.get_or_insert(failure);
    }
}

/// What one subscriber has counted. Messages of the warm-up are not counted.
#[derive(Debug)]
pub(super) struct SubscriberTally {
    /// The number of its room.
    pub(super) room: usize,
    /// The messages of each publisher.
    pub(super) seen: BTreeMap<u32, Numbers>,
    /// Messages that came again.
    pub(super) duplicated: u64,
    /// From the call, or from the time at which the message was due, to the arrival.
    pub(super) latencies: Latencies,
    /// From the first arrival to the last one.
    pub(super) span: TimeSpan,
}

impl SubscriberTally {
    pub(super) fn new(room: usize) -> Self {
        Self { room, seen: BTreeMap::new(), duplicated: 0, latencies: Latencies::new(), span: TimeSpan::default() }
    }
}

/// One side of a run: what was published, or what was delivered.
#[derive(Debug)]
pub(super) struct SideTotal {
    pub(super) messages: u64,
    pub(super) seconds: f64,
    pub(super) latencies: Latencies,
}

impl SideTotal {
    /// Messages per second.
    pub(super) fn rate(&self) -> f64 {
        if self.seconds > 0.0 { as_float(self.messages) / self.seconds } else { 0.0 }
    }

    /// The side in JSON.
    pub(super) fn json(&self, message_bytes: u64) -> Value {
        json!({
            "messages": self.messages,
            "seconds": self.seconds,
            "perSecond": self.rate(),
            "bytesPerSecond": self.rate() * as_float(message_bytes),
            "latencyMs": self.latencies.json(),
        })
    }
}

/// What the tallies add up to.
#[derive(Debug)]
pub(super) struct Totals {
    pub(super) publish: SideTotal,
    pub(super) deliver: SideTotal,
    /// Messages that were handed to a connection.
    pub(super) sent: u64,
    /// Deliveries of acknowledged messages that the subscribers had to get.
    pub(super) expected: u64,
    /// Those of them that did not come.
    pub(super) lost: u64,
    pub(super) duplicated: u64,
    pub(super) errors: BTreeMap<String, u64>,
    pub(super) first_error: Option<Failure>,
}

impl Totals {
    /// Adds up the tallies. Publisher `n` publishes in the room `n / publishers_per_room`.
    pub(super) fn of(publishers: Vec<PublisherTally>, subscribers: &[SubscriberTally], per_room: u32) -> Self {
        let (mut sent_span, mut delivered_span) = (TimeSpan::default(), TimeSpan::default());
        let side = || SideTotal { messages: 0, seconds: 0.0, latencies: Latencies::new() };
        let mut totals = Self {
            publish: side(),
            deliver: side(),
            sent: 0,
            expected: 0,
            lost: 0,
            duplicated: 0,
            errors: BTreeMap::new(),
            first_error: None,
        };
        let nothing = Numbers::default();
        for subscriber in subscribers {
            totals.deliver.messages += subscriber.seen.values().map(Numbers::len).sum::<u64>();
            totals.deliver.latencies.add(&subscriber.latencies);
            totals.duplicated += subscriber.duplicated;
            delivered_span.join(subscriber.span);
            for publisher in publishers.iter().filter(|one| room_of(one.publisher, per_room) == subscriber.room) {
                let seen = subscriber.seen.get(&publisher.publisher).unwrap_or(&nothing);
                totals.expected += publisher.acknowledged.len();
                totals.lost += publisher.acknowledged.missing_in(seen);
            }
        }
        for publisher in publishers {
            totals.sent += publisher.sent;
            totals.publish.messages += publisher.acknowledged.len();
            totals.publish.latencies.add(&publisher.latencies);
            sent_span.join(publisher.span);
            for (reason, count) in publisher.errors {
                *totals.errors.entry(reason).or_default() += count;
            }
            totals.first_error = totals.first_error.or(publisher.first_error);
        }
        if let Some((first, _)) = sent_span.0.filter(|_| totals.deliver.messages > 0) {
            // the time of deliveries begins when the first message was sent
            delivered_span.extend(first);
        }
        (totals.publish.seconds, totals.deliver.seconds) = (sent_span.seconds(), delivered_span.seconds());
        totals
    }

    /// Messages that were not confirmed, for all reasons.
    pub(super) fn failed(&self) -> u64 {
        self.errors.values().sum()
    }
}

/// The number of the room in which this publisher publishes.
pub(super) fn room_of(publisher: u32, per_room: u32) -> usize {
    usize::try_from(publisher / per_room.max(1)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Latencies, Numbers, PublisherTally, SubscriberTally, Totals};
    use crate::cli::{exit::Exit, failure::Failure};

    fn numbers(given: impl IntoIterator<Item = u64>) -> Numbers {
        let mut numbers = Numbers::default();
        for number in given {
            numbers.insert(number);
        }
        numbers
    }

    fn publisher(publisher: u32, acknowledged: impl IntoIterator<Item = u64>) -> PublisherTally {
        PublisherTally { acknowledged: numbers(acknowledged), ..PublisherTally::new(publisher) }
    }

    #[test]
    fn a_number_is_new_once() {
        let mut seen = Numbers::default();
        assert_eq!([0, 63, 64, 1000, 64, 0].map(|number| seen.insert(number)), [true, true, true, true, false, false]);
        assert_eq!(seen.len(), 4);
        assert_eq!((seen.missing_in(&numbers([0, 64])), numbers([0]).missing_in(&seen)), (2, 0));
    }

    #[test]
    fn a_message_is_lost_only_if_it_was_acknowledged_and_a_subscriber_of_its_room_missed_it() {
        // two rooms with two publishers each; the first room has two subscribers, the second has one
        let publishers = vec![publisher(0, 0..10), publisher(1, 0..5), publisher(2, 0..3), publisher(3, [])];
        let subscriber = |room, seen: Vec<(u32, Numbers)>| SubscriberTally {
            seen: seen.into_iter().collect(),
            ..SubscriberTally::new(room)
        };
        let subscribers = [
            subscriber(0, vec![(0, numbers(0..10)), (1, numbers(0..5))]),
            // message 7 of publisher 0 is missing, and message 9 of publisher 1 has no acknowledgement
            subscriber(0, vec![(0, numbers((0..10).filter(|number| *number != 7))), (1, numbers(0..10))]),
            subscriber(1, vec![]),
        ];
        let totals = Totals::of(publishers, &subscribers, 2);
        assert_eq!((totals.publish.messages, totals.expected, totals.lost), (18, 33, 4));
        assert_eq!(totals.deliver.messages, 15 + 19);
    }

    #[test]
    fn errors_are_counted_by_reason_and_the_first_one_is_kept() {
        let mut tally = publisher(0, []);
        tally.failed(Failure::new(Exit::Timeout, "first"));
        tally.failed(Failure::new(Exit::Timeout, "second"));
        let totals = Totals::of(vec![tally], &[], 1);
        assert_eq!((totals.errors.get("NO_ANSWER"), totals.failed()), (Some(&2), 2));
        assert_eq!(totals.first_error.map(|failure| failure.summary()), Some("first".to_owned()));
        assert!(totals.publish.rate().abs() < f64::EPSILON);
    }

    #[test]
    fn latencies_of_all_are_one_distribution() {
        let mut all = Latencies::new();
        assert_eq!((all.quantile(0.5), all.max()), (None, None));
        for (micros, times) in [(100, 98), (5_000, 1), (2_000_000, 1)] {
            let mut one = Latencies::new();
            (0..times).for_each(|_| one.record(Duration::from_micros(micros)));
            all.add(&one);
        }
        let near =
            |found: Option<u64>, expected: u64| found.is_some_and(|found| found.abs_diff(expected) <= expected / 500);
        assert!(
            near(all.quantile(0.5), 100) && near(all.quantile(0.99), 5_000) && near(all.max(), 2_000_000),
            "{all:?}"
        );
    }
}
