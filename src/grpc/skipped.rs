//! What is read of a request before it is decoded: of messages that are too large and are dropped, and of large ones.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use bytes::{BufMut, Bytes, BytesMut};
use prost::encoding::{WireType, decode_key, decode_varint, encode_key, encode_varint};

use super::frames::{PREFIX_BYTES, put_prefix};
use crate::{
    error::{Error, Reason, Violations},
    limits::ROOM_ID_CHARS_MAX,
    sync::lock,
};

/// Bytes that hold the first field of a `PublishStreamRequest`.
pub(crate) const CORRELATION_BYTES_MAX: usize = 16;
/// The tag of `room_id`.
const ROOM_ID_TAG: u32 = 1;
/// Bytes of the longest room id.
const ROOM_ID_BYTES_MAX: usize = 4 * ROOM_ID_CHARS_MAX;
/// The tag of `correlation_id`.
const CORRELATION_TAG: u32 = 1;

/// Which messages of a stream were dropped, by their place from 0. A message of nothing but its correlation id stands for
/// each.
#[derive(Clone, Debug, Default)]
pub(crate) struct Skipped(Arc<Mutex<VecDeque<u64>>>);

impl Skipped {
    /// The message at this place was dropped.
    pub(crate) fn add(&self, place: u64) {
        lock(&self.0).push_back(place);
    }

    /// Whether the message at this place was dropped; asked in order, and once.
    pub(super) fn take(&self, place: u64) -> bool {
        let mut places = lock(&self.0);
        let is_next = places.front() == Some(&place);
        if is_next {
            places.pop_front();
        }
        is_next
    }
}

/// What a message that was dropped is answered.
pub(super) fn too_large() -> Error {
    let mut violations = Violations::default();
    violations.add("publish.payload", "the message is larger than a request may be; split it");
    violations.because(Reason::PayloadTooLarge).into_error()
}

/// What stands for a message of a `PublishStream` that was dropped: a message of nothing but its `correlation_id`, if that
/// is its first field.
pub(crate) fn stand_in(beginning: &[u8]) -> Bytes {
    let mut message = BytesMut::new();
    if let Some(id) = correlation_id(beginning) {
        encode_key(CORRELATION_TAG, WireType::Varint, &mut message);
        encode_varint(id, &mut message);
    }
    let mut framed = BytesMut::with_capacity(PREFIX_BYTES + message.len());
    put_prefix(0, message.len(), &mut framed);
    framed.put(message);
    framed.freeze()
}

/// The `room_id` at the beginning of a message that publishes, if that is its first field and whole.
pub(crate) fn room_id_at(mut beginning: &[u8]) -> Option<String> {
    let key = decode_key(&mut beginning).ok()?;
    let length = usize::try_from(decode_varint(&mut beginning).ok()?).ok()?;
    if key != (ROOM_ID_TAG, WireType::LengthDelimited) || length > ROOM_ID_BYTES_MAX {
        return None;
    }
    String::from_utf8(beginning.get(..length)?.to_vec()).ok()
}

fn correlation_id(mut beginning: &[u8]) -> Option<u64> {
    let key = decode_key(&mut beginning).ok()?;
    if key != (CORRELATION_TAG, WireType::Varint) {
        return None;
    }
    decode_varint(&mut beginning).ok()
}
