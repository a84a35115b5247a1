//! Waiting for what takes a moment, without a guess of how long.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::time::{Instant, sleep, timeout_at};

/// Repeats `attempt` until it succeeds; panics with its last reason when `deadline` has passed. An attempt that hangs
/// does not outlive the deadline.
pub(crate) async fn eventually<T, F>(deadline: Duration, mut attempt: F) -> T
where
    F: AsyncFnMut() -> Result<T, String>,
{
    let end = Instant::now() + deadline;
    let mut reason = String::from("the first attempt did not return");
    loop {
        match timeout_at(end, attempt()).await {
            Ok(Ok(value)) => return value,
            Ok(Err(why)) => reason = why,
            Err(elapsed) => panic!("{elapsed} ({deadline:?}) in an attempt; before it: {reason}"),
        }
        assert!(Instant::now() < end, "not within {deadline:?}, last reason: {reason}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until a counter has grown by this much. Panics after `deadline`.
pub(crate) async fn grows_by(deadline: Duration, counter: &AtomicU64, more: u64) {
    let before = counter.load(Ordering::Relaxed);
    eventually(deadline, async || {
        let grown = counter.load(Ordering::Relaxed) - before;
        (grown >= more).then_some(()).ok_or_else(|| format!("{grown} of {more}"))
    })
    .await;
}
