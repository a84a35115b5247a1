//! What the client's HTTP/2 stream has taken, as far as the transport lets it be known.
//!
//! The transport asks for the next chunk when it has passed on the last one, which it does as soon as the stream's
//! flow-control window has room for one byte behind everything passed on before (hyper's `PipeToSendStream`); what does not
//! fit yet waits in a buffer of the service (h2). So a chunk that is followed by a question for the next tells of its own
//! first byte only that the client's stream has taken it, and of everything before. Therefore the last byte of what is
//! ready is held back, to be the first of the next chunk: alone if nothing else is ready.

use bytes::Bytes;

/// Cuts a body into chunks so that it becomes known what was taken.
#[derive(Debug, Default)]
pub(crate) struct TakenChunks {
    /// The byte that is held back, and the position that is complete with it.
    held: Option<(Bytes, u64)>,
    /// What is complete with the first byte of the chunk that was given last.
    given: u64,
}

impl TakenChunks {
    /// The next chunk is asked for: everything up to this position was taken.
    pub(crate) fn asked(&self) -> u64 {
        self.given
    }

    /// Whether there is a chunk to give though nothing is ready.
    pub(crate) fn holds(&self) -> bool {
        self.held.is_some()
    }

    /// The chunk to give when `ready` follows, with which everything up to `position` is complete; nothing if there is
    /// nothing to give.
    pub(crate) fn chunk(&mut self, mut ready: Bytes, position: u64) -> Bytes {
        let held = self.held.take();
        if let Some((_, complete)) = held {
            self.given = complete;
        }
        if let Some(last) = ready.len().checked_sub(1) {
            self.held = Some((ready.split_off(last), position));
        }
        match held {
            None => ready,
            Some((first, _)) if ready.is_empty() => first,
            Some((first, _)) => [first, ready].concat().into(),
        }
    }
}
