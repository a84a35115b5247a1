//! Reads the first field of a request that is not decoded yet, and tracks the messages that are dropped for their size.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use bytes::{Bytes, BytesMut};
use prost::encoding::{WireType, decode_key, decode_varint, encode_key, encode_varint};

use super::framing::framed;
use crate::{
    error::{Error, Reason, Violations},
    limits::ROOM_ID_CHARS_MAX,
    sync::lock,
};

/// Bytes that are enough for the first field of a `PublishStreamRequest`.
pub(crate) const CORRELATION_BYTES_MAX: usize = 16;
/// The tag of `room_id` in `PublishRequest` and `PublishBatchRequest`.
const ROOM_ID_TAG: u32 = 1;
/// Bytes of the longest room id.
const ROOM_ID_BYTES_MAX: usize = 4 * ROOM_ID_CHARS_MAX;
/// The tag of `correlation_id` in `PublishStreamRequest`.
const CORRELATION_TAG: u32 = 1;

/// The dropped messages of a stream, by their index from 0. A message with only the correlation id replaces each.
#[derive(Clone, Debug, Default)]
pub(crate) struct Skipped(Arc<Mutex<VecDeque<u64>>>);

impl Skipped {
    /// Records that the message at index `place` was dropped.
    pub(crate) fn add(&self, place: u64) {
        lock(&self.0).push_back(place);
    }

    /// Whether the message at index `place` was dropped. Must be called once for each index, in order.
    pub(super) fn take(&self, place: u64) -> bool {
        let mut places = lock(&self.0);
        let is_next = places.front() == Some(&place);
        if is_next {
            places.pop_front();
        }
        is_next
    }
}

/// The error that answers a dropped message.
pub(super) fn too_large() -> Error {
    let mut violations = Violations::default();
    violations.add("publish.payload", "the message is larger than a request may be; split it");
    violations.because(Reason::PayloadTooLarge).into_error()
}

/// The replacement for a dropped message of a `PublishStream`. It holds only the `correlation_id`, if that is the first
/// field of the dropped message.
pub(crate) fn stand_in(beginning: &[u8]) -> Bytes {
    let mut message = BytesMut::new();
    if let Some(id) = correlation_id(beginning) {
        encode_key(CORRELATION_TAG, WireType::Varint, &mut message);
        encode_varint(id, &mut message);
    }
    framed(message)
}

/// The `room_id` of a publish request, if it is the first field and complete in `beginning`.
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
