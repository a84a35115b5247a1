//! Acknowledges what the client's HTTP/2 stream has taken.
//!
//! hyper asks a body for its next frame only when the stream's flow-control window has room beyond everything given to it
//! before (`PipeToSendStream` waits for capacity, and h2 counts buffered bytes against it). So when a body is polled, all
//! frames that it gave out before fit the window that the client granted: the client's stream has taken them. The body is
//! the place to ask, since the stream behind it is dropped before its last frame is taken.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::{delivery::TakenLedger, rooms::Session};

/// The position of an AUTO subscriber, shared between the stream that sends frames and the body that sees them taken. Put
/// into the response's extensions. Keeps the session open until the body is dropped.
#[derive(Clone, Debug)]
pub(super) struct AutoAcks(Arc<Mutex<Pending>>);

#[derive(Debug)]
struct Pending {
    session: Arc<Session>,
    ledger: TakenLedger,
}

impl AutoAcks {
    pub(super) fn new(session: Arc<Session>) -> Self {
        Self(Arc::new(Mutex::new(Pending { session, ledger: TakenLedger::default() })))
    }

    /// A frame of `bytes` goes out; with it everything up to `position` is told.
    pub(super) fn sent(&self, bytes: u64, position: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).ledger.sent(bytes, position);
    }

    /// The client's stream has taken `bytes` of the body in all.
    fn taken(&self, bytes: u64) {
        let mut pending = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(position) = pending.ledger.taken(bytes) {
            pending.session.taken(position);
        }
    }
}

/// Watches the bodies of the responses that ask for it.
pub(crate) fn watch_taken<B>(mut response: http::Response<B>) -> http::Response<WatchedBody<B>> {
    let acks = response.extensions_mut().remove::<AutoAcks>();
    response.map(|inner| WatchedBody { inner, given: 0, acks })
}

pin_project! {
    /// A body that may acknowledge what is taken of it.
    pub(crate) struct WatchedBody<B> {
        #[pin]
        inner: B,
        given: u64,
        acks: Option<AutoAcks>,
    }
}

impl<B: Body<Data = Bytes>> Body for WatchedBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        if let Some(acks) = this.acks {
            acks.taken(*this.given);
        }
        let polled = this.inner.poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            *this.given += data.remaining() as u64;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
