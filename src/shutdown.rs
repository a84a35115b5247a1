//! The signals that stop the service, and the signal that makes it read its configuration again.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Receives SIGINT and SIGTERM from the moment it is made.
#[derive(Debug)]
pub struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    /// Replaces the default action of the signals, which is to kill the process.
    ///
    /// # Errors
    /// When the operating system refuses to register a handler.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Waits for the next signal and returns its name.
    ///
    /// # Cancel safety
    /// May be dropped at any point without losing a signal.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}

/// Receives SIGHUP from the moment it is made.
#[derive(Debug)]
pub struct ReloadSignals {
    /// `None` when the process ignores SIGHUP, as under nohup.
    hangup: Option<Signal>,
}

impl ReloadSignals {
    /// Replaces the default action of SIGHUP, which is to kill the process. A SIGHUP that the process ignores, as under
    /// nohup, stays ignored.
    ///
    /// # Errors
    /// When the operating system refuses to register a handler.
    pub fn listen() -> std::io::Result<Self> {
        let hangup = if ignores_hangup() { None } else { Some(signal(SignalKind::hangup())?) };
        Ok(Self { hangup })
    }

    /// Waits for the next SIGHUP; for ever, if the process ignores it. Several at once count as one.
    ///
    /// # Cancel safety
    /// May be dropped at any point without losing a signal.
    pub async fn next(&mut self) {
        match &mut self.hangup {
            Some(signal) => drop(signal.recv().await),
            None => std::future::pending().await,
        }
    }
}

/// Whether the process ignores SIGHUP, as nohup arranges. `false` when the system does not report it (outside Linux).
fn ignores_hangup() -> bool {
    const SIGHUP_BIT: u64 = 1;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_some_and(|mask| mask & SIGHUP_BIT != 0)
}
