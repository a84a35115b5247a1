//! The types of metrics. All series of a metric exist from the start, so the first event of a kind is a change that a
//! monitoring system sees. Recording an event takes no lock.

use std::{
    fmt::{self, Debug},
    marker::PhantomData,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder, NoLabelSet},
    metrics::MetricType,
};

pub(crate) use prometheus_client::metrics::counter::Counter;

/// Shards of a [`ShardedCounter`].
const SHARDS: usize = 8;

static NEXT_SHARD: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// The shard that this thread counts in.
    static SHARD: usize = NEXT_SHARD.fetch_add(1, Ordering::Relaxed) % SHARDS;
}

/// A part of a count, on a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard(AtomicU64);

/// A counter of an event that all threads count very often. Threads do not wait for each other's cache lines.
#[derive(Clone, Debug, Default)]
pub(crate) struct ShardedCounter(Arc<[Shard; SHARDS]>);

impl ShardedCounter {
    pub(crate) fn inc_by(&self, count: u64) {
        let shard = SHARD.try_with(|shard| *shard).unwrap_or_default();
        if let Some(Shard(counted)) = self.0.get(shard) {
            counted.fetch_add(count, Ordering::Relaxed);
        }
    }

    fn get(&self) -> u64 {
        self.0.iter().map(|Shard(counted)| counted.load(Ordering::Relaxed)).fold(0, u64::wrapping_add)
    }
}

impl EncodeMetric for ShardedCounter {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        encoder.encode_counter::<NoLabelSet, _, u64>(&self.get(), None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Counter
    }
}

/// A distribution of observed values.
#[derive(Clone, Debug)]
pub(crate) struct Histogram(Arc<Distribution>);

#[derive(Debug)]
struct Distribution {
    /// Upper bounds of all buckets but the last, which has none.
    bounds: &'static [f64],
    /// The number of values in each bucket.
    buckets: Box<[AtomicU64]>,
    /// In units of `unit`.
    sum: AtomicU64,
    unit: f64,
}

/// The unit of the sum of durations.
const NANOSECOND: f64 = 1e-9;

impl Histogram {
    /// A distribution of durations. The `bounds` are in seconds.
    pub(super) fn of_durations(bounds: &'static [f64]) -> Self {
        Self::new(bounds, NANOSECOND)
    }

    /// A distribution of numbers.
    pub(super) fn of_numbers(bounds: &'static [f64]) -> Self {
        Self::new(bounds, 1.0)
    }

    fn new(bounds: &'static [f64], unit: f64) -> Self {
        let buckets = (0..=bounds.len()).map(|_| AtomicU64::default()).collect();
        Self(Arc::new(Distribution { bounds, buckets, sum: AtomicU64::default(), unit }))
    }

    pub(crate) fn observe(&self, duration: Duration) {
        self.add(duration.as_secs_f64(), u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    }

    pub(crate) fn observe_number(&self, number: u64) {
        self.add(float(number), number);
    }

    fn add(&self, value: f64, units: u64) {
        let Distribution { bounds, buckets, sum, .. } = &*self.0;
        if let Some(bucket) = buckets.get(bounds.partition_point(|bound| *bound < value)) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        sum.fetch_add(units, Ordering::Relaxed);
    }
}

impl EncodeMetric for Histogram {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let Distribution { bounds, buckets, sum, unit } = &*self.0;
        let bounds = bounds.iter().copied().chain([f64::INFINITY]);
        let buckets: Vec<_> = bounds.zip(buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed))).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        encoder.encode_histogram::<NoLabelSet>(float(sum.load(Ordering::Relaxed)) * unit, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

/// A value that is read when the metrics are scraped. A value that is not known has no series.
#[derive(Clone, Debug)]
pub(crate) struct Reading(Arc<AtomicU64>);

impl Default for Reading {
    fn default() -> Self {
        Self(Arc::new(AtomicU64::new(f64::NAN.to_bits())))
    }
}

impl Reading {
    pub(crate) fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Ordering::Relaxed);
    }

    pub(crate) fn set_number(&self, number: u64) {
        self.set(float(number));
    }

    /// Sets the value if it is known.
    pub(crate) fn set_known(&self, number: Option<u64>) {
        self.set(number.map_or(f64::NAN, float));
    }

    fn get(&self) -> Option<f64> {
        Some(f64::from_bits(self.0.load(Ordering::Relaxed))).filter(|value| !value.is_nan())
    }
}

impl EncodeMetric for Reading {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        self.get().map_or(Ok(()), |value| encoder.encode_gauge(&value))
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Gauge
    }
}

/// A [`Reading`] of something that only grows.
#[derive(Clone, Debug, Default)]
pub(crate) struct CountReading(Reading);

impl CountReading {
    pub(crate) fn set(&self, value: f64) {
        self.0.set(value);
    }

    pub(crate) fn set_number(&self, number: u64) {
        self.0.set_number(number);
    }
}

