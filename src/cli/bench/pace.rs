//! When messages are due.
//!
//! Without a rate a publisher sends its next message as soon as it may: then only the answers hold it up. With a rate
//! all messages of a run have their times before the run begins (an open loop). A service that is slow for a moment
//! then makes messages late, and the latency of a message counts from the time at which it was due.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// How long the waking thread may sleep, so that it notices the end of a phase.
const SLEEP_MAX: Duration = Duration::from_millis(50);

/// When a phase ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PhaseEnd {
    /// After this number of messages of all publishers.
    Messages(u64),
    /// This long after its beginning.
    After(Duration),
}

/// The times of all messages of a phase. The publishers take turns: message `n` belongs to publisher `n % publishers`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    pub(super) begins: Instant,
    pub(super) end: PhaseEnd,
    /// Publishers of all rooms.
    pub(super) publishers: u32,
    /// Messages per second of all publishers; `None`: as many as the service takes.
    pub(super) rate: Option<u64>,
}

impl Schedule {
    /// When message `number` of a publisher is due, or `None` if the phase ends before it. `now` is the time of the
    /// question.
    pub(super) fn due(&self, publisher: u32, number: u64, now: Instant) -> Option<Instant> {
        let among_all = u128::from(number) * u128::from(self.publishers) + u128::from(publisher);
        let due = match self.rate {
            None => now,
            Some(rate) => self.begins + Self::offset(among_all, rate)?,
        };
        let is_inside = match self.end {
            PhaseEnd::Messages(messages) => among_all < u128::from(messages),
            PhaseEnd::After(length) => due.saturating_duration_since(self.begins) < length,
        };
        is_inside.then_some(due)
    }

    /// From the beginning of the phase to message `among_all`.
    fn offset(among_all: u128, rate: u64) -> Option<Duration> {
        let nanos = among_all.checked_mul(1_000_000_000)? / u128::from(rate.max(1));
        u64::try_from(nanos).ok().map(Duration::from_nanos)
    }

    /// Wakes each publisher when it has a message that is due, until the phase ends or is stopped. Blocks its thread:
    /// the timers of the runtime count milliseconds, which is longer than many a latency.
    pub(super) fn wake(&self, publishers: &[Arc<Notify>], stop: &CancellationToken) {
        let Some(rate) = self.rate else { return };
        let mut next: u128 = 0;
        while !stop.is_cancelled() {
            let now = Instant::now();
            let elapsed = now.saturating_duration_since(self.begins).as_nanos();
            // the first message that is not due yet
            let ahead = (elapsed * u128::from(rate) / 1_000_000_000) + 1;
            let ahead = if now < self.begins { 0 } else { ahead };
            let new = usize::try_from(ahead.saturating_sub(next)).unwrap_or(usize::MAX).min(publishers.len());
            let first = usize::try_from(next % u128::from(self.publishers.max(1))).unwrap_or_default();
            publishers.iter().cycle().skip(first).take(new).for_each(|publisher| publisher.notify_one());
            next = next.max(ahead);
            let Some(offset) = Self::offset(next, rate) else { return };
            let wait = (self.begins + offset).saturating_duration_since(Instant::now());
            thread::park_timeout(wait.min(SLEEP_MAX));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{
        sync::Arc,
        time::{Duration, Instant},
    };

    use tokio::sync::Notify;
    use tokio_util::sync::CancellationToken;

    use super::{PhaseEnd, Schedule};

    fn schedule(end: PhaseEnd, publishers: u32, rate: Option<u64>) -> Schedule {
        Schedule { begins: Instant::now(), end, publishers, rate }
    }

    #[test]
    fn publishers_share_the_messages_of_a_phase() {
        let of = schedule(PhaseEnd::Messages(10), 3, None);
        let count = |publisher| (0..100).take_while(|number| of.due(publisher, *number, of.begins).is_some()).count();
        assert_eq!([0, 1, 2].map(count), [4, 3, 3]);
    }

    #[test]
    fn a_rate_fixes_the_times_of_all_messages_in_advance() {
        let of = schedule(PhaseEnd::After(Duration::from_secs(1)), 2, Some(1000));
        let late = of.begins + Duration::from_secs(60);
        let due =
            |publisher, number| of.due(publisher, number, late).map(|due| due.duration_since(of.begins).as_millis());
        assert_eq!([due(0, 0), due(1, 0), due(0, 1), due(1, 499)], [Some(0), Some(1), Some(2), Some(999)]);
        assert_eq!([due(0, 500), due(1, 500), due(1, u64::MAX)], [None, None, None]);
    }

    #[test]
    fn without_a_rate_a_message_is_due_at_once_until_the_time_is_over() {
        let of = schedule(PhaseEnd::After(Duration::from_secs(1)), 1, None);
        let at = |millis| of.begins + Duration::from_millis(millis);
        assert_eq!(of.due(0, 1_000_000, at(999)), Some(at(999)));
        assert_eq!(of.due(0, 0, at(1000)), None);
    }

    #[tokio::test]
    async fn every_publisher_is_woken_for_its_messages() {
        let of = schedule(PhaseEnd::Messages(u64::MAX), 3, Some(100));
        let (wakers, stop): (Vec<_>, _) = ((0..3).map(|_| Arc::new(Notify::new())).collect(), CancellationToken::new());
        let thread = {
            let (wakers, stop) = (wakers.clone(), stop.clone());
            tokio::task::spawn_blocking(move || of.wake(&wakers, &stop))
        };
        for _ in 0..3 {
            for waker in &wakers {
                waker.notified().await;
            }
        }
        // three messages of three publishers: the last is due after 80 ms
        assert!(of.begins.elapsed() >= Duration::from_millis(70), "{:?}", of.begins.elapsed());
        stop.cancel();
        thread.await.unwrap();
    }
}
