//! Writes the frames of a subscription as the body of an HTTP/2 response.
//!
//! This module writes the body instead of tonic, because tonic would encode each message for each subscriber. Here each
//! message is encoded once, together with its gRPC prefix, and all its subscribers share the bytes. Frames that are
//! ready at the same time go out together.
//!
//! The body is also the source of `AUTO` acknowledgements: each [`Chunk`] reports when the client's stream has taken
//! it.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use http::{HeaderMap, HeaderValue};
use http_body::{Body, Frame as BodyFrame};
use tonic::{Response, Status};

use super::{
    chunk::{Chunk, Complete, OutstandingChunks},
    convert,
    framing::put,
    prepared::PreparedBody,
    status::status,
};
use crate::{
    delivery::Slice,
    domain::{Cursor, GapReason, Message, RoomId},
    error::Result,
    metrics::{DeliveryMetrics, MissingBecause},
    subscriptions::{
        frame::Frame,
        subscribers::session::{SeekPosition, SubscriberSession},
        subscription::{Frames, Subscription},
    },
    v1::{self, subscribe_response::Frame as Wire},
};

/// Bytes at which ready frames are no longer gathered.
const GATHER_BYTES: usize = 32 * 1024;
/// The smaller bound with `AUTO` acknowledgements, because a chunk is acknowledged as a whole.
const GATHER_BYTES_ACKNOWLEDGED: usize = 8 * 1024;

/// Appends the encoding of `message` that every subscriber of its room receives.
pub(crate) fn encode_message(room: &RoomId, epoch: Option<i64>, message: Message, into: &mut BytesMut) {
    let frame = Some(Wire::Message(convert::message(message, room, epoch)));
    put(&v1::SubscribeResponse { frame }, into);
}

/// Encoded bytes that are not split between two chunks.
pub(super) struct Piece {
    pub bytes: Bytes,
    /// The number of messages in the bytes; 0 for a frame without messages.
    pub messages: u64,
    /// The session to notify when the client's stream has taken the bytes, and the position that is complete then.
    pub taken: Option<(Arc<SubscriberSession>, SeekPosition)>,
}

/// The session to notify when the client's stream has taken `frame`, and the position that is complete then. `None` for
/// a frame that completes no position.
pub(super) fn complete(
    frame: &Frame,
    session: Option<Arc<SubscriberSession>>,
) -> Option<(Arc<SubscriberSession>, SeekPosition)> {
    let position = match frame {
        Frame::Messages(slice) => slice.last_sequence(),
        Frame::Gap(gap) => gap.to,
        Frame::Opened { .. } | Frame::CaughtUp { .. } | Frame::Heartbeat { .. } => return None,
    };
    session.map(|session| {
        let position = session.seek_position(position);
        (session, position)
    })
}

/// The response to Subscribe. [`PreparedBodies`](super::PreparedBodies) replaces its empty body by the prepared one.
pub(super) fn respond<S>(
    subscription: Subscription,
    metrics: &Arc<DeliveryMetrics>,
) -> Response<tokio_stream::Empty<S>> {
    respond_with(pieces(subscription, metrics), Arc::clone(metrics))
}

/// The frames of the subscription, encoded.
pub(super) fn pieces(
    subscription: Subscription,
    metrics: &Arc<DeliveryMetrics>,
) -> impl Stream<Item = Result<Piece>> + Send + Unpin + use<> {
    let (session, metrics) = (subscription.auto_acks.clone(), Arc::clone(metrics));
    SubscriptionPieces { frames: subscription.frames(), rest: None, session, metrics }
}

/// A response that consists of `pieces`. [`PreparedBodies`](super::PreparedBodies) replaces its empty body by the
/// prepared one.
pub(super) fn respond_with<S, P>(pieces: P, metrics: Arc<DeliveryMetrics>) -> Response<tokio_stream::Empty<S>>
where
    P: Stream<Item = Result<Piece>> + Send + Unpin + 'static,
{
    let mut response = Response::new(tokio_stream::empty());
    response.extensions_mut().insert(PreparedBody::new(FrameBody::new(pieces, metrics, true)));
    response
}

/// A body that consists of `pieces`, without a status at its end.
pub(super) fn body_without_status<P>(
    pieces: P,
    metrics: &Arc<DeliveryMetrics>,
) -> impl Body<Data = Chunk, Error = Infallible> + Send + 'static
where
    P: Stream<Item = Result<Piece>> + Send + Unpin + 'static,
{
    FrameBody::new(pieces, Arc::clone(metrics), false)
}

/// The frames of one subscription, encoded. Keeps its session open until it is dropped.
struct SubscriptionPieces {
    frames: Frames,
    /// Messages of the last frame that did not fit into its piece.
    rest: Option<Slice>,
    session: Option<Arc<SubscriberSession>>,
    metrics: Arc<DeliveryMetrics>,
}

impl SubscriptionPieces {
    fn piece(&mut self, mut frame: Frame) -> Piece {
        if let (Frame::Messages(slice), Some(_)) = (&mut frame, &self.session) {
            self.rest = slice.split_off(GATHER_BYTES_ACKNOWLEDGED);
        }
        count_gap(&frame, &self.metrics);
        let taken = complete(&frame, self.session.clone());
        match wire(frame) {
            Err(slice) => Piece { bytes: slice.bytes(), messages: slice.messages(), taken },
            Ok(frame) => {
                let mut bytes = BytesMut::new();
                put(&v1::SubscribeResponse { frame: Some(frame) }, &mut bytes);
                Piece { bytes: bytes.freeze(), messages: 0, taken }
            }
        }
    }
}

