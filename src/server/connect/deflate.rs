//! Compresses the messages of answers with gzip, for clients that take it.

use std::io::Write;

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};

use crate::{
    grpc::{JsonText, without_delay},
    limits::{COMPRESSED_BYTES_MIN, RESPONSE_PIECE_BYTES},
};

/// How many times as long a message takes to compress as to decode, about.
const SLOWNESS: usize = 8;

/// The compressed message; `None` when it is small, or would not become smaller.
pub(super) fn gzip(message: &JsonText) -> Option<Bytes> {
    let length = message.len();
    if length < COMPRESSED_BYTES_MIN {
        return None;
    }
    without_delay(length.saturating_mul(SLOWNESS), || {
        let mut rest = message.clone();
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        let mut piece = Vec::new();
        while !rest.is_empty() && encoder.get_ref().len() < length {
            piece.clear();
            rest.take(RESPONSE_PIECE_BYTES, &mut piece);
            encoder.write_all(&piece).ok()?;
        }
        let mut compressed = encoder.finish().ok().filter(|compressed| compressed.len() < length)?;
        compressed.shrink_to_fit();
        Some(compressed.into())
    })
}
