//! Child processes that end with their owner, also when this program panics or receives a signal to end.

use std::{
    fs::{File, OpenOptions},
    io,
    path::Path,
    process::{self, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

/// A process. Killed when dropped.
pub(crate) struct Child(process::Child);

impl Child {
    /// Runs a program, and appends its output to the file `log`. The program is in its own process group, so that
    /// Ctrl-C in a terminal reaches only this program, which then ends its children.
    pub(crate) fn run(command: &mut Command, log: &Path) -> io::Result<Self> {
        use std::os::unix::process::CommandExt;
        let log: File = OpenOptions::new().create(true).append(true).open(log)?;
        let child = command.stdin(Stdio::null()).stderr(log.try_clone()?).stdout(log).process_group(0).spawn()?;
        Ok(Self(child))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        // It may have ended by itself.
        let _ = kill_process(Pid::from_child(&self.0), signal);
    }

    /// Ends the process with SIGKILL, like a crash.
    pub(crate) fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }

    /// Whether the process still runs.
    pub(crate) fn runs(&mut self) -> bool {
        matches!(self.0.try_wait(), Ok(None))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
    }
}
