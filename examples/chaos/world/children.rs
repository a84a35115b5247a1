//! Child processes that end with this program, however it ends.

use std::{
    collections::BTreeSet,
    fs::{File, OpenOptions},
    io,
    path::Path,
    process::{self, Command, Stdio},
    sync::{Mutex, PoisonError},
};

use rustix::process::{Pid, Signal, kill_process};

/// Processes that run. Killed by [`kill_all`].
static RUNNING: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

/// A process. Killed when dropped.
pub(crate) struct Child(process::Child);

impl Child {
    /// Runs a program; what it prints is added to a file. In a process group of its own: Ctrl-C in a terminal is for this
    /// program, which ends its children itself.
    pub(crate) fn run(command: &mut Command, log: &Path) -> io::Result<Self> {
        use std::os::unix::process::CommandExt;
        let log: File = OpenOptions::new().create(true).append(true).open(log)?;
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        let child = command.stdin(Stdio::null()).stderr(log.try_clone()?).stdout(log).process_group(0).spawn()?;
        running.insert(child.id());
        Ok(Self(child))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        // It may have ended by itself.
        let _ = kill_process(Pid::from_child(&self.0), signal);
    }

    /// Ends it as a crash would.
    pub(crate) fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
        RUNNING.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0.id());
    }

    /// Whether it runs still.
    pub(crate) fn runs(&mut self) -> bool {
        matches!(self.0.try_wait(), Ok(None))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Kills every process that was started here: for the way out that runs no destructors.
pub(crate) fn kill_all() {
    for id in RUNNING.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        if let Some(pid) = i32::try_from(*id).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}
