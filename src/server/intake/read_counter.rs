//! Reports to a connection how many bytes of bodies its calls have read, until a caller is identified on it.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::{limits::FRAME_OVERHEAD_BYTES, server::client::ClientConnection};

/// The body of a request on a connection without an identified caller.
pub(in crate::server) struct ReadCounter<B> {
    inner: B,
    client: Arc<ClientConnection>,
}

impl<B> ReadCounter<B>
where
    B: Body<Data = Bytes, Error: Into<tonic::codegen::StdError>> + Send + Unpin + 'static,
{
    /// Wraps the body, unless a caller has already been identified on the connection.
    pub(in crate::server) fn wrap(inner: B, client: &Arc<ClientConnection>) -> tonic::body::Body {
        if client.is_identified() {
            return tonic::body::Body::new(inner);
        }
        tonic::body::Body::new(Self { inner, client: Arc::clone(client) })
    }
}

impl<B> Body for ReadCounter<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let polled = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if let Some(Ok(frame)) = &polled
            && let Some(data) = frame.data_ref().filter(|data| !data.is_empty())
        {
            self.client.count_read(data.len() + FRAME_OVERHEAD_BYTES);
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
