//! The signals that stop the service.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Receives SIGINT, SIGTERM and SIGHUP from the moment it is made. SIGHUP stops the service too: it means that the
/// terminal was closed. The service does not need SIGHUP as a reload signal, because it follows its changed files by
/// itself.
#[derive(Debug)]
pub struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
    /// `None` when the process ignores SIGHUP, as under nohup.
    hangup: Option<Signal>,
}

impl StopSignals {
    /// Replaces the default action of the signals, which is to kill the process. A SIGHUP that the process ignores, as
    /// under nohup, stays ignored.
    ///
    /// # Errors
    /// When the operating system refuses to register a handler.
    pub fn listen() -> std::io::Result<Self> {
        let hangup = if ignores_hangup() { None } else { Some(signal(SignalKind::hangup())?) };
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())?, hangup })
    }

    /// Waits for the next signal and returns its name.
    ///
    /// # Cancel safety
    /// May be dropped at any point without losing a signal.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
            () = received(self.hangup.as_mut()) => "SIGHUP",
        }
    }
}

async fn received(signal: Option<&mut Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
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
