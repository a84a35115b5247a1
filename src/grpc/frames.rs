//! The frames of a subscription as the body of an HTTP/2 response.
//!
//! The body is written here and not by tonic, which would encode each message for each subscriber: a message is encoded
//! once, with the prefix that gRPC puts before it, and its bytes are shared by all who receive it. What is ready goes out
//! together.
//!
//! The body is also where AUTO acknowledgements come from: see [`TakenChunks`].

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue};
use http_body::{Body, Frame as BodyFrame};
use prost::Message as _;
use tonic::{Response, Status};

use super::convert;
use crate::{
    delivery::{Slice, TakenChunks},
    domain::{Message, RoomId},
    rooms::{Frame, Frames, Session, Subscription},
    v1::{self, subscribe_response::Frame as Wire},
};

/// Bytes that gRPC puts before each message: a flag for compression and the length.
const PREFIX_BYTES: usize = 5;
/// What is ready is gathered up to so many bytes.
const GATHER_BYTES: usize = 32 * 1024;
/// The same where acknowledgements depend on it: what a chunk holds is acknowledged as a whole.
const GATHER_BYTES_ACKNOWLEDGED: usize = 8 * 1024;

/// Appends a message as it goes out to every subscriber of its room.
pub(crate) fn encode_message(room: &RoomId, epoch: Option<i64>, message: Message, into: &mut BytesMut) {
    put(Wire::Message(convert::message(message, room, epoch)), into);
}

fn put(frame: Wire, into: &mut BytesMut) {
    let response = v1::SubscribeResponse { frame: Some(frame) };
    let length = response.encoded_len();
    into.reserve(PREFIX_BYTES + length);
    into.put_u8(0);
    into.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    response.encode_raw(into);
}

/// The response, whose body [`send_frames`] puts in place.
pub(super) fn respond<S>(subscription: Subscription) -> Response<tokio_stream::Empty<S>> {
    let acks = subscription.auto_acks.clone().map(|session| Acks { session, chunks: TakenChunks::default() });
    let frames = Some(subscription.frames());
    let body = FrameBody { frames, rest: None, gathered: BytesMut::new(), end: None, acks, told: 0 };
    let mut response = Response::new(tokio_stream::empty());
    response.extensions_mut().insert(Prepared(Arc::new(Mutex::new(Some(body)))));
    response
}

#[derive(Clone)]
struct Prepared(Arc<Mutex<Option<FrameBody>>>);

/// Gives the responses that have prepared one their own body.
pub(crate) fn send_frames<B>(mut response: http::Response<B>) -> http::Response<tonic::body::Body>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<tonic::codegen::StdError>,
{
    let prepared = response.extensions_mut().remove::<Prepared>();
    match prepared.and_then(|prepared| prepared.0.lock().unwrap_or_else(PoisonError::into_inner).take()) {
        Some(body) => response.map(|_| tonic::body::Body::new(body)),
        None => response.map(tonic::body::Body::new),
    }
}

/// Acknowledges what the client's stream has taken.
struct Acks {
    session: Arc<Session>,
    chunks: TakenChunks,
}

/// The frames of one subscription. Keeps its session open until it is dropped.
struct FrameBody {
    frames: Option<Frames>,
    /// What was too much for one chunk.
    rest: Option<Slice>,
    /// Ready, and not given out yet.
    gathered: BytesMut,
    /// The status to end with.
    end: Option<Status>,
    acks: Option<Acks>,
    /// Everything up to this position is in what was given out or gathered.
    told: u64,
}

impl FrameBody {
    /// The encoded frame.
    fn encode(&mut self, frame: Frame) -> Bytes {
        let (wire, position) = match frame {
            Frame::Messages(mut slice) => {
                self.rest = self.acks.as_ref().and_then(|_| slice.split_off(GATHER_BYTES_ACKNOWLEDGED));
                self.told = self.told.max(slice.last_sequence());
                return slice.bytes();
            }
            Frame::Opened { position, first_sequence, last_sequence, heartbeat_interval, resumed } => {
                let heartbeat_interval = heartbeat_interval.try_into().ok();
                (Wire::Opened(v1::Opened { position, first_sequence, last_sequence, heartbeat_interval, resumed }), 0)
            }
            Frame::CaughtUp { position } => (Wire::CaughtUp(v1::CaughtUp { position }), 0),
            Frame::Heartbeat { position } => (Wire::Heartbeat(v1::Heartbeat { position }), 0),
            Frame::Gap(gap) => {
                let to = gap.to;
                (Wire::Gap(convert::gap(gap)), to)
            }
        };
        self.told = self.told.max(position);
        let mut bytes = BytesMut::new();
        put(wire, &mut bytes);
        bytes.freeze()
    }

    /// Adds what is ready to what is gathered; something large that comes first is given out as it is.
    fn gather(&mut self, cx: &mut Context<'_>) -> Poll<Bytes> {
        let enough = if self.acks.is_some() { GATHER_BYTES_ACKNOWLEDGED } else { GATHER_BYTES };
        let mut first: Option<Bytes> = None;
        while let Some(frames) = &mut self.frames {
            let next = match self.rest.take() {
                Some(rest) => Poll::Ready(Some(Ok(Frame::Messages(rest)))),
                None => frames.as_mut().poll_next(cx),
            };
            match next {
                Poll::Ready(Some(Ok(frame))) => {
                    let bytes = self.encode(frame);
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
            None if self.gathered.is_empty() && self.frames.is_some() => Poll::Pending,
            None => Poll::Ready(std::mem::take(&mut self.gathered).freeze()),
        }
    }

    fn finish(&mut self, status: Status) {
        self.frames = None;
        self.end = Some(status);
    }
}

impl Body for FrameBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<BodyFrame<Bytes>, Infallible>>> {
        let this = &mut *self;
        if let Some(acks) = &this.acks {
            acks.session.taken(acks.chunks.asked());
        }
        let ready = match (this.gather(cx), &mut this.acks) {
            (Poll::Ready(ready), None) => ready,
            (Poll::Ready(ready), Some(acks)) => acks.chunks.chunk(ready, this.told),
            (Poll::Pending, Some(acks)) if acks.chunks.holds() => acks.chunks.chunk(Bytes::new(), this.told),
            (Poll::Pending, _) => return Poll::Pending,
        };
        if !ready.is_empty() {
            return Poll::Ready(Some(Ok(BodyFrame::data(ready))));
        }
        Poll::Ready(this.end.take().map(|status| Ok(BodyFrame::trailers(trailers(&status)))))
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_none() && self.end.is_none()
    }
}

fn trailers(status: &Status) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if status.add_header(&mut headers).is_err() {
        headers.insert(Status::GRPC_STATUS, HeaderValue::from(tonic::Code::Internal as i32));
    }
    headers
}
