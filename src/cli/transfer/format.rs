//! The file of an export: a mark, a version, and blocks that each have a checksum.
//!
//! A block is its kind (1 byte), the length of its body (4 bytes), the body, and the CRC-32 of all these (4 bytes).
//! Numbers are little endian. The first block is the head, and the last one has the SHA-256 of everything before it.

use bytes::Bytes;
use prost::Message as _;
use ring::digest;
use unibus::v1::{Message, Room};

/// The first bytes of the file. Programs that change line ends or the eighth bit break them.
pub(super) const MARK: &[u8; 8] = b"\x89unibus\n";
/// The version of the format. Follows the mark.
pub(super) const VERSION: u8 = 1;
/// Bytes of a block before its body.
pub(super) const BLOCK_HEAD_BYTES: usize = 5;
/// Bytes of a block after its body.
pub(super) const CHECKSUM_BYTES: usize = 4;
/// The largest body that a reader accepts: larger than every message that a service can be told to accept.
pub(super) const BODY_BYTES_MAX: u32 = 80 * 1024 * 1024;
/// Readers ignore blocks of an unknown kind from this one on, and refuse other unknown kinds.
pub(super) const FIRST_OPTIONAL_KIND: u8 = 128;

/// What a block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BlockKind {
    /// [`FileHead`].
    Head = 1,
    /// An encoded `unibus.v1.Message`.
    Message = 2,
    /// [`FileEnd`].
    End = 3,
}

impl BlockKind {
    /// The kind with this number.
    pub(super) fn of(number: u8) -> Option<Self> {
        [Self::Head, Self::Message, Self::End].into_iter().find(|kind| *kind as u8 == number)
    }
}

/// What was exported.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct FileHead {
    /// The encoded `unibus.v1.Room` when the export began, with its state.
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) room: Bytes,
    /// The messages after this sequence were exported.
    #[prost(uint64, tag = "2")]
    pub(super) after_sequence: u64,
    /// The messages up to this sequence were exported.
    #[prost(uint64, tag = "3")]
    pub(super) through_sequence: u64,
    /// A cursor of the log. It is refused when the log was deleted and created again.
    #[prost(string, tag = "4")]
    pub(super) cursor: String,
    /// The flags that chose the messages.
    #[prost(string, repeated, tag = "5")]
    pub(super) selection: Vec<String>,
}

impl FileHead {
    /// The room, as far as this program knows its fields.
    pub(super) fn room(&self) -> Option<Room> {
        Room::decode(self.room.clone()).ok()
    }
}

/// What a whole file ends with.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct FileEnd {
    /// The number of messages.
    #[prost(uint64, tag = "1")]
    pub(super) messages: u64,
    /// Bytes of all payloads.
    #[prost(uint64, tag = "2")]
    pub(super) payload_bytes: u64,
    /// SHA-256 of all bytes of the file before this block.
    #[prost(bytes = "bytes", tag = "3")]
    pub(super) sha256: Bytes,
}

/// Everything that is in a file so far.
#[derive(Clone)]
pub(super) struct FileContent {
    digest: digest::Context,
    /// Bytes of the file.
    pub(super) bytes: u64,
    pub(super) messages: u64,
    pub(super) payload_bytes: u64,
    pub(super) first_sequence: u64,
    pub(super) last_sequence: u64,
    pub(super) first_time: Option<prost_types::Timestamp>,
    pub(super) last_time: Option<prost_types::Timestamp>,
    /// The cursor of the last message.
    pub(super) last_cursor: String,
}

impl FileContent {
    /// An empty file.
    pub(super) fn new() -> Self {
        Self {
            digest: digest::Context::new(&digest::SHA256),
            bytes: 0,
            messages: 0,
            payload_bytes: 0,
            first_sequence: 0,
            last_sequence: 0,
            first_time: None,
            last_time: None,
            last_cursor: String::new(),
        }
    }

    /// Counts bytes that follow.
    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.digest.update(bytes);
        self.bytes += bytes.len() as u64;
    }

    /// Counts a message. Its block is counted by [`Self::add`].
    pub(super) fn add_message(&mut self, message: &Message) {
        if self.messages == 0 {
            (self.first_sequence, self.first_time) = (message.sequence, message.published_at);
        }
        self.messages += 1;
        self.payload_bytes += message.payload.len() as u64;
        (self.last_sequence, self.last_time) = (message.sequence, message.published_at);
        self.last_cursor.clone_from(&message.cursor);
    }

    /// The end of a file with this content.
    pub(super) fn end(&self) -> FileEnd {
        let sha256 = Bytes::copy_from_slice(self.digest.clone().finish().as_ref());
        FileEnd { messages: self.messages, payload_bytes: self.payload_bytes, sha256 }
    }

    /// SHA-256 of all bytes, as other programs print it.
    pub(super) fn sha256(&self) -> String {
        use std::fmt::Write;
        self.digest.clone().finish().as_ref().iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}

/// The checksum at the end of a block.
pub(super) fn checksum(head: &[u8], body: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(head);
    hasher.update(body);
    hasher.finalize().to_le_bytes()
}

/// Appends a block to `out`. `None`: the body is too large.
pub(super) fn put_block(kind: BlockKind, body: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let length = u32::try_from(body.len()).ok().filter(|length| *length <= BODY_BYTES_MAX)?;
    let mut head = [0; BLOCK_HEAD_BYTES];
    head.iter_mut().zip([kind as u8].into_iter().chain(length.to_le_bytes())).for_each(|(byte, value)| *byte = value);
    out.extend_from_slice(&head);
    out.extend_from_slice(body);
    out.extend_from_slice(&checksum(&head, body));
    Some(())
}
