//! Restarts the embedded nats-server when it ends unexpectedly.

use std::io;
use std::pin::Pin;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use super::{process::Launch, stale};

const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// A run of at least this length resets the backoff.
const HEALTHY_AFTER: Duration = Duration::from_secs(30);

/// Waits for the end of the first run, which has already started. Starts a new run after each end, until `stop` is
/// cancelled.
pub(super) async fn run(launch: Launch, first: Pin<Box<impl Future<Output = io::Result<ExitStatus>>>>) {
    let mut started = Instant::now();
    let mut backoff = BACKOFF_MIN;
    let mut outcome = first.await;
    while !launch.stop.is_cancelled() {
        if started.elapsed() >= HEALTHY_AFTER {
            backoff = BACKOFF_MIN;
        }
        match &outcome {
            Ok(_) if launch.observed.disk.is_frozen() => {
                tracing::warn!(?backoff, "the disk has space again; the embedded nats-server is started again");
            }
            Ok(status) => {
                tracing::error!(%status, ?backoff, "the embedded nats-server ended unexpectedly and is started again");
            }
            Err(error) => {
                tracing::error!(%error, ?backoff, "the embedded nats-server could not be started, trying again");
            }
        }
        let paused = launch.stop.run_until_cancelled(tokio::time::sleep(backoff)).await;
        if paused.is_none() {
            break;
        }
        backoff = BACKOFF_MAX.min(backoff * 2);

        if let Err(error) = stale::clear(&launch.data_dir).await {
            outcome = Err(io::Error::other(error));
            continue;
        }
        started = Instant::now();
        launch.observed.count_restart();
        outcome = launch.run().await;
    }
    match outcome {
        Ok(status) => tracing::info!(%status, "the embedded nats-server has stopped"),
        Err(error) => tracing::warn!(%error, "the embedded nats-server has stopped with an error"),
    }
}
