//! The records of a file, read ahead in parts of bounded size.

use std::{collections::VecDeque, fs::File, io, io::Read, path::Path};

use super::{
    export::blocking,
    format::{FileContent, FileHead},
    output_file::READ_BYTES,
    reading::{FileDamage, FileReader},
    record::Record,
};
use crate::cli::{
    exit::Exit,
    failure::{CliResult, Failure},
};

/// A file that another thread reads.
pub(super) type ReadFile = FileReader<Box<dyn Read + Send>>;

/// Records that are read at once.
const PART_RECORDS: usize = 1000;
/// Bytes of records that are read at once. The last one may exceed them.
const PART_BYTES: usize = 4 * 1024 * 1024;

/// The records that are still to be stored, or to be compared with what is stored.
pub(super) struct FileRecords {
    name: String,
    head: FileHead,
    /// `None`: nothing more comes.
    reader: Option<ReadFile>,
    keeps_origin: bool,
    ready: VecDeque<Record>,
    ready_bytes: usize,
    /// What a damaged file has before its damage, and the damage.
    damage: Option<Failure>,
}

impl FileRecords {
    /// Opens a file, or standard input for `-`, and reads its head.
    pub(super) async fn open(file: &Path, keeps_origin: bool) -> CliResult<Self> {
        let name = if file.as_os_str() == "-" { "standard input".to_owned() } else { file.display().to_string() };
        let reader = open(file, &name).await?;
        let head = reader.head().clone();
        Ok(Self {
            name,
            head,
            reader: Some(reader),
            keeps_origin,
            ready: VecDeque::new(),
            ready_bytes: 0,
            damage: None,
        })
    }

    pub(super) fn head(&self) -> &FileHead {
        &self.head
    }

    /// The damage that ended the file early.
    pub(super) fn take_damage(&mut self) -> Option<Failure> {
        self.damage.take()
    }

    /// The next records, without gaps.
    pub(super) fn ready(&self) -> &VecDeque<Record> {
        &self.ready
    }

    /// The record at this place of [`Self::ready`].
    pub(super) fn get_mut(&mut self, at: usize) -> Option<&mut Record> {
        self.ready.get_mut(at)
    }

    /// The next record; `None` at the end of the file.
    pub(super) async fn front(&mut self) -> CliResult<Option<&Record>> {
        self.fill(1).await?;
        Ok(self.ready.front())
    }

    /// Takes the next record, which is stored.
    pub(super) fn pop(&mut self) -> Option<Record> {
        let record = self.ready.pop_front()?;
        self.ready_bytes = self.ready_bytes.saturating_sub(record.bytes());
        Some(record)
    }

    /// Reads until so many records are ready, or enough bytes, or the file ends.
    pub(super) async fn fill(&mut self, wanted: usize) -> CliResult {
        while self.ready.len() < wanted && self.ready_bytes < PART_BYTES {
            let Some(mut reader) = self.reader.take() else { return Ok(()) };
            let keeps_origin = self.keeps_origin;
            let (reader, records, end) = blocking(move || {
                let (records, end) = part(&mut reader, keeps_origin);
                Ok((reader, records, end))
            })
            .await?;
            self.ready_bytes += records.iter().map(Record::bytes).sum::<usize>();
            self.ready.extend(records);
            match end {
                PartEnd::More => self.reader = Some(reader),
                PartEnd::Whole => {}
                PartEnd::Damaged(damage) => self.damage = Some(damage.failure(&self.name, reader.content())),
            }
        }
        Ok(())
    }
}

/// Why a part ends.
enum PartEnd {
    More,
    Whole,
    Damaged(FileDamage),
}

fn part(reader: &mut ReadFile, keeps_origin: bool) -> (Vec<Record>, PartEnd) {
    let (mut records, mut bytes) = (Vec::new(), 0);
    while records.len() < PART_RECORDS && bytes < PART_BYTES {
        match reader.next() {
            Ok(Some(message)) => {
                let content = reader.content();
                let record = Record::new(message, content.messages, content.bytes, keeps_origin);
                bytes += record.bytes();
                records.push(record);
            }
            Ok(None) => return (records, PartEnd::Whole),
            Err(damage) => return (records, PartEnd::Damaged(damage)),
        }
    }
    (records, PartEnd::More)
}

/// Opens a file and reads its head.
pub(super) async fn open(file: &Path, name: &str) -> CliResult<ReadFile> {
    let (file, name) = (file.to_owned(), name.to_owned());
    blocking(move || {
        let input: Box<dyn Read + Send> = if file.as_os_str() == "-" {
            Box::new(io::stdin())
        } else {
            let opened = File::open(&file).and_then(|opened| {
                // a folder can be opened, but not read
                if opened.metadata()?.is_dir() { Err(io::ErrorKind::IsADirectory.into()) } else { Ok(opened) }
            });
            Box::new(opened.map_err(|error| Failure::new(Exit::Usage, format!("cannot read {name}: {error}")))?)
        };
        let input: Box<dyn Read + Send> = Box::new(io::BufReader::with_capacity(READ_BYTES, input));
        FileReader::open(input).map_err(|damage| damage.failure(&name, &FileContent::new()))
    })
    .await
}
