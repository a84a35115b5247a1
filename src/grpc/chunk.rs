//! Observes which bytes the client's HTTP/2 stream has taken, as far as the transport shows it.
//!
//! The transport holds the bytes of a body until the flow-control window of the stream allows them. The client
//! opens this window. Then the transport moves small chunks into the buffer of the connection, and larger ones to the
//! socket (h2 0.4, `Encoder::buffer` in `codec/framed_write.rs`). A chunk notifies its sessions when its last byte
//! moves. When the client resets the stream first, the transport drops the chunk, and the chunk notifies nothing.

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

use crate::subscriptions::subscribers::session::{SeekPosition, SubscriberSession};

/// Sessions to notify, each with the position that is complete.
pub(super) type Complete = Vec<(Arc<SubscriberSession>, SeekPosition)>;

/// A share of a bounded resource, such as the count of open calls, that is given back when the client has taken the
/// whole body of an answer.
#[derive(Clone)]
pub(crate) struct AnswerGuard(#[expect(dead_code, reason = "kept, not read")] Arc<dyn Any + Send + Sync>);

impl AnswerGuard {
    pub(crate) fn new(share: impl Any + Send + Sync) -> Self {
        Self(Arc::new(share))
    }
}

/// A part of a response's body.
pub(crate) struct Chunk {
    bytes: Bytes,
    taken: Option<TakenNotice>,
    _guard: Option<AnswerGuard>,
}

/// The notification for when the client's stream has taken the chunk.
struct TakenNotice {
    complete: Complete,
    outstanding: Arc<OutstandingChunks>,
}

/// Counts the chunks of one body that have a notification and were neither taken nor dropped yet.
#[derive(Default)]
pub(super) struct OutstandingChunks {
    count: AtomicUsize,
    settled: AtomicWaker,
}

impl Chunk {
    /// A chunk whose last byte completes the positions in `complete`.
    pub(super) fn new(bytes: Bytes, complete: Complete, outstanding: &Arc<OutstandingChunks>) -> Self {
        let taken = (!complete.is_empty()).then(|| {
            outstanding.count.fetch_add(1, Ordering::Relaxed);
            TakenNotice { complete, outstanding: Arc::clone(outstanding) }
        });
        Self { bytes, taken, _guard: None }
    }

    /// The same chunk, which keeps `guard` until it is dropped.
    pub(crate) fn guarded_by(self, guard: Option<AnswerGuard>) -> Self {
        Self { _guard: guard, ..self }
    }

    /// The bytes that the client has not taken.
    pub(crate) fn bytes(&self) -> Bytes {
        self.bytes.clone()
    }

    /// The same chunk with its bytes in another encoding.
    pub(crate) fn encoded(self, encode: impl FnOnce(Bytes) -> Bytes) -> Self {
        Self { bytes: encode(self.bytes), ..self }
    }

    fn notify_if_taken(&mut self) {
        if self.bytes.is_empty()
            && let Some(mut taken) = self.taken.take()
        {
            for (session, position) in taken.complete.drain(..) {
                session.taken(position);
            }
        }
    }
}

impl From<Bytes> for Chunk {
    fn from(bytes: Bytes) -> Self {
        Self { bytes, taken: None, _guard: None }
    }
}

impl Drop for TakenNotice {
    fn drop(&mut self) {
        self.outstanding.count.fetch_sub(1, Ordering::AcqRel);
        self.outstanding.settled.wake();
    }
}

impl OutstandingChunks {
    /// Ready when every chunk was taken or dropped, and has notified its sessions if it was taken.
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
        self.notify_if_taken();
    }

    fn copy_to_bytes(&mut self, count: usize) -> Bytes {
        let bytes = self.bytes.copy_to_bytes(count);
        self.notify_if_taken();
        bytes
    }
}
