//! What the server writes: into the service's log, and the last lines kept for an error.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard};

use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};

use super::disk::Disk;
use crate::sync::lock;

/// How the guard tells the server's process id.
const PID_PREFIX: &str = "unibus-guard: nats-server pid ";

/// What the server writes, once for each stream, when a write has failed and the stream stores nothing more.
const FROZEN: &str = "ritical write error";

/// What counts as a warning here.
const WARNING_LEVELS: [&str; 3] = ["[WRN]", "[ERR]", "[FTL]"];

/// A warning that comes at every start and means nothing here: the configuration is for the owner's eyes only.
const EXPECTED_WARNING: &str = "Plaintext passwords detected";

/// How many lines are kept.
const RECENT_LINES: usize = 20;

/// What has been seen of the server from outside.
#[derive(Debug)]
pub(super) struct Observed {
    pub(super) disk: Disk,
    /// 0 while it is down.
    pid: AtomicU32,
    recent: Mutex<VecDeque<String>>,
}

impl Observed {
    pub(super) fn new(disk: Disk) -> Self {
        Self { disk, pid: AtomicU32::new(0), recent: Mutex::default() }
    }

    pub(super) fn pid(&self) -> Option<u32> {
        match self.pid.load(Ordering::Relaxed) {
            0 => None,
            pid => Some(pid),
        }
    }

    pub(super) fn set_down(&self) {
        self.pid.store(0, Ordering::Relaxed);
    }

    /// The last lines that the server wrote.
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

/// Reads until every writer is gone.
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
