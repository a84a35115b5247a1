//! The payloads of a benchmark: a stamp that says who published which message and when, and then random bytes.

use bytes::{BufMut, Bytes, BytesMut};
use uuid::Uuid;

/// The size of a stamp, and so of the smallest payload.
pub(super) const STAMP_BYTES: usize = 24;

/// How many different beginnings the random bytes of a payload can have.
const NOISE_PLACES: usize = 64 * 1024;
/// The distance between the beginnings in two consecutive messages; odd, so that every place is used.
const NOISE_STEP: usize = 4099;

/// What a message says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    /// The run and its phase. Messages with another tag are none of ours.
    pub(super) tag: u32,
    /// The number of the publisher among all publishers.
    pub(super) publisher: u32,
    /// The number of the message among those of its publisher in this phase, from 0.
    pub(super) number: u64,
    /// When the message was published or due, in nanoseconds since the run began.
    pub(super) at: u64,
}

impl Stamp {
    fn write(self, payload: &mut BytesMut) {
        payload.put_u32(self.tag);
        payload.put_u32(self.publisher);
        payload.put_u64(self.number);
        payload.put_u64(self.at);
    }

    /// Reads the beginning of a payload; `None` if it is too short.
    pub(super) fn read(payload: &[u8]) -> Option<Self> {
        let (tag, rest) = payload.split_first_chunk()?;
        let (publisher, rest) = rest.split_first_chunk()?;
        let (number, rest) = rest.split_first_chunk()?;
        let (at, _) = rest.split_first_chunk()?;
        Some(Self {
            tag: u32::from_be_bytes(*tag),
            publisher: u32::from_be_bytes(*publisher),
            number: u64::from_be_bytes(*number),
            at: u64::from_be_bytes(*at),
        })
    }
}

/// Makes payloads that cannot be compressed.
#[derive(Debug)]
pub(super) struct PayloadMaker {
    noise: Vec<u8>,
    /// The bytes after the stamp.
    noise_bytes: usize,
}

impl PayloadMaker {
    /// Makes payloads of this size, which is at least that of a stamp.
    pub(super) fn new(size: usize) -> Self {
        let noise_bytes = size.saturating_sub(STAMP_BYTES);
        let (mut state, _) = Uuid::new_v4().as_u64_pair();
        let words = std::iter::repeat_with(|| next_random(&mut state)).flat_map(u64::to_ne_bytes);
        Self { noise: words.take(noise_bytes + NOISE_PLACES).collect(), noise_bytes }
    }

    /// The payload with this stamp.
    pub(super) fn make(&self, stamp: Stamp) -> Bytes {
        let number = usize::try_from(stamp.number).unwrap_or_default();
        let place = number.wrapping_mul(NOISE_STEP) % NOISE_PLACES;
        let mut payload = BytesMut::with_capacity(STAMP_BYTES + self.noise_bytes);
        stamp.write(&mut payload);
        payload.put_slice(self.noise.get(place..place + self.noise_bytes).unwrap_or_default());
        payload.freeze()
    }
}

/// The next number of `SplitMix64`, the generator of Steele, Lea and Flood.
fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing)]
    use super::{PayloadMaker, STAMP_BYTES, Stamp};

    #[test]
    fn a_payload_has_its_size_and_gives_its_stamp_back() {
        let stamp = Stamp { tag: 7, publisher: 3, number: u64::MAX, at: 42 };
        for size in [STAMP_BYTES, STAMP_BYTES + 1, 100_000] {
            let payload = PayloadMaker::new(size).make(stamp);
            assert_eq!((payload.len(), Stamp::read(&payload)), (size, Some(stamp)));
        }
        assert_eq!(Stamp::read(&[0; STAMP_BYTES - 1]), None);
    }

    #[test]
    fn payloads_differ_and_no_byte_is_common() {
        let maker = PayloadMaker::new(STAMP_BYTES + 64 * 1024);
        let noise = |number| maker.make(Stamp { tag: 0, publisher: 0, number, at: 0 }).slice(STAMP_BYTES..);
        assert_ne!(noise(0), noise(1));
        let mut counts = [0_u32; 256];
        for byte in noise(0) {
            counts[usize::from(byte)] += 1;
        }
        // 256 of each are expected
        assert!(counts.iter().all(|count| (128..512).contains(count)), "{counts:?}");
    }
}
