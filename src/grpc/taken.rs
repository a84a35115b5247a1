//! Counts the bytes of a response body that the client's HTTP/2 stream has taken.
//!
//! hyper asks a body for its next frame only when the stream's flow-control window has room beyond everything given to it
//! before (`PipeToSendStream` waits for capacity, and h2 counts buffered bytes against it). So when a body is polled, all
//! frames that it gave out before fit the window that the client granted: the client's stream has taken them.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

/// Bytes taken, shared between a response's body and the stream that fills it. Put into the response's extensions.
#[derive(Clone, Debug, Default)]
pub(super) struct TakenBytes(Arc<AtomicU64>);

impl TakenBytes {
    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counts for the responses that ask for it.
pub(crate) fn count_taken<B>(mut response: http::Response<B>) -> http::Response<CountedBody<B>> {
    let taken = response.extensions_mut().remove::<TakenBytes>();
    response.map(|inner| CountedBody { inner, given: 0, taken })
}

pin_project! {
    /// A body that may count what is taken of it.
    pub(crate) struct CountedBody<B> {
        #[pin]
        inner: B,
        given: u64,
        taken: Option<TakenBytes>,
    }
}

impl<B: Body<Data = Bytes>> Body for CountedBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        if let Some(taken) = this.taken {
            taken.0.store(*this.given, Ordering::Relaxed);
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
