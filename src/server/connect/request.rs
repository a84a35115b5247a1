//! The body of a unary request with the prefix that gRPC has before a message.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http_body::{Body as HttpBody, Frame, SizeHint};

use crate::grpc::framing::{COMPRESSED_FLAG, PREFIX_BYTES, put_prefix};

/// A body that is one message. Its prefix announces the length of the body, or `bytes_max` when the client does not tell
/// the length.
pub(in crate::server) struct OneMessage {
    inner: Body,
    prefix: Option<Bytes>,
}

impl OneMessage {
    /// Adds the prefix. Also returns whether the prefix announces the true length.
    pub(in crate::server) fn new(inner: Body, bytes_max: usize, is_compressed: bool) -> (Self, bool) {
        let exact = inner.size_hint().exact();
        let length = exact.unwrap_or(bytes_max as u64);
        let mut prefix = BytesMut::with_capacity(PREFIX_BYTES);
        put_prefix(
            if is_compressed { COMPRESSED_FLAG } else { 0 },
            usize::try_from(length).unwrap_or(usize::MAX),
            &mut prefix,
        );
        (Self { inner, prefix: Some(prefix.freeze()) }, exact.is_some())
    }
}

impl HttpBody for OneMessage {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if let Some(prefix) = self.prefix.take() {
            return Poll::Ready(Some(Ok(Frame::data(prefix))));
        }
        loop {
            match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
                // the protocol has no trailers of a unary request
                Some(Ok(frame)) if frame.is_trailers() => {}
                frame => return Poll::Ready(frame),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.prefix.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
