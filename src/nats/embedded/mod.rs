//! The nats-server that the service runs as its own child process.
//!
//! Owns the server's whole life: which binary serves, its data directory and who may own it, its configuration, one
//! supervised process at a time, and its end. Refuses to know what is stored in it: the caller gets a URL and connects
//! as to any other NATS.
//!
//! What holds at any moment:
//! - One owner for a data directory (a lock on `<data_dir>/lock`), because nats-server itself does not lock its store
//!   and two servers on one store destroy it.
//! - No server outlives the service. The service holds one end of a pipe; a guard beside the server (`guard.sh`) ends
//!   the server when that pipe closes, for whatever reason it does: a stop, a drop, a crash, a SIGKILL.
//! - The URL stays the same over restarts of the server, so that clients only ever have to reconnect.
//!
//! | file in the data directory | what it is |
//! |---|---|
//! | `lock` | locked by the owner |
//! | `nats.conf` | the server's configuration, with its password |
//! | `nats.url` | the URL, with the password, for local native tools: `nats --server "$(cat nats.url)" ...` |
//! | `nats.pid` | the server's process id |
//! | `jetstream/` | the data |

mod binary;
mod config;
pub(crate) mod disk;
mod error;
mod log;
mod process;
mod ready;
mod stale;
mod supervise;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

pub(crate) use self::disk::Disk;
pub(crate) use self::error::EmbeddedError;

use self::{
    config::{DataDir, Endpoint},
    log::Observed,
    process::Launch,
};

/// How long a start may take until JetStream answers, recovery of the stored data included.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// How many ports are tried when another process takes the chosen one before the server listens on it.
const PORT_ATTEMPTS: usize = 5;

/// What the embedded server needs to know.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// The nats-server to run; when absent the one named by `UNIBUS_NATS_SERVER`, else the first on the `PATH`.
    pub(crate) binary: Option<PathBuf>,
    /// Where everything is kept; created when it is missing.
    pub(crate) data_dir: PathBuf,
}

/// A running, supervised nats-server.
///
/// Dropping it ends the server as [`EmbeddedNats::stop`] does, only without waiting for it.
pub(crate) struct EmbeddedNats {
    url: String,
    observed: Arc<Observed>,
    tasks: TaskTracker,
    stop: DropGuard,
}

/// Without the URL, which has the password.
impl fmt::Debug for EmbeddedNats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedNats").field("pid", &self.pid()).finish_non_exhaustive()
    }
}

impl EmbeddedNats {
    /// Starts the server and returns when JetStream answers a client.
    ///
    /// # Errors
    ///
    /// Whatever the error, no process is left behind and the data directory is free again.
    ///
    /// # Cancel safety
    ///
    /// When dropped, the server ends shortly after.
    pub(crate) async fn start(options: Options) -> Result<Self, EmbeddedError> {
        let binary = binary::find(options.binary).await?;
        let data_dir = DataDir::own(&options.data_dir)?;
        stale::clear(&data_dir).await?;

        let mut attempt = 1;
        loop {
            let endpoint = Endpoint::pick().map_err(|source| data_dir.error(source))?;
            match Self::start_at(&binary, &data_dir, &endpoint).await {
                Err(error) if error.is_port_taken() && attempt < PORT_ATTEMPTS => {
                    tracing::warn!(%error, "another process took the port of the embedded nats-server, trying another port");
                    attempt += 1;
                }
                outcome => return outcome,
            }
        }
    }

    async fn start_at(binary: &Path, data_dir: &Arc<DataDir>, endpoint: &Endpoint) -> Result<Self, EmbeddedError> {
        data_dir.write(endpoint).map_err(|source| data_dir.error(source))?;

        let stop = CancellationToken::new();
        let disk = Disk::new(data_dir.path().to_owned());
        let observed = Arc::new(Observed::new(disk));
        let launch = Launch::new(binary, Arc::clone(data_dir), Arc::clone(&observed), stop.clone());

        let mut first = Box::pin(launch.run());
        let mut ready = pin!(tokio::time::timeout(READY_WITHIN, ready::jetstream(endpoint)));
        let ready = tokio::select! {
            ended = &mut first => {
                return Err(match ended {
                    Ok(status) => EmbeddedError::Exited { status, log: observed.recent() },
                    Err(source) => EmbeddedError::Spawn { source },
                });
            }
            ready = &mut ready => ready,
        };
        if ready.is_err() {
            stop.cancel();
            let _ended = first.await;
            return Err(EmbeddedError::NotReady { within: READY_WITHIN, log: observed.recent() });
        }
        tracing::info!(pid = observed.pid(), port = endpoint.port, data_dir = %data_dir.path().display(), "the embedded nats-server is ready");

        let tasks = TaskTracker::new();
        tasks.spawn(supervise::run(launch, first));
        tasks.close();
        Ok(Self { url: endpoint.url(), observed, tasks, stop: stop.drop_guard() })
    }

    /// `nats://user:password@127.0.0.1:port`, the same for as long as `self` lives.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The process id of nats-server; none while it is down.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.observed.pid()
    }

    /// The disk of the data directory.
    pub(crate) fn disk(&self) -> Disk {
        self.observed.disk.clone()
    }

    /// Ends the server in good order, or forcibly when that takes too long, and returns when it is gone.
    pub(crate) async fn stop(self) {
        drop(self.stop);
        self.tasks.wait().await;
    }
}
