//! Responses in pieces, which keep their read place until the client has received them.
//!
//! The HTTP/2 library takes the next frame of a body as soon as the client's window is open, and then holds the whole
//! frame. So this module cuts a body into pieces of `RESPONSE_PIECE_BYTES`. The part that the client does not receive
//! stays here, together with the place.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use ::http::Response;
use axum::body::Body;
use bytes::Bytes;
use http_body::{Frame, SizeHint};

use crate::{limits::RESPONSE_PIECE_BYTES, subscriptions::reads::ReadPlace};

/// Cuts the body of a response that has a [`ReadPlace`] into pieces, and moves the place into the body.
pub(super) fn in_pieces(mut response: Response<Body>) -> Response<Body> {
    match response.extensions_mut().remove::<ReadPlace>() {
        Some(place) => response.map(|body| Body::new(BodyInPieces { body, rest: Bytes::new(), _place: place })),
        None => response,
    }
}

struct BodyInPieces {
    body: Body,
    /// The unsent part of the current frame.
    rest: Bytes,
    _place: ReadPlace,
}

impl http_body::Body for BodyInPieces {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        while self.rest.is_empty() {
            match std::task::ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(frame) => return Poll::Ready(Some(Ok(frame))),
                },
                end => return Poll::Ready(end),
            }
        }
        let piece = self.rest.len().min(RESPONSE_PIECE_BYTES);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(piece)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (hint, rest) = (self.body.size_hint(), self.rest.len() as u64);
        let mut all = SizeHint::new();
        all.set_lower(hint.lower().saturating_add(rest));
        if let Some(upper) = hint.upper() {
            all.set_upper(upper.saturating_add(rest));
        }
        all
    }
}
