//! A small disk that can be filled.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, bail};

/// A mounted tmpfs. Unmounted when dropped.
pub(crate) struct Tmpfs(PathBuf);

impl Tmpfs {
    /// Whether this process may mount a tmpfs.
    pub(crate) fn is_allowed() -> bool {
        rustix::process::geteuid().is_root()
    }

    pub(crate) fn mount(path: &Path, size: &str) -> Result<Self> {
        fs::create_dir_all(path)?;
        let done = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size},mode=700"), "tmpfs"])
            .arg(path)
            .output()?;
        if !done.status.success() {
            bail!("mount: {}", String::from_utf8_lossy(&done.stderr));
        }
        Ok(Self(path.into()))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Fills the remaining space.
    pub(crate) fn fill(&self) {
        // It ends with an error: there is no more space.
        let _ = Command::new("dd").args(["if=/dev/zero", "bs=4096"]).arg(format!("of={}", self.ballast())).output();
    }

    /// Frees the space that [`fill`](Self::fill) took.
    pub(crate) fn free(&self) -> Result<()> {
        Ok(fs::remove_file(self.ballast())?)
    }

    fn ballast(&self) -> String {
        self.0.join("ballast").display().to_string()
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Lazily: a process that was just killed may hold it for a moment.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).output();
    }
}
