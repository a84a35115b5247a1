//! Inflates the messages of a request that its client has compressed with gzip (RFC 1952).
//!
//! The compressed bytes are received and charged like others. The last of them say how long the inflated message is. So a
//! message that would be too large is refused before it is inflated, and none is inflated beyond its length. An inflated
//! message is not charged: a caller inflates one message at a time, and few are inflated in all. A charge for it beside that
//! for the compressed bytes would let calls wait for each other, or refuse honest ones.

use std::io::Read;

use bytes::{Bytes, BytesMut};
use flate2::bufread::GzDecoder;
use memmap2::MmapMut;

use crate::{
    error::{Error, Reason},
    grpc::{
        framing::{PREFIX_BYTES, put_prefix},
        without_delay,
    },
    limits::LARGE_REQUEST_BYTES,
};

/// How many times as long as its bytes a message can become: deflate has no shorter form of a repetition.
const RATIO_MAX: usize = 1032;
/// How many times as long a message takes to inflate as to decode, about.
const SLOWNESS: usize = 2;

/// The length that a compressed message says it has when it is inflated.
///
/// # Errors
/// `REQUEST_MALFORMED`, when it cannot be that long.
pub(super) fn inflated_length(compressed: &[u8]) -> Result<usize, Error> {
    let length = compressed.last_chunk().map(|length| u32::from_le_bytes(*length)).ok_or_else(malformed)?;
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length <= compressed.len().saturating_mul(RATIO_MAX) { Ok(length) } else { Err(malformed()) }
}

/// Inflates a message to its length, and puts the prefix of gRPC before it.
///
/// # Errors
/// `REQUEST_MALFORMED`, when the bytes are not gzip, or the message has another length.
pub(super) fn framed_inflated(compressed: &[u8], length: usize) -> Result<Bytes, Error> {
    without_delay(length.saturating_mul(SLOWNESS), || {
        let bytes = PREFIX_BYTES.saturating_add(length);
        if bytes < LARGE_REQUEST_BYTES {
            let mut framed = BytesMut::zeroed(bytes);
            inflate_into(&mut framed, compressed)?;
            return Ok(framed.freeze());
        }
        // the allocator would keep this memory for the thread that inflates, and other threads drop it
        let mut framed = MmapMut::map_anon(bytes).map_err(|error| Error::internal().because(error))?;
        inflate_into(&mut framed, compressed)?;
        Ok(Bytes::from_owner(framed))
    })
}

/// Writes the prefix and the message, which must fill `framed`.
fn inflate_into(framed: &mut [u8], compressed: &[u8]) -> Result<(), Error> {
    let (mut prefix, message) = framed.split_at_mut_checked(PREFIX_BYTES).ok_or_else(malformed)?;
    put_prefix(0, message.len(), &mut prefix);
    let mut decoder = GzDecoder::new(compressed);
    decoder.read_exact(message).map_err(|_| malformed())?;
    // only the end of the compressed bytes checks the sum of the message
    let is_complete = decoder.read(&mut [0]).is_ok_and(|more| more == 0);
    if is_complete && decoder.into_inner().is_empty() { Ok(()) } else { Err(malformed()) }
}

fn malformed() -> Error {
    Error::new(Reason::RequestMalformed, "a compressed message of the request is damaged, or is not one member of gzip")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, clippy::unwrap_used)]
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};
    use proptest::prelude::*;

    use super::*;

    fn gzip(message: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(message).unwrap();
        encoder.finish().unwrap()
    }

    fn inflated(compressed: &[u8]) -> Result<Bytes, Error> {
        framed_inflated(compressed, inflated_length(compressed)?)
    }

    #[test]
    fn what_is_not_one_whole_member_of_gzip_is_malformed() {
        let whole = gzip(b"a message");
        assert_eq!(inflated(&whole).unwrap(), [&[0, 0, 0, 0, 9][..], b"a message"].concat());
        let longer = [&whole[..whole.len() - 4], &10_u32.to_le_bytes()].concat();
        let shorter = [&whole[..whole.len() - 4], &8_u32.to_le_bytes()].concat();
        let beyond = [&whole[..whole.len() - 4], &u32::MAX.to_le_bytes()].concat();
        let mut damaged = whole.clone();
        let sum = damaged.len() - 8;
        damaged[sum] ^= 1;
        let twice = [&*whole, &gzip(b"a message")].concat();
        for bytes in [b"", &b"gzip"[..], &whole[..12], &longer, &shorter, &beyond, &damaged, &twice] {
            assert_eq!(inflated(bytes).unwrap_err().reason(), Reason::RequestMalformed, "{bytes:?}");
        }
    }

    #[test]
    fn a_large_message_is_what_it_was() {
        for more in [0, 1, 7 * LARGE_REQUEST_BYTES] {
            let message: Vec<u8> = (0..=u8::MAX).cycle().take(LARGE_REQUEST_BYTES - PREFIX_BYTES + more).collect();
            assert!(inflated(&gzip(&message)).unwrap()[PREFIX_BYTES..] == message, "{more}");
        }
    }

    proptest! {
        #[test]
        fn a_message_is_what_it_was(message in prop::collection::vec(0_u8..4, 0..3000)) {
            prop_assert_eq!(&inflated(&gzip(&message)).unwrap()[PREFIX_BYTES..], &message);
        }

        #[test]
        fn any_bytes_are_a_message_or_malformed(
            message in prop::collection::vec(any::<u8>(), 0..100),
            place in any::<prop::sample::Index>(),
            byte in any::<u8>(),
        ) {
            let mut damaged = gzip(&message);
            let place = place.index(damaged.len());
            damaged[place] = byte;
            let _ = (inflated(&message), inflated(&damaged));
        }
    }
}
