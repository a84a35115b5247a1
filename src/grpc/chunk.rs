//! What the client's HTTP/2 stream has taken, as far as the transport lets it be known.
//!
//! The transport holds what a body gives until the stream's flow-control window, which the client opens, has room for it;
//! then it moves the bytes into the buffer of the connection, or with larger ones to the socket (h2 0.4, `Encoder::buffer`
//! in `codec/framed_write.rs`). A chunk sees its bytes go and tells when the last one went. What the client resets before
//! is dropped, and tells nothing.

use std::{
    any::Any,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use futures_util::task::AtomicWaker;

use crate::subscriptions::subscribers::session::{Mark, SubscriberSession};

/// Whom to tell of which positions.
pub(super) type Complete = Vec<(Arc<SubscriberSession>, Mark)>;

/// What an answer holds until the client has taken all of its body: a share of something that is bounded.
#[derive(Clone)]
pub(crate) struct Holds(#[expect(dead_code, reason = "held, not read")] Arc<dyn Any + Send + Sync>);

impl Holds {
    pub(crate) fn new(share: impl Any + Send + Sync) -> Self {
        Self(Arc::new(share))
    }
}

/// A part of a response's body.
pub(crate) struct Chunk {
    bytes: Bytes,
    taken: Option<Taken>,
    _holds: Option<Holds>,
}

/// To be told when the client's stream has taken the chunk.
struct Taken {
    complete: Complete,
    outstanding: Arc<Outstanding>,
}

/// The chunks of one body that were neither taken nor dropped yet, of those that somebody waits for.
#[derive(Default)]
pub(super) struct Outstanding {
    count: AtomicUsize,
    settled: AtomicWaker,
}

impl Chunk {
    /// With this all of `complete` is taken.
    pub(super) fn new(bytes: Bytes, complete: Complete, outstanding: &Arc<Outstanding>) -> Self {
        let taken = (!complete.is_empty()).then(|| {
            outstanding.count.fetch_add(1, Ordering::Relaxed);
            Taken { complete, outstanding: Arc::clone(outstanding) }
        });
        Self { bytes, taken, _holds: None }
    }

    /// The same, holding this for as long as it lasts.
    pub(super) fn holding(self, holds: Option<Holds>) -> Self {
        Self { _holds: holds, ..self }
    }

    /// The same in another encoding.
    pub(super) fn encoded(self, encode: impl FnOnce(Bytes) -> Bytes) -> Self {
        Self { bytes: encode(self.bytes), ..self }
    }

    fn tell_if_taken(&mut self) {
        if self.bytes.is_empty()
            && let Some(mut taken) = self.taken.take()
        {
            for (session, mark) in taken.complete.drain(..) {
                session.taken(mark);
            }
        }
    }
}

impl From<Bytes> for Chunk {
    fn from(bytes: Bytes) -> Self {
        Self { bytes, taken: None, _holds: None }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.outstanding.count.fetch_sub(1, Ordering::AcqRel);
        self.outstanding.settled.wake();
    }
}

impl Outstanding {
    /// Ready when every chunk was taken or dropped, and told it.
    pub(super) fn poll_settled(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.settled.register(cx.waker());
        if self.count.load(Ordering::Acquire) == 0 { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Buf for Chunk {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        self.tell_if_taken();
    }

    fn copy_to_bytes(&mut self, count: usize) -> Bytes {
        let bytes = self.bytes.copy_to_bytes(count);
        self.tell_if_taken();
        bytes
    }
}
