//! What a start of the embedded nats-server would find. Starts nothing. For `unibus check`.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use uuid::Uuid;

use super::{
    binary,
    config::{LOCK, check_safe},
    disk::{self, DiskSpace},
    error::EmbeddedError,
};
use crate::nats::version::Version;

/// How often a write is timed. The median is taken.
const SYNCS: usize = 15;
/// Bytes of each write.
const SYNC_BYTES: usize = 4096;

/// The state of a data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DataDirState {
    /// A start creates it.
    Missing,
    Free,
    /// Another service uses it.
    InUse,
}

/// Finds the nats-server program, and its version.
///
/// # Errors
/// As a start of the server.
pub(crate) async fn program(given: Option<PathBuf>) -> Result<(PathBuf, Version), EmbeddedError> {
    binary::find_version(given).await
}

/// Checks the data directory.
///
/// # Errors
/// As a start of the server, but for a directory that is in use.
pub(crate) fn data_dir(path: &Path) -> Result<DataDirState, EmbeddedError> {
    let in_dir = |source| EmbeddedError::DataDir { path: path.to_owned(), source };
    let path = match path.canonicalize() {
        Ok(path) => path,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(DataDirState::Missing),
        Err(error) => return Err(in_dir(error)),
    };
    if !path.is_dir() {
        return Err(in_dir(io::ErrorKind::NotADirectory.into()));
    }
    check_safe(&path)?;
    let lock = match File::open(path.join(LOCK)) {
        Ok(lock) => lock,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(DataDirState::Free),
        Err(error) => return Err(in_dir(error)),
    };
    // a shared lock does not disturb another check; it is released at once
    match lock.try_lock_shared() {
        Ok(()) => Ok(DataDirState::Free),
        Err(TryLockError::WouldBlock) => Ok(DataDirState::InUse),
        Err(TryLockError::Error(source)) => Err(in_dir(source)),
    }
}

/// The directory itself, or the nearest directory above it that exists.
pub(crate) fn existing(path: &Path) -> io::Result<PathBuf> {
    let absolute = std::path::absolute(path)?;
    let existing = absolute.ancestors().find(|path| path.is_dir());
    existing.map(Path::to_owned).ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// The space of the disk that `path` is on.
pub(crate) fn space(path: &Path) -> io::Result<DiskSpace> {
    disk::space(path)
}

/// The median time of a write that is synced to the disk of the directory. Writes a small file, and removes it.
pub(crate) fn sync_time(directory: &Path) -> io::Result<Duration> {
    let path = directory.join(format!(".unibus-check-{}", Uuid::new_v4().simple()));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    let mut times = Vec::with_capacity(SYNCS);
    let written = (0..SYNCS).try_for_each(|_| {
        let begun = Instant::now();
        file.write_all(&[0; SYNC_BYTES])?;
        file.sync_data()?;
        times.push(begun.elapsed());
        Ok(())
    });
    let removed = fs::remove_file(&path);
    written.and(removed)?;
    times.sort_unstable();
    Ok(times.get(SYNCS / 2).copied().unwrap_or_default())
}
