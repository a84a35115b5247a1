//! Which positions the client's HTTP/2 stream has taken, told by how many bytes of the response body it has taken.

use std::collections::VecDeque;

/// Positions by the byte of the response body at which their frame ends.
#[derive(Debug, Default)]
pub(crate) struct TakenLedger {
    sent: VecDeque<(u64, u64)>,
    bytes_sent: u64,
}

impl TakenLedger {
    /// A frame of `bytes` was handed to the transport; everything up to `position` is then told.
    pub(crate) fn sent(&mut self, bytes: u64, position: u64) {
        self.bytes_sent += bytes;
        match self.sent.back_mut() {
            // a frame that does not move the position waits for nothing
            Some((_, last)) if *last == position => {}
            Some(_) | None => self.sent.push_back((self.bytes_sent, position)),
        }
    }

    /// The transport has taken `bytes` in all. The newest position that is thereby taken, if it is a new one.
    pub(crate) fn taken(&mut self, bytes: u64) -> Option<u64> {
        let mut newest = None;
        while let Some((end, position)) = self.sent.front().copied() {
            if end > bytes {
                break;
            }
            newest = Some(position);
            self.sent.pop_front();
        }
        newest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_counts_when_its_last_byte_is_taken() {
        let mut ledger = TakenLedger::default();
        ledger.sent(10, 0);
        ledger.sent(100, 1);
        ledger.sent(100, 2);
        assert_eq!(ledger.taken(9), None);
        assert_eq!(ledger.taken(109), Some(0));
        assert_eq!(ledger.taken(110), Some(1));
        assert_eq!(ledger.taken(110), None);
        assert_eq!(ledger.taken(500), Some(2));
    }
}
