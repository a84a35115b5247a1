//! Child processes that end with whoever owns them: also when this program panics, or is told to end.

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
    /// Runs a program; what it prints is added to a file. In a process group of its own: Ctrl-C in a terminal is for this
    /// program, which ends its children itself.
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

    /// Ends it as a crash would.
    pub(crate) fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
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
