//! Checks the space on the disk of the data directory, and whether nats-server has frozen a stream for lack of space.
//!
//! nats-server 2.15 freezes a stream after a failed write. It then stores nothing in the stream until it restarts,
//! even if there is space. So publishes are refused before the disk is full.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rustix::fs::statvfs;
use tokio::{
    sync::Notify,
    time::{self, Instant},
};
use tracing::{info, warn};

use crate::{
    limits::{DISK_CHECK_INTERVAL, DISK_RESERVE_BYTES_MAX, DISK_RESERVE_BYTES_MIN, DISK_RESERVE_SHARE},
    sync::lock,
};

/// How often the disk is checked while the server has a frozen stream.
const SPACE_INTERVAL: Duration = Duration::from_millis(500);

/// The disk of a data directory. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Disk(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    checked: Mutex<Option<(Instant, bool)>>,
    is_frozen: AtomicBool,
    froze: Notify,
}

impl Disk {
    pub(super) fn new(path: PathBuf) -> Self {
        let (checked, is_frozen, froze) = (Mutex::default(), AtomicBool::new(false), Notify::new());
        Self(Arc::new(Inner { path, checked, is_frozen, froze }))
    }

    /// The space on the disk now; `None` if it cannot be read.
    pub(crate) fn space(&self) -> Option<DiskSpace> {
        space(&self.0.path).ok()
    }

    /// Returns true if the free space is below the reserve for nats-server's own writes and for the registry.
    pub(crate) fn is_low(&self) -> bool {
        let mut checked = lock(&self.0.checked);
        if let Some((at, is_low)) = *checked
            && at.elapsed() < DISK_CHECK_INTERVAL
        {
            return is_low;
        }
        let is_low = space(&self.0.path).is_ok_and(|disk| disk.free < disk.reserve);
        let was_low = checked.replace((Instant::now(), is_low)).is_some_and(|(_, was_low)| was_low);
        let data_dir = self.0.path.display();
        match (was_low, is_low) {
            (false, true) => {
                warn!(%data_dir, "the disk of the data directory is nearly full: publishes are refused until it has space");
            }
            (true, false) => info!(%data_dir, "the disk of the data directory has space again: publishes are accepted"),
            _ => {}
        }
        is_low
    }

    /// Returns true if nats-server has frozen a stream since it was started.
    pub(crate) fn is_frozen(&self) -> bool {
        self.0.is_frozen.load(Ordering::Relaxed)
    }

    pub(super) fn set_frozen(&self) {
        if !self.0.is_frozen.swap(true, Ordering::Relaxed) {
            self.0.froze.notify_one();
        }
    }

    pub(super) fn set_started(&self) {
        self.0.is_frozen.store(false, Ordering::Relaxed);
    }

    /// Waits until nats-server has frozen a stream and there is space again.
    ///
    /// # Cancel safety
    /// May be dropped at any point.
    pub(super) async fn can_thaw(&self) {
        while !self.is_frozen() {
            self.0.froze.notified().await;
        }
        while self.is_low() {
            time::sleep(SPACE_INTERVAL).await;
        }
    }
}

/// The space of a disk, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DiskSpace {
    pub free: u64,
    pub size: u64,
    /// With less free space, publishes are refused.
    pub reserve: u64,
}

/// The space of the disk that `path` is on.
pub(super) fn space(path: &Path) -> io::Result<DiskSpace> {
    let disk = statvfs(path)?;
    let bytes = |blocks: u64| blocks.saturating_mul(disk.f_frsize);
    let size = bytes(disk.f_blocks);
    Ok(DiskSpace { free: bytes(disk.f_bavail), size, reserve: reserve(size) })
}

/// The reserve on a disk of `size` bytes.
fn reserve(size: u64) -> u64 {
    (size / DISK_RESERVE_SHARE).clamp(DISK_RESERVE_BYTES_MIN, DISK_RESERVE_BYTES_MAX)
}
