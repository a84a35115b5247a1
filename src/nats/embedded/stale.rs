//! Ends a server that an earlier instance left running on the data directory.
//!
//! The guard ends the server of a killed service, but not at once, and the guard may have been killed too. The
//! server's process is found in `/proc`. Without `/proc` (not Linux), the guard is the only protection.

use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};

use super::{config::DataDir, error::EmbeddedError, process::as_pid};

const TERMINATED_WITHIN: Duration = Duration::from_secs(5);
const KILLED_WITHIN: Duration = Duration::from_secs(5);
const POLL_EVERY: Duration = Duration::from_millis(20);

/// Ends a server that still runs on the directory, and waits for its end.
pub(super) async fn clear(data_dir: &DataDir) -> Result<(), EmbeddedError> {
    let Some(pid) = running(data_dir) else {
        return Ok(());
    };
    tracing::warn!(pid, "stopping the embedded nats-server that an earlier instance left behind");
    for (signal, within) in [(Signal::TERM, TERMINATED_WITHIN), (Signal::KILL, KILLED_WITHIN)] {
        if let Some(pid) = as_pid(pid)
            && let Err(error) = kill_process(pid, signal)
        {
            tracing::debug!(%error, "the embedded nats-server of an earlier instance cannot be signalled");
        }
        let deadline = Instant::now() + within;
        while running(data_dir) == Some(pid) {
            if Instant::now() >= deadline {
                break;
            }
            tokio::time::sleep(POLL_EVERY).await;
        }
        if running(data_dir) != Some(pid) {
            return Ok(());
        }
    }
    Err(EmbeddedError::StaleServer { pid })
}

/// The process that `nats.pid` names, if it is a server of this directory.
fn running(data_dir: &DataDir) -> Option<u32> {
    let pid: u32 = std::fs::read_to_string(data_dir.pid_path()).ok()?.trim().parse().ok()?;
    // empty for a process that has ended and waits for its parent
    let command_line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let config_path = data_dir.config_path();
    let names_config = |argument: &[u8]| argument == config_path.as_os_str().as_encoded_bytes();
    command_line.split(|byte| *byte == 0).any(names_config).then_some(pid)
}
