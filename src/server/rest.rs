//! Reads the rest of a request whose call was answered before the request was complete, and drops it.
//!
//! The HTTP/2 library resets the stream of a request that nobody reads to its end. It remembers only a few of the streams that it
//! has reset. Data that still comes for one of the others counts as a fault of the client, although the client could not know
//! better, and [`FAULTY_STREAMS_MAX`](crate::limits::FAULTY_STREAMS_MAX) faults end the connection with all its streams. So the
//! rest is read, within bounds; beyond these bounds the library resets the stream as before.

use std::{
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::future::poll_fn;
use http_body::{Body, Frame, SizeHint};
use tokio::{runtime::Handle, sync::Semaphore, time};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::client::{Arrived, Client};
use crate::limits::{
    FRAME_OVERHEAD_BYTES, REFUSED_REQUEST_BYTES_MAX, REFUSED_REQUESTS_MAX, REFUSED_REQUESTS_PER_CONNECTION_MAX,
    REQUEST_TIMEOUT,
};

/// The requests of one listener that are read although their calls were answered.
#[derive(Clone, Debug)]
pub(super) struct Rests {
    of_all: Arc<Semaphore>,
    tasks: TaskTracker,
    /// No rest is read any more: it would keep its connection open.
    stop: CancellationToken,
}

impl Rests {
    pub(super) fn new(tasks: TaskTracker, stop: CancellationToken) -> Self {
        Self { of_all: Arc::new(Semaphore::new(REFUSED_REQUESTS_MAX)), tasks, stop }
    }

    /// Those of one connection.
    pub(super) fn of_connection(&self, client: Arc<Client>) -> Arc<OfConnection> {
        let places = Arc::new(Semaphore::new(REFUSED_REQUESTS_PER_CONNECTION_MAX));
        Arc::new(OfConnection { rests: self.clone(), places, client })
    }
}

/// The same, of one connection.
#[derive(Debug)]
pub(super) struct OfConnection {
    rests: Rests,
    places: Arc<Semaphore>,
    client: Arc<Client>,
}

impl OfConnection {
    /// Reads the rest of this body, if there is a place for it.
    fn read<B>(&self, body: B)
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
    {
        let of_connection = Arc::clone(&self.places).try_acquire_owned();
        let of_all = Arc::clone(&self.rests.of_all).try_acquire_owned();
        let (Ok(of_connection), Ok(of_all), Ok(runtime)) = (of_connection, of_all, Handle::try_current()) else {
            return;
        };
        // to strangers it counts as the open call that it was
        let arrived = self.client.arrive();
        let (client, stop) = (Arc::clone(&self.client), self.rests.stop.clone());
        let read = async move {
            let reading = read_to_end(body, |bytes| client.was_read(bytes + FRAME_OVERHEAD_BYTES));
            // whichever bound ends it, the library resets the stream
            let _ = stop.run_until_cancelled_owned(time::timeout(REQUEST_TIMEOUT, reading)).await;
            drop::<(_, _, Arrived)>((of_connection, of_all, arrived));
        };
        self.rests.tasks.spawn_on(read, &runtime);
    }
}

/// Reads a body and drops what it reads, up to [`REFUSED_REQUEST_BYTES_MAX`].
async fn read_to_end<B: Body<Data = Bytes> + Unpin>(body: B, was_read: impl Fn(usize)) {
    let mut body = pin!(body);
    let mut left = REFUSED_REQUEST_BYTES_MAX;
    while let Some(Ok(frame)) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        let length = frame.data_ref().map_or(0, Bytes::len);
        if length > 0 {
            was_read(length);
        }
        let Some(still) = left.checked_sub(length) else { return };
        left = still;
    }
}

/// The body of a request, which is read to its end also when it is dropped before.
pub(super) struct Whole<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
{
    /// Until its end.
    inner: Option<B>,
    of: Option<Arc<OfConnection>>,
}

impl<B> Whole<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
{
    /// The body of a request of this version. A connection of HTTP/1.1 has no other streams that could suffer.
    pub(super) fn new(body: B, version: ::http::Version, of: &Arc<OfConnection>) -> Self {
        Self { inner: Some(body), of: (version == ::http::Version::HTTP_2).then(|| Arc::clone(of)) }
    }
}

impl<B> Body for Whole<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let Some(inner) = &mut self.inner else { return Poll::Ready(None) };
        let polled = Pin::new(inner).poll_frame(cx);
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            self.inner = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl<B> Drop for Whole<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
{
    fn drop(&mut self) {
        if let (Some(body), Some(of)) = (self.inner.take().filter(|body| !body.is_end_stream()), &self.of) {
            of.read(body);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use http_body_util::StreamBody;

    use super::*;

    #[tokio::test]
    async fn a_body_without_end_is_read_as_far_as_it_may_be() {
        let piece = 100_000;
        let endless =
            futures_util::stream::repeat_with(|| Ok::<_, tonic::Status>(Frame::data(Bytes::from(vec![0; piece]))));
        let read = AtomicUsize::new(0);
        read_to_end(StreamBody::new(endless), |bytes| {
            read.fetch_add(bytes, Ordering::Relaxed);
        })
        .await;
        let read = read.into_inner();
        assert!((REFUSED_REQUEST_BYTES_MAX..REFUSED_REQUEST_BYTES_MAX + 2 * piece).contains(&read), "{read}");
    }
}
