//! Copies the server's output to the service's log, and keeps the last lines for an error.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};

use super::disk::Disk;
use crate::sync::lock;

/// The prefix of the line in which the guard reports the server's process id.
const PID_PREFIX: &str = "unibus-guard: nats-server pid ";

/// The server writes this once for each stream when a write has failed and it has frozen the stream.
const FROZEN: &str = "ritical write error";

/// The server's levels that are logged as warnings.
const WARNING_LEVELS: [&str; 3] = ["[WRN]", "[ERR]", "[FTL]"];

/// A warning of every start, which is harmless: only this user can read the configuration.
const EXPECTED_WARNING: &str = "Plaintext passwords detected";

/// Number of lines that are kept.
const RECENT_LINES: usize = 20;

/// The server's state, as seen from outside.
#[derive(Debug)]
pub(super) struct Observed {
    pub(super) disk: Disk,
    /// 0 while the server is down.
    pid: AtomicU32,
    /// How often the server was started again.
    restarts: AtomicU64,
    recent: Mutex<VecDeque<String>>,
}

impl Observed {
    pub(super) fn new(disk: Disk) -> Self {
        Self { disk, pid: AtomicU32::new(0), restarts: AtomicU64::new(0), recent: Mutex::default() }
    }

    pub(super) fn pid(&self) -> Option<u32> {
        match self.pid.load(Ordering::Relaxed) {
            0 => None,
            pid => Some(pid),
        }
    }

    pub(super) fn restarts(&self) -> u64 {
        self.restarts.load(Ordering::Relaxed)
    }

    pub(super) fn count_restart(&self) {
        self.restarts.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn set_down(&self) {
        self.pid.store(0, Ordering::Relaxed);
    }

    /// The last lines of the server's output.
    pub(super) fn recent(&self) -> String {
        self.lines().make_contiguous().join("\n")
    }

    fn lines(&self) -> MutexGuard<'_, VecDeque<String>> {
        lock(&self.recent)
    }

    fn line(&self, line: &str) {
        if let Some(pid) = line.strip_prefix(PID_PREFIX).and_then(|pid| pid.parse().ok()) {
            self.pid.store(pid, Ordering::Relaxed);
            return;
        }
        if line.contains(FROZEN) {
            self.disk.set_frozen();
        }
        if WARNING_LEVELS.iter().any(|level| line.contains(level)) && !line.contains(EXPECTED_WARNING) {
            tracing::warn!(target: "nats_server", "{line}");
        } else {
            tracing::debug!(target: "nats_server", "{line}");
        }
        let mut lines = self.lines();
        if lines.len() == RECENT_LINES {
            lines.pop_front();
        }
        lines.push_back(line.to_owned());
    }
}

/// Reads the output until every writer has closed it.
pub(super) async fn follow(output: impl AsyncRead + Unpin, observed: &Observed) {
    let mut output = BufReader::new(output);
    let mut line = Vec::new();
    loop {
        line.clear();
        match output.read_until(b'\n', &mut line).await {
            Ok(0) => return,
            Ok(_) => observed.line(String::from_utf8_lossy(&line).trim_end()),
            Err(error) => {
                tracing::warn!(%error, "the output of the embedded nats-server cannot be read");
                return;
            }
        }
    }
}