impl EncodeMetric for CountReading {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        self.0.get().map_or(Ok(()), |value| encoder.encode_counter::<NoLabelSet, _, u64>(&value, None))
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Counter
    }
}

/// The names and values of the labels of a series.
pub(super) type LabelPairs = Vec<(&'static str, &'static str)>;

/// A closed set of labels.
pub(crate) trait LabelSet: Copy + Debug + Send + Sync + 'static {
    /// All members, each at its index.
    fn all() -> Vec<Self>;

    fn index(self) -> usize;

    fn pairs(self) -> LabelPairs;
}

impl<A: LabelSet, B: LabelSet> LabelSet for (A, B) {
    fn all() -> Vec<Self> {
        A::all().into_iter().flat_map(|a| B::all().into_iter().map(move |b| (a, b))).collect()
    }

    fn index(self) -> usize {
        self.0.index() * B::all().len() + self.1.index()
    }

    fn pairs(self) -> LabelPairs {
        [self.0.pairs(), self.1.pairs()].concat()
    }
}

/// A metric with one series for each member of a closed set of labels.
#[derive(Debug)]
pub(crate) struct PerLabel<L, M> {
    series: Arc<[M]>,
    labels: PhantomData<L>,
}

impl<L, M> Clone for PerLabel<L, M> {
    fn clone(&self) -> Self {
        Self { series: Arc::clone(&self.series), labels: PhantomData }
    }
}

impl<L: LabelSet, M: Default> Default for PerLabel<L, M> {
    fn default() -> Self {
        Self { series: L::all().iter().map(|_| M::default()).collect(), labels: PhantomData }
    }
}

impl<L: LabelSet, M> PerLabel<L, M> {
    /// The series of this label.
    pub(crate) fn of(&self, label: L) -> Option<&M> {
        self.series.get(label.index())
    }
}

impl<L: LabelSet> PerLabel<L, Counter> {
    pub(crate) fn inc(&self, label: L) {
        self.inc_by(label, 1);
    }

    pub(crate) fn inc_by(&self, label: L, count: u64) {
        if let Some(counter) = self.of(label) {
            counter.inc_by(count);
        }
    }
}

impl<L: LabelSet> PerLabel<L, Reading> {
    pub(crate) fn set(&self, label: L, value: f64) {
        if let Some(reading) = self.of(label) {
            reading.set(value);
        }
    }

    pub(crate) fn set_number(&self, label: L, number: u64) {
        self.set(label, float(number));
    }

    /// Sets the value if it is known.
    pub(crate) fn set_known(&self, label: L, number: Option<u64>) {
        self.set(label, number.map_or(f64::NAN, float));
    }
}

impl<L: LabelSet, M: EncodeMetric + Default> EncodeMetric for PerLabel<L, M> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        for (label, metric) in L::all().into_iter().zip(self.series.iter()) {
            metric.encode(encoder.encode_family(&label.pairs())?)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        M::default().metric_type()
    }
}

/// Exact for every number below 2^53.
#[expect(clippy::cast_precision_loss, reason = "counts and bytes stay far below 2^53")]
pub(super) fn float(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use prometheus_client::{encoding::prometheus_text::encode, registry::Registry};

    use super::*;

    fn encoded(metric: impl prometheus_client::registry::Metric) -> Vec<String> {
        let mut registry = Registry::default();
        registry.register("it", "help", metric);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    }

    #[test]
    fn a_value_falls_into_the_first_bucket_whose_bound_it_does_not_exceed() {
        let histogram = Histogram::of_durations(&[0.001, 1.0]);
        for millis in [0, 1, 2, 1000, 1001] {
            histogram.observe(Duration::from_millis(millis));
        }
        let expected = ["it_bucket{le=\"0.001\"} 2", "it_bucket{le=\"1\"} 4", "it_bucket{le=\"+Inf\"} 5"];
        let lines = encoded(histogram);
        assert_eq!(lines.get(..3).unwrap(), expected);
        assert_eq!(lines.last().unwrap(), "it_count 5");
        let sum = lines.iter().find_map(|line| line.strip_prefix("it_sum ")).unwrap();
        assert!((sum.parse::<f64>().unwrap() - 2.004).abs() < 1e-9, "{sum}");
    }

    #[test]
    fn what_threads_count_adds_up() {
        let counter = ShardedCounter::default();
        std::thread::scope(|scope| {
            for _ in 0..3 * SHARDS {
                scope.spawn(|| (0..1000).for_each(|_| counter.inc_by(2)));
            }
        });
        assert_eq!(encoded(counter), [format!("it_total {}", 3 * SHARDS * 2000)]);
    }

    #[test]
    fn an_unknown_value_has_no_series() {
        let reading = Reading::default();
        assert!(encoded(reading.clone()).is_empty());
        reading.set_known(Some(7));
        assert_eq!(encoded(reading.clone()), ["it 7.0"]);
        reading.set_known(None);
        assert!(encoded(reading).is_empty());
    }
}
