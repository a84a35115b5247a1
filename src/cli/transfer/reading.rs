//! Reads the file of an export, and finds every damage.

use std::io::{self, Read};

use bytes::Bytes;
use prost::Message as _;
use unibus::v1::Message;

use super::format::{
    BLOCK_HEAD_BYTES, BODY_BYTES_MAX, BlockKind, CHECKSUM_BYTES, FIRST_OPTIONAL_KIND, FileContent, FileEnd, FileHead,
    MARK, VERSION, checksum,
};
use crate::cli::{exit::Exit, failure::Failure};

/// Why a file cannot be read any further.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileDamage {
    #[error("{0}")]
    Unreadable(#[from] io::Error),
    #[error("this is no file of `unibus export`")]
    NotAnExport,
    #[error("the file has version {0} of the format, and this program knows versions up to {VERSION}")]
    NewerVersion(u8),
    #[error("the file has a block of kind {0}, which this program does not know")]
    NewerBlock(u8),
    #[error("the file ends before its end")]
    CutOff,
    #[error("{0}")]
    Broken(&'static str),
}

impl FileDamage {
    /// The failure of a command that reads the file.
    pub(super) fn failure(&self, file: &str, content: &FileContent) -> Failure {
        match self {
            Self::Unreadable(error) => Failure::new(Exit::Failed, format!("cannot read {file}: {error}")),
            Self::NotAnExport | Self::NewerVersion(_) | Self::NewerBlock(_) => {
                Failure::new(Exit::Damaged, format!("{file}: {self}"))
            }
            Self::CutOff | Self::Broken(_) => {
                let last = match content.messages {
                    0 => String::new(),
                    _ => format!("; record {} with sequence {} is whole", content.messages, content.last_sequence),
                };
                let (next, at) = (content.messages + 1, content.bytes);
                Failure::new(Exit::Damaged, format!("{file} is damaged at record {next}, byte {at}: {self}{last}"))
            }
        }
    }
}

/// A file that is being read.
pub(super) struct FileReader<R> {
    input: R,
    head: FileHead,
    /// What was read and is whole.
    content: FileContent,
    is_at_end: bool,
}

impl<R: Read> FileReader<R> {
    /// Reads the head.
    pub(super) fn open(mut input: R) -> Result<Self, FileDamage> {
        let mut content = FileContent::new();
        let mut begin = [0; MARK.len() + 1];
        let size = fill(&mut input, &mut begin)?;
        let read = begin.get(..size).unwrap_or_default();
        let mark = read.get(..MARK.len()).unwrap_or(read);
        if mark.is_empty() || !MARK.starts_with(mark) {
            return Err(FileDamage::NotAnExport);
        }
        match read.get(MARK.len()) {
            None => return Err(FileDamage::CutOff),
            Some(&VERSION) => {}
            Some(&version) => return Err(FileDamage::NewerVersion(version)),
        }
        content.add(&begin);
        let mut reader = Self { input, head: FileHead::default(), content, is_at_end: false };
        let block = reader.block()?;
        if block.kind != BlockKind::Head as u8 {
            return Err(FileDamage::Broken("the head is missing"));
        }
        reader.head =
            FileHead::decode(block.body.clone()).map_err(|_| FileDamage::Broken("the head has no meaning"))?;
        reader.head.room().ok_or(FileDamage::Broken("the settings of the room have no meaning"))?;
        reader.accept(&block);
        Ok(reader)
    }

    pub(super) fn head(&self) -> &FileHead {
        &self.head
    }

    /// Everything that was read and is whole.
    pub(super) fn content(&self) -> &FileContent {
        &self.content
    }

    /// The next message; `None` at the end of a whole file.
    pub(super) fn next(&mut self) -> Result<Option<Message>, FileDamage> {
        while !self.is_at_end {
            let block = self.block()?;
            match BlockKind::of(block.kind) {
                Some(BlockKind::Message) => {
                    let message = Message::decode(block.body.clone())
                        .map_err(|_| FileDamage::Broken("the message has no meaning"))?;
                    let after = self.content.last_sequence.max(self.head.after_sequence);
                    if message.sequence <= after || message.sequence > self.head.through_sequence {
                        return Err(FileDamage::Broken("the message is not in its place"));
                    }
                    self.accept(&block);
                    self.content.add_message(&message);
                    return Ok(Some(message));
                }
                Some(BlockKind::End) => self.finish(&block)?,
                Some(BlockKind::Head) => return Err(FileDamage::Broken("a second head follows")),
                None if block.kind >= FIRST_OPTIONAL_KIND => self.accept(&block),
                None => return Err(FileDamage::NewerBlock(block.kind)),
            }
        }
        Ok(None)
    }

    /// Compares the end of the file with what was read.
    fn finish(&mut self, block: &FileBlock) -> Result<(), FileDamage> {
        let end = FileEnd::decode(block.body.clone()).map_err(|_| FileDamage::Broken("the end has no meaning"))?;
        if end != self.content.end() {
            return Err(FileDamage::Broken("the checksum of the whole file is wrong"));
        }
        if fill(&mut self.input, &mut [0])? > 0 {
            return Err(FileDamage::Broken("something follows the end"));
        }
        self.accept(block);
        self.is_at_end = true;
        Ok(())
    }

    /// Reads a block. It does not count yet.
    fn block(&mut self) -> Result<FileBlock, FileDamage> {
        let mut head = [0; BLOCK_HEAD_BYTES];
        if fill(&mut self.input, &mut head)? < head.len() {
            return Err(FileDamage::CutOff);
        }
        let [kind, length @ ..] = head;
        let length = u32::from_le_bytes(length);
        if length > BODY_BYTES_MAX {
            return Err(FileDamage::Broken("the block has an impossible length"));
        }
        // grows with what is there, since a wrong length must not take memory
        let mut body = Vec::new();
        let read = (&mut self.input).take(length.into()).read_to_end(&mut body)?;
        let mut sum = [0; CHECKSUM_BYTES];
        if read as u64 != u64::from(length) || fill(&mut self.input, &mut sum)? < sum.len() {
            return Err(FileDamage::CutOff);
        }
        if sum != checksum(&head, &body) {
            return Err(FileDamage::Broken("the checksum of the block is wrong"));
        }
        Ok(FileBlock { kind, head, body: body.into(), sum })
    }

    fn accept(&mut self, block: &FileBlock) {
        self.content.add(&block.head);
        self.content.add(&block.body);
        self.content.add(&block.sum);
    }
}

/// A block with a right checksum.
struct FileBlock {
    kind: u8,
    head: [u8; BLOCK_HEAD_BYTES],
    body: Bytes,
    sum: [u8; CHECKSUM_BYTES],
}

/// Reads until `buffer` is full or the input ends. Returns how much was read.
fn fill(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match input.read(rest) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use prost::Message as _;
    use unibus::v1::{Message, Room};

    use super::{FileDamage, FileReader};
    use crate::cli::transfer::format::{BlockKind, FileContent, FileHead, MARK, VERSION, put_block};

    fn message(sequence: u64) -> Message {
        let payload = vec![u8::try_from(sequence % 256).unwrap(); 40];
        Message { sequence, payload: payload.into(), cursor: format!("c{sequence}"), ..Message::default() }
    }

    /// A whole file with these blocks between its head and its end.
    fn file(blocks: &[(u8, Vec<u8>)], messages: &[Message]) -> Vec<u8> {
        let room = Room { room_id: "lobby".to_owned(), ..Room::default() };
        let head = FileHead { room: room.encode_to_vec().into(), through_sequence: 10, ..FileHead::default() };
        let mut bytes = [&MARK[..], &[VERSION]].concat();
        put_block(BlockKind::Head, &head.encode_to_vec(), &mut bytes).unwrap();
        for (kind, body) in blocks {
            let at = bytes.len();
            put_block(BlockKind::Message, body, &mut bytes).unwrap();
            bytes[at] = *kind;
            let sum = bytes.len() - 4;
            let crc = crc32fast::hash(&bytes[at..sum]).to_le_bytes();
            bytes[sum..].copy_from_slice(&crc);
        }
        let mut content = FileContent::new();
        content.add(&bytes);
        for message in messages {
            content.add_message(message);
        }
        put_block(BlockKind::End, &content.end().encode_to_vec(), &mut bytes).unwrap();
        bytes
    }

    fn read(bytes: &[u8]) -> (Vec<u64>, Result<(), FileDamage>) {
        let mut reader = match FileReader::open(bytes) {
            Ok(reader) => reader,
            Err(damage) => return (Vec::new(), Err(damage)),
        };
        let mut sequences = Vec::new();
        loop {
            match reader.next() {
                Ok(Some(message)) => sequences.push(message.sequence),
                Ok(None) => return (sequences, Ok(())),
                Err(damage) => return (sequences, Err(damage)),
            }
        }
    }

    fn small() -> Vec<u8> {
        let messages = [message(2), message(3), message(7)];
        file(&messages.clone().map(|message| (2, message.encode_to_vec())), &messages)
    }

    #[test]
    fn a_whole_file_gives_its_messages() {
        assert!(matches!(read(&small()), (sequences, Ok(())) if sequences == [2, 3, 7]));
        assert!(matches!(read(&file(&[], &[])), (sequences, Ok(())) if sequences.is_empty()));
    }

    #[test]
    fn every_changed_bit_and_every_cut_is_found() {
        let whole = small();
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut bytes = whole.clone();
                bytes[at] ^= 1 << bit;
                assert!(read(&bytes).1.is_err(), "bit {bit} of byte {at}");
            }
            assert!(read(&whole[..at]).1.is_err(), "cut at {at}");
            // a part that is lost
            let bytes = [&whole[..at], &whole[at + 1..]].concat();
            assert!(read(&bytes).1.is_err(), "without byte {at}");
        }
        assert!(read(&[&whole[..], &[0]].concat()).1.is_err());
    }

    #[test]
    fn blocks_that_are_whole_but_not_in_their_place_are_found() {
        let of = |sequences: &[u64]| {
            let messages: Vec<_> = sequences.iter().map(|sequence| message(*sequence)).collect();
            read(&file(&messages.iter().map(|one| (2, one.encode_to_vec())).collect::<Vec<_>>(), &messages)).1
        };
        assert!(of(&[1, 2]).is_ok());
        for wrong in [&[2, 1][..], &[1, 1], &[0], &[11]] {
            assert!(matches!(of(wrong), Err(FileDamage::Broken(_))), "{wrong:?}");
        }
        // a record is missing: its block was cut out, and the end counts it
        assert!(read(&file(&[(2, message(1).encode_to_vec())], &[message(1), message(2)])).1.is_err());
    }

    #[test]
    fn later_formats_are_refused_or_ignored_as_they_ask_for() {
        let optional = file(&[(128, vec![1]), (2, message(1).encode_to_vec()), (255, vec![])], &[message(1)]);
        assert!(matches!(read(&optional), (sequences, Ok(())) if sequences == [1]));
        assert!(matches!(read(&file(&[(4, vec![])], &[])).1, Err(FileDamage::NewerBlock(4))));
        let mut bytes = small();
        bytes[MARK.len()] = 2;
        assert!(matches!(read(&bytes).1, Err(FileDamage::NewerVersion(2))));
        assert!(matches!(read(b"PK\x03\x04").1, Err(FileDamage::NotAnExport)));
        assert!(matches!(read(b"").1, Err(FileDamage::NotAnExport)));
    }
}
