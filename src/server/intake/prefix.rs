//! Reads the prefixes of the gRPC messages of a request.

use crate::grpc::framing::{PREFIX_BYTES, length};

/// The bytes and the number of the complete messages at the beginning of `bytes`. Stops at a message longer than
/// `bytes_max`.
pub(super) fn complete(bytes: &[u8], bytes_max: usize) -> (usize, u64) {
    let (mut end, mut count) = (0, 0);
    while let Some(prefix) = bytes.get(end..).and_then(<[u8]>::first_chunk::<PREFIX_BYTES>) {
        let length = length(*prefix);
        match end.checked_add(PREFIX_BYTES).and_then(|start| start.checked_add(length)) {
            Some(next) if next <= bytes.len() && length <= bytes_max => (end, count) = (next, count + 1),
            Some(_) | None => break,
        }
    }
    (end, count)
}
