//! Open loop: calls start at a fixed rate, whether or not earlier calls have ended. The time of a call counts from the
//! moment at which it was due. So a slow answer does not hide the calls that it holds up (coordinated omission).
//!
//! A thread of its own keeps the pace, because timers of the runtime have a resolution of 1 ms.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use tokio::{
    runtime::Handle,
    task::{JoinSet, spawn_blocking},
};

use crate::measure::Turn;

/// Latencies in nanoseconds, from 1 us to one minute, with three digits.
#[derive(Clone, Debug)]
pub(crate) struct Latencies(Histogram<u64>);

impl Latencies {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self(Histogram::new_with_bounds(1_000, 60_000_000_000, 3).map_err(|error| anyhow::anyhow!("{error}"))?))
    }

    pub(crate) fn record(&mut self, latency: Duration) {
        self.0.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
    }

    pub(crate) fn add(&mut self, other: &Self) {
        // both have the same bounds, so nothing can fail
        let _ = self.0.add(&other.0);
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.len()
    }

    /// Seconds below which this share of the calls lies.
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        self.0.value_at_quantile(share) as f64 / 1e9
    }

    /// Points of the distribution, with eight for each further decimal of the share, as far as the calls reach.
    pub(crate) fn points(&self) -> Vec<(f64, f64)> {
        let reach = (self.count().max(1) as f64).log10().min(5.0);
        let shares = (0..=40).map(|step| f64::from(step) / 8.0).take_while(|nines| *nines <= reach);
        shares.map(|nines| 1.0 - 10_f64.powf(-nines)).map(|share| (share, self.quantile(share))).collect()
    }
}

/// When each call was due and when it had ended.
pub(crate) type Times = Vec<(Instant, Instant)>;

/// Starts `per_second` calls a second for `duration`, and waits for all of them. Each call receives its number. Returns
/// when each call was due and when it had ended, by number.
pub(crate) async fn paced<F>(
    per_second: u32,
    duration: Duration,
    call: impl Fn(u64) -> F + Send + 'static,
) -> Result<Times>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let runtime = Handle::current();
    let count = (duration.as_secs_f64() * f64::from(per_second)).ceil() as u32;
    #[allow(clippy::disallowed_methods, reason = "a thread for blocking work, and no thread of the runtime")]
    let mut calls = spawn_blocking(move || {
        wake_in_time();
        let mut calls = JoinSet::new();
        let started = Instant::now() + Duration::from_millis(1);
        for number in 0..count {
            let due = started + Duration::from_secs(1) * number / per_second;
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let call = call(u64::from(number));
            let timed = async move {
                call.await?;
                anyhow::Ok((number, due, Instant::now()))
            };
            calls.spawn_on(timed, &runtime);
        }
        calls
    })
    .await?;
    let mut times = Vec::with_capacity(count as usize);
    while let Some(done) = calls.join_next().await {
        times.push(done??);
    }
    times.sort_unstable_by_key(|(number, ..)| *number);
    Ok(times.into_iter().map(|(_, due, done)| (due, done)).collect())
}

/// Like [`paced`]. Returns the distribution with the figures `p50`, `p99` and `p99.9`.
pub(crate) async fn at_rate<F>(
    per_second: u32,
    duration: Duration,
    call: impl Fn(u64) -> F + Send + 'static,
) -> Result<Turn>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    turn(&paced(per_second, duration, call).await?)
}

/// The turn of these calls.
pub(crate) fn turn(times: &Times) -> Result<Turn> {
    let mut latencies = Latencies::new()?;
    for (due, done) in times {
        latencies.record(done.saturating_duration_since(*due));
    }
    Turn::distribution(latencies)
}

/// Linux lets a sleep last 50 us longer than asked for, which is more than some calls take. This thread asks for 1 ns.
fn wake_in_time() {
    let set = || {
        let thread = fs::read_link("/proc/thread-self")?;
        let id = thread.file_name().context("a thread")?.to_owned();
        fs::write(std::path::Path::new("/proc").join(id).join("timerslack_ns"), "1")?;
        anyhow::Ok(())
    };
    // without it every side has the same 50 us more
    let _ = set();
}
