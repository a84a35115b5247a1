//! The file that an export writes: under another name until it is whole, and continued where it ended.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, BufReader, IsTerminal, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use super::{
    format::{FileContent, FileHead},
    reading::{FileDamage, FileReader},
};
use crate::cli::{
    exit::Exit,
    failure::{CliResult, Failure},
};

/// Bytes of the file that are read at once.
pub(super) const READ_BYTES: usize = 256 * 1024;

/// Where an export goes.
#[derive(Debug)]
pub(super) enum OutputFile {
    StandardOutput,
    /// A file that gets its name when it is whole.
    Named {
        file: File,
        name: PathBuf,
        partial: PathBuf,
    },
}

/// What an interrupted export has left.
pub(super) struct LeftOver {
    pub(super) head: FileHead,
    pub(super) content: FileContent,
    /// Nothing is missing but the name.
    pub(super) is_whole: bool,
}

impl OutputFile {
    /// Standard output. A person at a terminal must not get the bytes of others.
    pub(super) fn standard_output() -> CliResult<Self> {
        if io::stdout().is_terminal() {
            return Err(Failure::usage("the file is not for a terminal; give a name with --output"));
        }
        Ok(Self::StandardOutput)
    }

    /// Opens the partial file, and cuts off what is not whole.
    pub(super) fn open(name: &Path, replaces: bool) -> CliResult<(Self, Option<LeftOver>)> {
        if !replaces && name.exists() {
            let text = format!("the file {} exists", name.display());
            return Err(Failure::usage(text).hint("Give another --output, or --force to replace it."));
        }
        if name.is_dir() {
            return Err(Failure::usage(format!("{} is a folder", name.display())));
        }
        let mut partial = name.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let unusable = |error: io::Error| unwritable(&partial, &error);
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&partial);
        let mut file = opened.map_err(unusable)?;
        // a file system without locks is no reason to refuse
        if matches!(file.try_lock(), Err(TryLockError::WouldBlock)) {
            let text = format!("another export is writing {}", partial.display());
            return Err(Failure::new(Exit::Conflict, text));
        }
        let left_over = left_over(&file, &partial)?;
        if !left_over.as_ref().is_some_and(|left_over| left_over.is_whole) {
            let whole = left_over.as_ref().map_or(0, |left_over| left_over.content.bytes);
            file.set_len(whole).map_err(unusable)?;
        }
        file.seek(SeekFrom::End(0)).map_err(unusable)?;
        Ok((Self::Named { file, name: name.to_owned(), partial }, left_over))
    }

    /// Appends bytes.
    pub(super) fn write(&mut self, bytes: &[u8]) -> CliResult {
        match self {
            Self::StandardOutput => {
                let mut out = io::stdout().lock();
                out.write_all(bytes).and_then(|()| out.flush()).map_err(|error| Failure::output(&error))
            }
            Self::Named { file, partial, .. } => file.write_all(bytes).map_err(|error| unwritable(partial, &error)),
        }
    }

    /// Gives the whole file its name, after it is on the disk.
    pub(super) fn finish(&mut self) -> CliResult {
        let Self::Named { file, name, partial } = self else { return Ok(()) };
        file.sync_all().map_err(|error| unwritable(partial, &error))?;
        fs::rename(&*partial, &*name).map_err(|error| unwritable(name, &error))?;
        let folder = name.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(|error| unwritable(folder, &error))
    }

    /// The name of the partial file, if there is one.
    pub(super) fn partial(&self) -> Option<&Path> {
        match self {
            Self::StandardOutput => None,
            Self::Named { partial, .. } => Some(partial),
        }
    }
}

fn unwritable(path: &Path, error: &io::Error) -> Failure {
    Failure::new(Exit::Failed, format!("cannot write {}: {error}", path.display()))
}

/// Reads what an interrupted export has written. `None`: not even a head.
fn left_over(file: &File, partial: &Path) -> CliResult<Option<LeftOver>> {
    let name = partial.display().to_string();
    let mut reader = match FileReader::open(BufReader::with_capacity(READ_BYTES, file)) {
        Ok(reader) => reader,
        Err(FileDamage::CutOff) => return Ok(None),
        Err(FileDamage::NotAnExport) if file.metadata().is_ok_and(|file| file.len() == 0) => return Ok(None),
        Err(damage) => {
            let failure = damage.failure(&name, &FileContent::new());
            return Err(failure.hint("Remove the file to begin the export again."));
        }
    };
    let is_whole = loop {
        match reader.next() {
            Ok(Some(_)) => {}
            Ok(None) => break true,
            // the last block was not written, or not synced
            Err(FileDamage::CutOff | FileDamage::Broken(_)) => break false,
            Err(damage) => return Err(damage.failure(&name, reader.content())),
        }
    };
    Ok(Some(LeftOver { head: reader.head().clone(), content: reader.content().clone(), is_whole }))
}
