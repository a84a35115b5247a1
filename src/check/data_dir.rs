//! The embedded nats-server: its program, its data directory and the disk.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{task::spawn_blocking, time};

use super::{Finding, report::bytes};
use crate::{
    nats::{
        embedded::{
            EmbeddedError,
            inspect::{self, DataDirState},
        },
        version::VERSION_TRUSTED,
    },
    server::config::Config,
};

/// How long the disk may take for all its checks.
const DISK_TIMEOUT: Duration = Duration::from_secs(10);
/// A synced write that takes longer makes each publish slow.
const SYNC_SLOW: Duration = Duration::from_millis(20);
/// Less free space than this many times the reserve is reported.
const RESERVES_MIN: u64 = 4;
/// The advice for a directory that the service cannot use.
const OWN_DIRECTORY: &str =
    "give the directory to the user that runs the service, let nobody else write to it, or name another one";

pub(super) async fn check(config: &Config) -> Vec<Finding> {
    let mut findings = vec![program(config.embedded.nats_server.clone()).await];
    let path = config.embedded.data_dir.clone();
    // a disk that hangs keeps a thread, not the check
    match time::timeout(DISK_TIMEOUT, spawn_blocking(move || on_disk(&path))).await {
        Ok(Ok(found)) => findings.extend(found),
        Ok(Err(_)) | Err(_) => findings.push(Finding::fail(
            "--data-dir",
            format!("the disk did not answer within {DISK_TIMEOUT:?}"),
            "check the disk, or the network that it is reached over",
        )),
    }
    findings
}

async fn program(given: Option<PathBuf>) -> Finding {
    match inspect::program(given).await {
        Ok((binary, version)) if version < VERSION_TRUSTED => Finding::warn(
            "--nats-server",
            format!(
                "{} is version {version}, which can lose acknowledged messages in a power failure",
                binary.display()
            ),
            format!("update it to {VERSION_TRUSTED} or newer"),
        ),
        Ok((binary, version)) => Finding::ok("--nats-server", format!("{} is version {version}", binary.display())),
        Err(error) => {
            Finding::fail("--nats-server", error.to_string(), "install nats-server, or name one with --nats-server")
        }
    }
}

fn on_disk(path: &Path) -> Vec<Finding> {
    let state = match inspect::data_dir(path) {
        Ok(state) => state,
        Err(error) => return vec![unusable(&error)],
    };
    let shown = path.display();
    let mut findings = vec![match state {
        DataDirState::Free => Finding::ok("--data-dir", format!("{shown} exists, and no service uses it")),
        DataDirState::Missing => {
            Finding::ok("--data-dir", format!("{shown} does not exist yet; the service creates it"))
        }
        DataDirState::InUse => Finding::warn(
            "--data-dir",
            format!("another service uses {shown}"),
            "stop that service before you start another one, or give another directory",
        ),
    }];
    match inspect::existing(path) {
        Ok(existing) => {
            findings.push(space(&existing));
            findings.push(sync(&existing));
        }
        Err(error) => findings.push(unwritable(path, &error)),
    }
    findings
}

fn unusable(error: &EmbeddedError) -> Finding {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    Finding::fail("--data-dir", format!("{error}{cause}"), OWN_DIRECTORY)
}

fn space(path: &Path) -> Finding {
    let disk = match inspect::space(path) {
        Ok(disk) => disk,
        Err(error) => return unwritable(path, &error),
    };
    let found = format!("{} of {} are free", bytes(disk.free), bytes(disk.size));
    if disk.free < disk.reserve {
        let found = format!("{found}; publishes are refused below {}", bytes(disk.reserve));
        return Finding::fail("disk-space", found, "free space on the disk of --data-dir");
    }
    if disk.free < disk.reserve.saturating_mul(RESERVES_MIN) {
        let found = format!("{found}; publishes are refused below {}", bytes(disk.reserve));
        return Finding::warn("disk-space", found, "free space on the disk of --data-dir soon");
    }
    Finding::ok("disk-space", found)
}

fn sync(path: &Path) -> Finding {
    match inspect::sync_time(path) {
        Ok(median) if median > SYNC_SLOW => Finding::warn(
            "disk-sync",
            format!("a synced write takes {median:.1?}; each publish waits for one"),
            "put --data-dir on a faster disk, such as a local SSD",
        ),
        Ok(median) => Finding::ok("disk-sync", format!("a synced write takes {median:.1?}")),
        Err(error) => unwritable(path, &error),
    }
}

fn unwritable(path: &Path, error: &std::io::Error) -> Finding {
    Finding::fail("--data-dir", format!("{} cannot be written: {error}", path.display()), OWN_DIRECTORY)
}
