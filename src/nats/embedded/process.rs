//! One run of the server's process, from its start to its end.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::net::unix::pipe;
use tokio::process::{Child, ChildStdin, Command};
use tokio_util::sync::CancellationToken;

use super::{
    config::DataDir,
    log::{self, Observed},
};

/// The script that ends the server when the service is gone. The file describes how.
const GUARD: &str = include_str!("guard.sh");

/// Time limit of the guard for ending the server. It is a little longer than the time after which the guard kills the
/// server.
const STOP_WITHIN: Duration = Duration::from_secs(12);

/// The settings of each run of the server.
#[derive(Debug, Clone)]
pub(super) struct Launch {
    binary: PathBuf,
    pub(super) data_dir: Arc<DataDir>,
    pub(super) observed: Arc<Observed>,
    pub(super) stop: CancellationToken,
}

impl Launch {
    pub(super) fn new(binary: &Path, data_dir: Arc<DataDir>, observed: Arc<Observed>, stop: CancellationToken) -> Self {
        Self { binary: binary.to_owned(), data_dir, observed, stop }
    }

    /// Runs the server until it ends by itself or `stop` is cancelled.
    ///
    /// # Errors
    ///
    /// If the server could not be started.
    ///
    /// # Cancel safety
    ///
    /// If this is dropped, the guard ends the server shortly after.
    pub(super) fn run(&self) -> impl Future<Output = io::Result<ExitStatus>> + Send + use<> {
        let launch = self.clone();
        async move {
            let (output, mut guard) = launch.spawn()?;
            launch.observed.disk.set_started();
            let (status, ()) = tokio::join!(launch.ended(&mut guard), log::follow(output, &launch.observed));
            launch.observed.set_down();
            status
        }
    }

    fn spawn(&self) -> io::Result<(pipe::Receiver, Guard)> {
        let (output, writer) = io::pipe()?;
        let child = Command::new("/bin/sh")
            .args(["-c", GUARD, "unibus-guard"])
            .arg(&self.binary)
            .arg(self.data_dir.config_path())
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(output.try_clone()?)
            .stderr(writer)
            .spawn()?;
        let mut guard = Guard { group: child.id().and_then(as_pid), lifeline: None, child };
        guard.lifeline = guard.child.stdin.take();
        Ok((pipe::Receiver::from_owned_fd(OwnedFd::from(output))?, guard))
    }

    async fn ended(&self, guard: &mut Guard) -> io::Result<ExitStatus> {
        let status = tokio::select! {
            status = guard.child.wait() => status,
            () = self.stop.cancelled() => guard.stop().await,
            () = self.observed.disk.can_thaw() => {
                tracing::warn!("the embedded nats-server froze a stream after a failed write; it is stopped and started again");
                guard.stop().await
            }
        };
        // a killed guard leaves the other processes of its group running
        guard.kill_group();
        status
    }
}

#[derive(Debug)]
struct Guard {
    child: Child,
    group: Option<Pid>,
    /// The server runs while this is open.
    lifeline: Option<ChildStdin>,
}

impl Guard {
    async fn stop(&mut self) -> io::Result<ExitStatus> {
        self.lifeline = None;
        if let Ok(status) = tokio::time::timeout(STOP_WITHIN, self.child.wait()).await {
            return status;
        }
        tracing::warn!(within = ?STOP_WITHIN, "the embedded nats-server did not stop in time and is killed");
        self.kill_group();
        self.child.wait().await
    }

    fn kill_group(&self) {
        if let Some(group) = self.group {
            // the call fails if no process is left, which is the goal
            let _gone = kill_process_group(group, Signal::KILL);
        }
    }
}

/// The process id for the operating system. Never 0, which would be this process's own group.
pub(super) fn as_pid(pid: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(pid).ok()?)
}
