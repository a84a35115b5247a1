//! Reads and discards the rest of a request whose call was answered before the request was complete.
//!
//! The HTTP/2 library resets the stream of a request that is not read to its end. The library remembers only a few of
//! the streams that it has reset. It treats data for any other reset stream as a fault of the client, although the
//! client cannot know of the reset yet. [`FAULTY_STREAMS_MAX`](crate::limits::FAULTY_STREAMS_MAX) faults end the
//! connection with all its streams. So the service reads the rest, within bounds. Beyond these bounds the library
//! resets the stream.
//!
//! The HTTP/1.1 library closes a connection whose request is not read to its end. A client that is still sending, such as a
//! browser, then loses the answer. So the service reads the rest for a short time there too.

use std::{
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::poll_fn;
use http_body::{Body, Frame, SizeHint};
use tokio::{runtime::Handle, sync::Semaphore, time};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::client::{Arrived, ClientConnection};
use crate::limits::{
    FRAME_OVERHEAD_BYTES, HTTP1_REST_TIMEOUT, REFUSED_REQUEST_BYTES_MAX, REFUSED_REQUESTS_MAX,
    REFUSED_REQUESTS_PER_CONNECTION_MAX, REQUEST_TIMEOUT,
};

/// The bound on discarded requests that the connections of one listener share.
#[derive(Clone, Debug)]
pub(super) struct Discards {
    of_all: Arc<Semaphore>,
    tasks: TaskTracker,
    /// Ends all discarding, which would otherwise keep connections open during the drain.
    stop: CancellationToken,
}

impl Discards {
    pub(super) fn new(tasks: TaskTracker, stop: CancellationToken) -> Self {
        Self { of_all: Arc::new(Semaphore::new(REFUSED_REQUESTS_MAX)), tasks, stop }
    }

    pub(super) fn of_connection(&self, client: Arc<ClientConnection>) -> Arc<ConnectionDiscards> {
        let places = Arc::new(Semaphore::new(REFUSED_REQUESTS_PER_CONNECTION_MAX));
        Arc::new(ConnectionDiscards { discards: self.clone(), places, client })
    }
}

/// The bound on the discarded requests of one connection.
#[derive(Debug)]
pub(super) struct ConnectionDiscards {
    discards: Discards,
    places: Arc<Semaphore>,
    client: Arc<ClientConnection>,
}

impl ConnectionDiscards {
    /// Discards the rest of `body` in a task. Drops `body` at once when the connection or the listener has no place
    /// left.
    fn discard<B>(&self, body: B, patience: Duration)
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
    {
        let of_connection = Arc::clone(&self.places).try_acquire_owned();
        let of_all = Arc::clone(&self.discards.of_all).try_acquire_owned();
        let (Ok(of_connection), Ok(of_all), Ok(runtime)) = (of_connection, of_all, Handle::try_current()) else {
            return;
        };
        // before a caller is identified, a discarded request still takes the place of an open call
        let arrived = self.client.keep_open();
        let (client, stop) = (Arc::clone(&self.client), self.discards.stop.clone());
        let read = async move {
            let reading = read_to_end(body, |bytes| client.count_read(bytes + FRAME_OVERHEAD_BYTES));
            // when a bound ends the reading, the library resets the stream
            let _ = stop.run_until_cancelled_owned(time::timeout(patience, reading)).await;
            drop::<(_, _, Arrived)>((of_connection, of_all, arrived));
        };
        self.discards.tasks.spawn_on(read, &runtime);
    }
}

/// Reads and discards a body, up to [`REFUSED_REQUEST_BYTES_MAX`]. Reports the length of each data frame to `count_read`.
async fn read_to_end<B: Body<Data = Bytes> + Unpin>(body: B, count_read: impl Fn(usize)) {
    let mut body = pin!(body);
    let mut left = REFUSED_REQUEST_BYTES_MAX;
    while let Some(Ok(frame)) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        let length = frame.data_ref().map_or(0, Bytes::len);
        if length > 0 {
            count_read(length);
        }
        let Some(still) = left.checked_sub(length) else { return };
        left = still;
    }
}

/// The body of a request. Dropping it before its end discards the rest.
pub(super) struct DiscardRest<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
{
    /// `None` after the end of the body.
    inner: Option<B>,
    discards: Arc<ConnectionDiscards>,
    /// How long the rest may take.
    patience: Duration,
}

impl<B> DiscardRest<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
{
    /// Wraps the body of a request.
    pub(super) fn new(body: B, version: ::http::Version, discards: &Arc<ConnectionDiscards>) -> Self {
        let patience = if version == ::http::Version::HTTP_2 { REQUEST_TIMEOUT } else { HTTP1_REST_TIMEOUT };
        Self { inner: Some(body), discards: Arc::clone(discards), patience }
    }
}

impl<B> Body for DiscardRest<B>
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

impl<B> Drop for DiscardRest<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
{
    fn drop(&mut self) {
        if let Some(body) = self.inner.take().filter(|body| !body.is_end_stream()) {
            self.discards.discard(body, self.patience);
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
