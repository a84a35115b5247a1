//! What gRPC puts before each message.

/// A flag and the length come before each message (gRPC over HTTP/2).
pub(super) const PREFIX_BYTES: usize = 5;

/// The messages at the beginning that are complete: how many bytes they have, and how many they are.
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

/// The length that a prefix announces.
pub(super) fn length([_, length @ ..]: [u8; PREFIX_BYTES]) -> usize {
    usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX)
}
