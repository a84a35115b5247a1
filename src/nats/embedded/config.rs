//! The data directory: its lock, and the server's configuration in it.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use super::error::EmbeddedError;
use crate::limits::EMBEDDED_NATS_PAYLOAD_BYTES_MAX;

/// The only user of the server.
pub(super) const USER: &str = "unibus";

/// The ports to choose from. They are below the ranges from which Linux and macOS take ports for outgoing
/// connections.
///
/// If the port were in those ranges, a client that reconnects while the server is down could get the server's port as
/// its own. It would then be connected to itself (TCP's simultaneous open), and would keep the server from listening.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// Maximum memory of memory-backed streams. The service stores on disk.
const MEMORY_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Maximum number of consumers of a stream. A room is a stream and may have many readers; the server's default of
/// 1000 is too low.
const CONSUMERS_PER_STREAM_MAX: u32 = 1_000_000;

/// The server's port and password. Without `Debug`, which would print the password.
pub(super) struct ListenAddress {
    pub(super) port: u16,
    pub(super) password: String,
}

impl ListenAddress {
    /// Chooses a port that is free now, and a new password.
    pub(super) fn pick() -> io::Result<Self> {
        let password = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
        Ok(Self { port: free_port()?, password })
    }

    /// The address for clients.
    pub(super) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The URL for clients, with the password.
    pub(super) fn url(&self) -> String {
        format!("nats://{USER}:{}@{}", self.password, self.address())
    }
}

fn free_port() -> io::Result<u16> {
    const ATTEMPTS: usize = 64;
    let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    let random = || {
        let (_, low, ..) = Uuid::new_v4().as_fields();
        PORTS.start + low % (PORTS.end - PORTS.start)
    };
    match std::iter::repeat_with(random).take(ATTEMPTS).find(is_free) {
        Some(port) => Ok(port),
        None => Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port()),
    }
}

/// Refuses a directory that other users can change. They could insert their own messages, keys or members.
pub(super) fn check_safe(path: &Path) -> Result<(), EmbeddedError> {
    const OTHERS_WRITE: u32 = 0o022;
    const ALL_WRITE: u32 = 0o002;
    /// In a directory with this bit, only the owner of a file may rename it.
    const STICKY: u32 = 0o1000;
    let refused = |problem| Err(EmbeddedError::DataDirUnsafe { path: path.to_owned(), problem });
    let metadata =
        |path: &Path| fs::metadata(path).map_err(|source| EmbeddedError::DataDir { path: path.to_owned(), source });
    let found = metadata(path)?;
    let own = rustix::process::geteuid().as_raw();
    if found.uid() != own && own != 0 {
        return refused(
            "it belongs to another user; give it to the user that runs the service, or choose another directory",
        );
    }
    if found.mode() & OTHERS_WRITE != 0 {
        return refused("others can write to it; run chmod go-w on it, or choose another directory");
    }
    if let Some(parent) = path.parent() {
        let mode = metadata(parent)?.mode();
        if mode & ALL_WRITE != 0 && mode & STICKY == 0 {
            return refused(
                "everybody can replace it, since everybody can write to the directory that it is in; choose another one",
            );
        }
    }
    Ok(())
}

/// The file in a data directory that its user locks.
pub(super) const LOCK: &str = "lock";

/// A data directory that this process has locked until this is dropped.
#[derive(Debug)]
pub(super) struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Creates the directory if it is missing, and locks it.
    pub(super) fn own(path: &Path) -> Result<Arc<Self>, EmbeddedError> {
        let in_dir = |source| EmbeddedError::DataDir { path: path.to_owned(), source };

        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(in_dir)?;
        // absolute, because a later instance identifies the server's process by this path
        let path = path.canonicalize().map_err(in_dir)?;
        if path.to_str().is_none() {
            return Err(in_dir(io::Error::new(io::ErrorKind::InvalidInput, "its path is not UTF-8")));
        }
        check_safe(&path)?;
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path.join(LOCK))
            .map_err(in_dir)?;
        match lock.try_lock() {
            Ok(()) => Ok(Arc::new(Self { path, _lock: lock })),
            Err(TryLockError::WouldBlock) => Err(EmbeddedError::DataDirLocked { path }),
            Err(TryLockError::Error(source)) => Err(in_dir(source)),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn config_path(&self) -> PathBuf {
        self.path.join("nats.conf")
    }

    pub(super) fn pid_path(&self) -> PathBuf {
        self.path.join("nats.pid")
    }

    /// An error that names this directory.
    pub(super) fn error(&self, source: io::Error) -> EmbeddedError {
        EmbeddedError::DataDir { path: self.path.clone(), source }
    }

    /// Writes the configuration and the URL for `listen_address`. Only this user can read the files.
    pub(super) fn write(&self, listen_address: &ListenAddress) -> io::Result<()> {
        self.write_secret("nats.conf", &self.config(listen_address))?;
        self.write_secret("nats.url", &format!("{}\n", listen_address.url()))
    }

    fn write_secret(&self, name: &str, content: &str) -> io::Result<()> {
        let path = self.path.join(name);
        let new = self.path.join(format!("{name}.new"));
        // an existing file keeps its mode when it is opened, so a secret is never written into one
        match std::fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(content.as_bytes())?;
        std::fs::rename(new, path)
    }

    fn config(&self, listen_address: &ListenAddress) -> String {
        let (address, password) = (listen_address.address(), &listen_address.password);
        let server_name = Uuid::new_v4().simple();
        let pid_file = quoted(&self.pid_path());
        let store_dir = quoted(&self.path.join("jetstream"));
        format!(
            r#"# Written by unibus at every start; changes are lost.
server_name: "unibus-{server_name}"
listen: "{address}"
pid_file: {pid_file}
logtime: false
max_payload: {EMBEDDED_NATS_PAYLOAD_BYTES_MAX}
authorization {{
  user: "{USER}"
  password: "{password}"
}}
jetstream {{
  store_dir: {store_dir}
  sync_interval: always
  max_mem: {MEMORY_BYTES_MAX}
  limits {{
    default_max_consumers: {CONSUMERS_PER_STREAM_MAX}
  }}
}}
"#
        )
    }
}

/// Quotes the path for the server's configuration language.
fn quoted(path: &Path) -> String {
    let mut quoted = String::from('"');
    for c in path.to_string_lossy().chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
