//! The frames of a subscription as the body of an HTTP/2 response.
//!
//! The body is written here and not by tonic, which would encode each message for each subscriber: a message is encoded
//! once, with the prefix that gRPC puts before it, and its bytes are shared by all who receive it. What is ready goes out
//! together.
//!
//! The body is also where AUTO acknowledgements come from: each [`Chunk`] tells when the client's stream has taken it.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use http::{HeaderMap, HeaderValue};
use http_body::{Body, Frame as BodyFrame};
use tonic::{Response, Status};

use super::{
    chunk::{Chunk, Complete, Outstanding},
    convert,
    prepared::PreparedBody,
};
use crate::{
    delivery::Slice,
    domain::{Message, RoomId},
    error::Result,
    subscriptions::{
        frame::Frame,
        subscribers::session::{Mark, SubscriberSession},
        subscription::{Frames, Subscription},
    },
    v1::{self, subscribe_response::Frame as Wire},
};

/// Bytes that gRPC puts before each message: a flag for compression and the length.
pub(super) const PREFIX_BYTES: usize = 5;
/// What is ready is gathered up to so many bytes.
const GATHER_BYTES: usize = 32 * 1024;
/// The same where acknowledgements depend on it: what a chunk holds is acknowledged as a whole.
const GATHER_BYTES_ACKNOWLEDGED: usize = 8 * 1024;

/// Appends a message as it goes out to every subscriber of its room.
pub(crate) fn encode_message(room: &RoomId, epoch: Option<i64>, message: Message, into: &mut BytesMut) {
    let frame = Some(Wire::Message(convert::message(message, room, epoch)));
    put(&v1::SubscribeResponse { frame }, into);
}

/// Appends a message of gRPC.
pub(super) fn put(response: &impl prost::Message, into: &mut BytesMut) {
    let length = response.encoded_len();
    into.reserve(PREFIX_BYTES + length);
    put_prefix(0, length, into);
    response.encode_raw(into);
}

/// Appends what gRPC puts before a message of so many bytes.
pub(super) fn put_prefix(flags: u8, length: usize, into: &mut BytesMut) {
    into.put_u8(flags);
    into.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
}

/// What goes out together.
pub(super) struct Piece {
    pub bytes: Bytes,
    /// Whom to tell that the client's stream has taken everything up to a position, which is complete with this.
    pub taken: Option<(Arc<SubscriberSession>, Mark)>,
}

/// Whom to tell when the frame was taken, and of what: everything up to there is in it, or said in it to be missing.
pub(super) fn complete(
    frame: &Frame,
    session: Option<Arc<SubscriberSession>>,
) -> Option<(Arc<SubscriberSession>, Mark)> {
    let position = match frame {
        Frame::Messages(slice) => slice.last_sequence(),
        Frame::Gap(gap) => gap.to,
        Frame::Opened { .. } | Frame::CaughtUp { .. } | Frame::Heartbeat { .. } => return None,
    };
    session.map(|session| {
        let mark = session.mark(position);
        (session, mark)
    })
}

/// The response to Subscribe, whose body [`PreparedBodies`](super::PreparedBodies) puts in place.
pub(super) fn respond<S>(subscription: Subscription) -> Response<tokio_stream::Empty<S>> {
    let session = subscription.auto_acks.clone();
    respond_with(SubscriptionPieces { frames: subscription.frames(), rest: None, session })
}

/// A response of these pieces, whose body [`PreparedBodies`](super::PreparedBodies) puts in place.
pub(super) fn respond_with<S, P>(pieces: P) -> Response<tokio_stream::Empty<S>>
where
    P: Stream<Item = Result<Piece>> + Send + Unpin + 'static,
{
    let body = FrameBody {
        pieces: Some(pieces),
        gathered: BytesMut::new(),
        complete: Complete::new(),
        end: None,
        acknowledges: false,
        outstanding: Arc::default(),
    };
    let mut response = Response::new(tokio_stream::empty());
    response.extensions_mut().insert(PreparedBody::new(body));
    response
}

/// The frames of one subscription, encoded. Keeps its session open until it is dropped.
struct SubscriptionPieces {
    frames: Frames,
    /// What was too much for one piece.
    rest: Option<Slice>,
    session: Option<Arc<SubscriberSession>>,
}

impl SubscriptionPieces {
    fn piece(&mut self, mut frame: Frame) -> Piece {
        if let (Frame::Messages(slice), Some(_)) = (&mut frame, &self.session) {
            self.rest = slice.split_off(GATHER_BYTES_ACKNOWLEDGED);
        }
        let taken = complete(&frame, self.session.clone());
        let bytes = match wire(frame) {
            Err(slice) => slice.bytes(),
            Ok(frame) => {
                let mut bytes = BytesMut::new();
                put(&v1::SubscribeResponse { frame: Some(frame) }, &mut bytes);
                bytes.freeze()
            }
        };
        Piece { bytes, taken }
    }
}