/// Counts the frame if it is a gap.
pub(super) fn count_gap(frame: &Frame, metrics: &DeliveryMetrics) {
    let Frame::Gap(gap) = frame else { return };
    let reason = match gap.reason {
        GapReason::Expired => MissingBecause::Expired,
        GapReason::Purged => MissingBecause::Purged,
        GapReason::Deleted => MissingBecause::Deleted,
        GapReason::SlowReader => MissingBecause::Dropped,
        GapReason::Disconnected => MissingBecause::Disconnected,
    };
    metrics.gaps.inc(reason);
    let sequences = if gap.from > 0 { (gap.to + 1).saturating_sub(gap.from) } else { 0 };
    metrics.missing.inc_by(reason, sequences + gap.dropped);
}

/// Converts a frame that belongs to one subscription alone.
///
/// # Errors
/// Returns messages unchanged, because they are already encoded.
pub(super) fn wire(frame: Frame) -> Result<Wire, Slice> {
    Ok(match frame {
        Frame::Messages(slice) => return Err(slice),
        Frame::Opened { position, first_sequence, last_sequence, heartbeat_interval, resumed, generation, cursor } => {
            Wire::Opened(v1::Opened {
                position,
                first_sequence,
                last_sequence,
                heartbeat_interval: heartbeat_interval.try_into().ok(),
                resumed,
                generation,
                cursor: cursor.map(Cursor::encode).unwrap_or_default(),
            })
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

/// What a chunk delivers. Counted for each chunk and not for each message, because many subscriptions count in one
/// place.
#[derive(Default)]
struct Delivered {
    messages: u64,
    bytes: u64,
}

/// How a body ends.
enum BodyEnd {
    /// With this status in the trailers.
    Status(Status),
    Plain,
}

/// A body that gathers pieces into chunks.
struct FrameBody<P> {
    pieces: Option<P>,
    /// Bytes for the next chunk.
    gathered: BytesMut,
    /// The positions that are complete with the next chunk.
    complete: Complete,
    /// The end of the body, when every piece was gathered.
    end: Option<BodyEnd>,
    /// Whether the body ends with a status.
    has_status: bool,
    /// Whether a session must be notified of taken chunks.
    acknowledges: bool,
    outstanding: Arc<OutstandingChunks>,
    metrics: Arc<DeliveryMetrics>,
}

impl<P: Stream<Item = Result<Piece>> + Unpin> FrameBody<P> {
    fn new(pieces: P, metrics: Arc<DeliveryMetrics>, has_status: bool) -> Self {
        Self {
            pieces: Some(pieces),
            gathered: BytesMut::new(),
            complete: Complete::new(),
            end: None,
            has_status,
            acknowledges: false,
            outstanding: Arc::default(),
            metrics,
        }
    }

    /// Gathers ready pieces, and returns them. Returns a single piece, or a large first piece, without a copy. Empty
    /// bytes mean the end.
    fn gather(&mut self, cx: &mut Context<'_>) -> Poll<Bytes> {
        let mut delivered = Delivered::default();
        let gathered = self.gather_into(&mut delivered, cx);
        if delivered.messages > 0 {
            self.metrics.messages.inc_by(delivered.messages);
            self.metrics.bytes.inc_by(delivered.bytes);
        }
        gathered
    }

    fn gather_into(&mut self, delivered: &mut Delivered, cx: &mut Context<'_>) -> Poll<Bytes> {
        let mut first: Option<Bytes> = None;
        while let Some(pieces) = &mut self.pieces {
            match pieces.poll_next_unpin(cx) {
                Poll::Ready(Some(Ok(Piece { bytes, messages, taken }))) => {
                    if messages > 0 {
                        delivered.messages += messages;
                        delivered.bytes += bytes.len() as u64;
                    }
                    if let Some(taken) = taken {
                        self.record_complete(taken);
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
                Poll::Ready(Some(Err(error))) => self.finish(status(error)),
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

    fn record_complete(&mut self, (session, position): (Arc<SubscriberSession>, SeekPosition)) {
        self.acknowledges = true;
        match self.complete.iter_mut().find(|(known, _)| Arc::ptr_eq(known, &session)) {
            Some((_, known)) => *known = position.max(*known),
            None => self.complete.push((session, position)),
        }
    }

    fn finish(&mut self, status: Status) {
        self.pieces = None;
        self.end = Some(if self.has_status { BodyEnd::Status(status) } else { BodyEnd::Plain });
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
        // the sessions close with this body and write their positions back, so every chunk must be settled first
        ready!(this.outstanding.poll_settled(cx));
        Poll::Ready(match this.end.take() {
            Some(BodyEnd::Status(status)) => Some(Ok(BodyFrame::trailers(trailers(&status)))),
            Some(BodyEnd::Plain) | None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_none() && self.end.is_none()
    }
}

/// The trailers that end a response with `status`.
pub(super) fn trailers(status: &Status) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if status.add_header(&mut headers).is_err() {
        headers.insert(Status::GRPC_STATUS, HeaderValue::from(tonic::Code::Internal as i32));
    }
    headers
}
