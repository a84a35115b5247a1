//! The signals that stop the service.

use tokio::signal::unix::{SignalKind, signal};

/// Listens for SIGINT and SIGTERM from the moment it is made.
#[derive(Debug)]
pub struct StopSignals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl StopSignals {
    /// Replaces the signals' default, which is to kill the process.
    ///
    /// # Errors
    /// When the operating system refuses to register a handler.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// The next signal, by name.
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
