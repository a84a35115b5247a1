//! When a subscription sends a heartbeat, checks whether it must end, and measures a delivery.

use std::{pin::Pin, sync::LazyLock, time::Duration};

use futures_util::FutureExt;
use tokio::time::{self, Instant, Sleep};

use crate::{delivery::Batch, metrics::DeliveryMetrics};

/// How often a subscription that always has frames to send checks whether it must end.
const ENDING_CHECK_INTERVAL: Duration = Duration::from_millis(100);
/// Minimum time between two samples of the time from the store to the delivery.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(10);

/// Heartbeats are aligned to 16 points of the interval, so those of one connection share a write.
const BEATS: u32 = 16;
static BEATS_FROM: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Times the heartbeats, and the checks for an end while frames are always ready.
pub(super) struct Pace {
    heartbeat_interval: Duration,
    timer: Pin<Box<Sleep>>,
    sent_at: Instant,
    polled_at: Instant,
    sampled_at: Option<Instant>,
}

impl Pace {
    pub(super) fn new(heartbeat_interval: Duration) -> Self {
        let now = Instant::now();
        let timer = Box::pin(time::sleep_until(beat(now, heartbeat_interval)));
        Self { heartbeat_interval, timer, sent_at: now, polled_at: now, sampled_at: None }
    }

    /// Records that a frame was sent.
    pub(super) fn sent(&mut self) {
        self.sent_at = Instant::now();
    }

    /// Waits until a heartbeat is due: no frame was sent for nearly the heartbeat interval. Returns before the
    /// interval is over.
    ///
    /// # Cancel safety
    /// May be dropped at any point.
    pub(super) async fn silent(&mut self) {
        loop {
            self.timer.as_mut().await;
            let due = beat(self.sent_at, self.heartbeat_interval);
            if due <= Instant::now() {
                return;
            }
            // resetting the timer at each frame would cost more than this loop
            self.timer.as_mut().reset(due);
        }
    }

    /// Measures how long ago the messages of a live batch were stored, if [`SAMPLE_INTERVAL`] has passed.
    pub(super) fn sample(&mut self, batch: &Batch, metrics: &DeliveryMetrics) {
        let now = Instant::now();
        if self.sampled_at.is_none_or(|sampled_at| now - sampled_at >= SAMPLE_INTERVAL)
            && let Some(stored_at) = batch.oldest()
        {
            self.sampled_at = Some(now);
            // the clocks of NATS and of this machine may differ
            metrics.delay.observe(stored_at.elapsed().unwrap_or_default());
        }
    }

    /// Polls `end` once if [`ENDING_CHECK_INTERVAL`] has passed since the last poll.
    pub(super) fn poll_sometimes<T>(&mut self, end: impl Future<Output = T>) -> Option<T> {
        if self.polled_at.elapsed() <= ENDING_CHECK_INTERVAL {
            return None;
        }
        self.polled_at = Instant::now();
        end.now_or_never()
    }
}

/// The last heartbeat point within `interval` after `since`.
fn beat(since: Instant, interval: Duration) -> Instant {
    let end = since + interval;
    let after_last = end.duration_since(*BEATS_FROM).as_nanos() % (interval / BEATS).as_nanos().max(1);
    end - Duration::from_nanos(u64::try_from(after_last).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_of_life_come_within_the_interval_and_together() {
        let interval = Duration::from_secs(15);
        let start = *BEATS_FROM;
        let beats: std::collections::BTreeSet<_> = (0..15_000)
            .map(|milliseconds| {
                let sent_at = start + Duration::from_millis(milliseconds);
                let beat = beat(sent_at, interval);
                assert!((interval.mul_f64(0.9375)..=interval).contains(&(beat - sent_at)), "{:?}", beat - sent_at);
                beat
            })
            .collect();
        assert_eq!(beats.len(), BEATS as usize);
        assert_eq!(beat(start, Duration::from_nanos(1)), start + Duration::from_nanos(1));
    }
}
