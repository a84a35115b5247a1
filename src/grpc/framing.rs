//! The framing of gRPC messages in an HTTP/2 body: a prefix before each message (gRPC over HTTP/2, "Length-Prefixed-Message").

use bytes::{BufMut, Bytes, BytesMut};

/// Bytes of the prefix of each gRPC message: a flag for compression (1) and the length (4).
pub(crate) const PREFIX_BYTES: usize = 5;
/// The flag in a prefix that marks a compressed message.
pub(crate) const COMPRESSED_FLAG: u8 = 1;

/// Appends a gRPC message with its prefix.
pub(super) fn put(response: &impl prost::Message, into: &mut BytesMut) {
    let length = response.encoded_len();
    into.reserve(PREFIX_BYTES + length);
    put_prefix(0, length, into);
    response.encode_raw(into);
}

/// Appends the prefix of a gRPC message of `length` bytes.
pub(crate) fn put_prefix(flags: u8, length: usize, into: &mut impl BufMut) {
    into.put_u8(flags);
    into.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
}

/// An encoded message with its prefix.
pub(crate) fn framed(message: impl AsRef<[u8]>) -> Bytes {
    let message = message.as_ref();
    let mut framed = BytesMut::with_capacity(PREFIX_BYTES + message.len());
    put_prefix(0, message.len(), &mut framed);
    framed.put_slice(message);
    framed.freeze()
}

/// The length of the message that a prefix announces, in bytes.
pub(crate) fn length([_, length @ ..]: [u8; PREFIX_BYTES]) -> usize {
    usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX)
}

/// The length of the message whose prefix `bytes` begin with; `None` when the prefix is incomplete.
pub(crate) fn message_length(bytes: &[u8]) -> Option<usize> {
    bytes.first_chunk::<PREFIX_BYTES>().map(|prefix| length(*prefix))
}
