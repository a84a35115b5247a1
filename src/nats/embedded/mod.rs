//! The nats-server that the service runs as a child process.
//!
//! This module manages the server: the binary, the data directory and its lock, the configuration, one supervised
//! process at a time, and the stop. It does not know the stored data. The caller gets a URL and connects as to any
//! NATS server.
//!
//! Invariants:
//! - One instance uses a data directory (a lock on `<data_dir>/lock`). nats-server itself does not lock its store, and
//!   two servers on one store destroy it.
//! - No server outlives the service. The service holds one end of a pipe; a guard beside the server (`guard.sh`) ends
//!   the server when that pipe closes, for any reason: a stop, a drop, a crash, a SIGKILL.
//! - The URL stays the same over restarts of the server, so clients only have to reconnect.
//!
//! | file in the data directory | what it is |
//! |---|---|
//! | `lock` | locked by the instance |
//! | `nats.conf` | the server's configuration, with its password |
//! | `nats.url` | the URL, with the password, for local native tools: `nats --server "$(cat nats.url)" ...` |
//! | `nats.pid` | the server's process id |
//! | `jetstream/` | the data |

mod binary;
mod config;
pub(crate) mod disk;
mod error;
pub(crate) mod inspect;
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

use clap::Args;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

pub(crate) use self::disk::Disk;
pub(crate) use self::error::EmbeddedError;

use self::{
    config::{DataDir, ListenAddress},
    log::Observed,
    process::Launch,
};

/// Timeout of a start until JetStream answers, including the recovery of the stored data.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// Number of ports to try when another process takes the chosen port before the server listens on it.
const PORT_ATTEMPTS: usize = 5;

/// The embedded nats-server.
#[derive(Clone, Debug, Args)]
pub struct EmbeddedNatsConfig {
    /// Path of the nats-server program for the embedded nats-server; unset: `nats-server` on the PATH
    #[arg(long, env = "UNIBUS_NATS_SERVER", value_name = "FILE")]
    pub nats_server: Option<PathBuf>,

    /// Data directory of the embedded nats-server; only one service at a time can use it
    #[arg(long, env = "UNIBUS_DATA_DIR", value_name = "DIR", default_value = "unibus-data")]
    pub data_dir: PathBuf,
}

impl Default for EmbeddedNatsConfig {
    fn default() -> Self {
        Self { nats_server: None, data_dir: PathBuf::from("unibus-data") }
    }
}

/// A running, supervised nats-server.
///
/// Dropping it ends the server as [`EmbeddedNats::stop`] does, but does not wait.
pub(crate) struct EmbeddedNats {
    url: String,
    observed: Arc<Observed>,
    tasks: TaskTracker,
    stop: DropGuard,
}

/// Without the URL, which contains the password.
impl fmt::Debug for EmbeddedNats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedNats").field("pid", &self.pid()).finish_non_exhaustive()
    }
}

/// What is known about the server, also after it was stopped. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct EmbeddedStatus(Arc<Observed>);

impl EmbeddedStatus {
    /// How often the server was started again.
    pub(crate) fn restarts(&self) -> u64 {
        self.0.restarts()
    }
}

impl EmbeddedNats {
    /// Starts the server, and waits until JetStream answers a client.
    ///
    /// # Errors
    ///
    /// After any error, no process is left and the data directory is unlocked.
    ///
    /// # Cancel safety
    ///
    /// If this is dropped, the server ends shortly after.
    pub(crate) async fn start(config: EmbeddedNatsConfig) -> Result<Self, EmbeddedError> {
        let binary = binary::find(config.nats_server).await?;
        let data_dir = DataDir::own(&config.data_dir)?;
        stale::clear(&data_dir).await?;

        let mut attempt = 1;
        loop {
            let listen_address = ListenAddress::pick().map_err(|source| data_dir.error(source))?;
            match Self::start_at(&binary, &data_dir, &listen_address).await {
                Err(error) if error.is_port_taken() && attempt < PORT_ATTEMPTS => {
                    tracing::warn!(%error, "another process took the port of the embedded nats-server, trying another port");
                    attempt += 1;
                }
                outcome => return outcome,
            }
        }
    }

    async fn start_at(
        binary: &Path,
        data_dir: &Arc<DataDir>,
        listen_address: &ListenAddress,
    ) -> Result<Self, EmbeddedError> {
        data_dir.write(listen_address).map_err(|source| data_dir.error(source))?;

        let stop = CancellationToken::new();
        let disk = Disk::new(data_dir.path().to_owned());
        let observed = Arc::new(Observed::new(disk));
        let launch = Launch::new(binary, Arc::clone(data_dir), Arc::clone(&observed), stop.clone());

        let mut first = Box::pin(launch.run());
        let mut ready = pin!(tokio::time::timeout(READY_WITHIN, ready::jetstream(listen_address)));
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
        tracing::info!(pid = observed.pid(), port = listen_address.port, data_dir = %data_dir.path().display(), "the embedded nats-server is ready");

        let tasks = TaskTracker::new();
        tasks.spawn(supervise::run(launch, first));
        tasks.close();
        Ok(Self { url: listen_address.url(), observed, tasks, stop: stop.drop_guard() })
    }

    /// `nats://user:password@127.0.0.1:port`. It stays the same while `self` lives.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The process id of nats-server. `None` while it is down.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.observed.pid()
    }

    /// The disk of the data directory.
    pub(crate) fn disk(&self) -> Disk {
        self.observed.disk.clone()
    }

    /// What the service tells about the server.
    pub(crate) fn status(&self) -> EmbeddedStatus {
        EmbeddedStatus(Arc::clone(&self.observed))
    }

    /// Stops the server in order, or kills it if that takes too long. Waits until it has ended.
    pub(crate) async fn stop(self) {
        drop(self.stop);
        self.tasks.wait().await;
    }
}
