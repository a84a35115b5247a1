//! Cheap encoding and decoding for the load generator, so that the rows measure the servers: the client counts frames
//! and does not decode them, and the bare server sends pre-encoded frames.

use bytes::{Buf, BufMut, Bytes};
use prost::Message;
use tonic::{
    Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};
use unibus::v1::{CaughtUp, Message as Stored, SubscribeRequest, SubscribeResponse, subscribe_response};

/// The kind of a `SubscribeResponse`, as a subscriber of the load generator counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    Message,
    CaughtUp,
    Gap,
    /// `opened` and heartbeats.
    Other,
}

/// The client's codec of Subscribe. It reads only the first byte of a frame, which is the tag of the one field that is
/// set.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counting;

impl Codec for Counting {
    type Encode = SubscribeRequest;
    type Decode = Frame;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Counting {
    type Item = SubscribeRequest;
    type Error = Status;

    fn encode(&mut self, item: SubscribeRequest, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        item.encode(to).map_err(|error| Status::internal(error.to_string()))
    }
}

impl Decoder for Counting {
    type Item = Frame;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Frame>, Status> {
        const LENGTH_DELIMITED: u8 = 2;
        let frame = match from.chunk().first().map(|tag| (tag >> 3, tag & 7)) {
            Some((2, LENGTH_DELIMITED)) => Frame::Message,
            Some((3, LENGTH_DELIMITED)) => Frame::CaughtUp,
            Some((5, LENGTH_DELIMITED)) => Frame::Gap,
            _ => Frame::Other,
        };
        from.advance(from.remaining());
        Ok(Some(frame))
    }
}

/// The bare server's codec. It sends and receives bytes unchanged.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ready;

impl Codec for Ready {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Ready {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for Ready {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// An encoded frame with this payload. It has the same fields and the same length as a frame of the service.
pub(crate) fn frame(payload: Bytes) -> Bytes {
    let message = Stored {
        sequence: 1_000_000,
        payload,
        published_at: Some(std::time::SystemTime::now().into()),
        cursor: "AAAAAAAAAAAAAAAAAAAAAAAAAAAA".to_owned(),
        ..Stored::default()
    };
    SubscribeResponse { frame: Some(subscribe_response::Frame::Message(message)) }.encode_to_vec().into()
}

/// A request to the bare server to broadcast `frame` `count` times.
pub(crate) fn burst(count: u32, frame: &Bytes) -> Bytes {
    let mut request = Vec::with_capacity(4 + frame.len());
    request.put_u32(count);
    request.put_slice(frame);
    request.into()
}

/// Parses a request of [`burst`].
pub(crate) fn read_burst(mut request: Bytes) -> Result<(u32, Bytes), Status> {
    let count = request.try_get_u32().map_err(|error| Status::invalid_argument(error.to_string()))?;
    Ok((count, request))
}

/// The frame with which the bare server reports that a subscription is open.
pub(crate) fn caught_up() -> Bytes {
    let frame = subscribe_response::Frame::CaughtUp(CaughtUp { position: 0 });
    SubscribeResponse { frame: Some(frame) }.encode_to_vec().into()
}