/// A frame that belongs to one subscription alone.
///
/// # Errors
/// Messages, which are encoded already.
pub(super) fn wire(frame: Frame) -> Result<Wire, Slice> {
    Ok(match frame {
        Frame::Messages(slice) => return Err(slice),
        Frame::Opened { position, first_sequence, last_sequence, heartbeat_interval, resumed } => {
            let heartbeat_interval = heartbeat_interval.try_into().ok();
            Wire::Opened(v1::Opened { position, first_sequence, last_sequence, heartbeat_interval, resumed })
        }
        Frame::CaughtUp { position } => Wire::CaughtUp(v1::CaughtUp { position }),
        Frame::Heartbeat { position } => Wire::Heartbeat(v1::Heartbeat { position }),
        Frame::Gap(gap) => Wire::Gap(convert::gap(gap)),
    })
}

impl Stream for SubscriptionPieces {
    type Item = Result<Piece>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = match self.rest.take() {
            Some(rest) => Some(Ok(Frame::Messages(rest))),
            None => ready!(self.frames.as_mut().poll_next(cx)),
        };
        Poll::Ready(next.map(|frame| frame.map(|frame| self.piece(frame))))
    }
}

/// Pieces as a body.
struct FrameBody<P> {
    pieces: Option<P>,
    /// Ready, and not given out yet.
    gathered: BytesMut,
    /// What is complete with what is ready.
    complete: Complete,
    /// The status to end with.
    end: Option<Status>,
    /// Somebody wants to know what was taken.
    acknowledges: bool,
    outstanding: Arc<Outstanding>,
}

impl<P: Stream<Item = Result<Piece>> + Unpin> FrameBody<P> {
    /// Adds what is ready to what is gathered; something large that comes first is given out as it is.
    fn gather(&mut self, cx: &mut Context<'_>) -> Poll<Bytes> {
        let mut first: Option<Bytes> = None;
        while let Some(pieces) = &mut self.pieces {
            match pieces.poll_next_unpin(cx) {
                Poll::Ready(Some(Ok(Piece { bytes, taken }))) => {
                    if let Some(taken) = taken {
                        self.note(taken);
                    }
                    let enough = if self.acknowledges { GATHER_BYTES_ACKNOWLEDGED } else { GATHER_BYTES };
                    match first.take() {
                        None if self.gathered.is_empty() && bytes.len() < enough => first = Some(bytes),
                        None if self.gathered.is_empty() => return Poll::Ready(bytes),
                        before => {
                            self.gathered.extend(before);
                            self.gathered.extend_from_slice(&bytes);
                        }
                    }
                    if self.gathered.len() >= enough {
                        break;
                    }
                }
                Poll::Ready(Some(Err(error))) => self.finish(error.into()),
                Poll::Ready(None) => self.finish(Status::ok("")),
                Poll::Pending => break,
            }
        }
        match first {
            Some(bytes) => Poll::Ready(bytes),
            None if self.gathered.is_empty() && self.pieces.is_some() => Poll::Pending,
            None => Poll::Ready(std::mem::take(&mut self.gathered).freeze()),
        }
    }

    fn note(&mut self, (session, mark): (Arc<SubscriberSession>, Mark)) {
        self.acknowledges = true;
        match self.complete.iter_mut().find(|(noted, _)| Arc::ptr_eq(noted, &session)) {
            Some((_, noted)) => *noted = mark.max(*noted),
            None => self.complete.push((session, mark)),
        }
    }

    fn finish(&mut self, status: Status) {
        self.pieces = None;
        self.end = Some(status);
    }
}

impl<P: Stream<Item = Result<Piece>> + Send + Unpin + 'static> Body for FrameBody<P> {
    type Data = Chunk;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<BodyFrame<Chunk>, Infallible>>> {
        let this = &mut *self;
        let ready = ready!(this.gather(cx));
        if !ready.is_empty() {
            let complete = std::mem::take(&mut this.complete);
            return Poll::Ready(Some(Ok(BodyFrame::data(Chunk::new(ready, complete, &this.outstanding)))));
        }
        // the sessions close with this body, and write back what is known to be taken
        ready!(this.outstanding.poll_settled(cx));
        Poll::Ready(this.end.take().map(|status| Ok(BodyFrame::trailers(trailers(&status)))))
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_none() && self.end.is_none()
    }
}

fn trailers(status: &Status) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if status.add_header(&mut headers).is_err() {
        headers.insert(Status::GRPC_STATUS, HeaderValue::from(tonic::Code::Internal as i32));
    }
    headers
}
