//! Finds the data frames in what a client of HTTP/2 sends (RFC 9113, section 4.1), without keeping any of it.

use crate::limits::FRAME_OVERHEAD_BYTES;

/// Bytes of a frame's head: length, type, flags, stream.
const HEAD_BYTES: usize = 9;
/// The type of data frames.
const DATA: u8 = 0;

/// Where in a connection's bytes the scan stands.
#[derive(Debug)]
pub(super) struct Scan {
    /// What has come of a frame's head.
    head: [u8; HEAD_BYTES],
    heard: usize,
    /// How much follows before the next head.
    skip: usize,
}

impl Scan {
    /// Starts behind as many bytes as the preface has.
    pub(super) fn after(preface_bytes: usize) -> Self {
        Self { head: [0; HEAD_BYTES], heard: 0, skip: preface_bytes }
    }

    /// What the data frames that begin in these bytes cost in memory.
    pub(super) fn cost(&mut self, mut bytes: &[u8]) -> usize {
        let mut cost = 0;
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = bytes.get(skipped..).unwrap_or_default();
            let Some((first, rest)) = bytes.split_first() else { break };
            if let Some(place) = self.head.get_mut(self.heard) {
                *place = *first;
            }
            self.heard += 1;
            bytes = rest;
            if self.heard == HEAD_BYTES {
                self.heard = 0;
                let [a, b, c, kind, ..] = self.head;
                self.skip = usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap_or(usize::MAX);
                if kind == DATA && self.skip > 0 {
                    cost += self.skip + FRAME_OVERHEAD_BYTES;
                }
            }
        }
        cost
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, payload: usize) -> Vec<u8> {
        let [_, a, b, c] = u32::try_from(payload).unwrap_or_default().to_be_bytes();
        [vec![a, b, c, kind, 0, 0, 0, 0, 1], vec![kind; payload]].concat()
    }

    proptest! {
        #[test]
        fn data_frames_are_found_wherever_the_bytes_are_cut(
            frames in prop::collection::vec((0_u8..10, 0_usize..300), 0..20),
            cuts in prop::collection::vec(1_usize..40, 1..20),
        ) {
            let mut bytes = b"preface".to_vec();
            bytes.extend(frames.iter().flat_map(|(kind, payload)| frame(*kind, *payload)));
            let expected: usize = frames
                .iter()
                .filter(|(kind, payload)| *kind == DATA && *payload > 0)
                .map(|(_, payload)| payload + FRAME_OVERHEAD_BYTES)
                .sum();
            let mut scan = Scan::after(b"preface".len());
            let (mut cost, mut rest) = (0, &bytes[..]);
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (now, then) = rest.split_at((*cut).min(rest.len()));
                cost += scan.cost(now);
                rest = then;
            }
            prop_assert_eq!(cost, expected);
        }
    }
}
