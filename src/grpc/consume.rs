//! The `Consume` call: converts the commands of the client, and encodes the events that answer them.
//!
//! The encoding of a message is shared by all subscribers of its room. Consume copies it behind the id of the room.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use tonic::{Response, Status, Streaming};

use super::{
    GrpcMetrics, convert,
    frames::{Piece, complete, count_gap, respond_with, wire},
    framing::{PREFIX_BYTES, put, put_prefix},
    status,
};
use crate::{
    delivery::Slice,
    domain::{Acknowledgement, Caller, RoomId, SubscriberId},
    error::{Error, Result},
    rooms::{
        Rooms,
        consume::{CommandKind, ConsumeCommand, ConsumeEvent, Consumed, flow::Credit},
    },
    v1::{
        self, consume_request::Command as WireCommand, consume_response::Frame as Wire,
        subscribe_response::Frame as Subscribed,
    },
};

/// The tag of `room_id` in `ConsumeResponse`.
const ROOM_ID_TAG: u32 = 1;
/// The tag of `message` in `ConsumeResponse`.
const MESSAGE_TAG: u32 = 3;
/// The tag of `consume` in `OpenSessionResponse`.
const CONSUME_TAG: u32 = 2;
/// Bytes of the key of `message` in `SubscribeResponse`.
const MESSAGE_KEY_BYTES: usize = 1;

/// The response message that carries a frame of Consume.
#[derive(Clone, Copy, Debug)]
pub(super) enum FrameEnvelope {
    /// `ConsumeResponse` itself.
    Consume,
    /// `OpenSessionResponse`.
    Session,
}

/// The response to a Consume stream.
pub(super) fn respond<S>(
    rooms: &Rooms,
    metrics: &GrpcMetrics,
    caller: &Caller,
    requests: Streaming<v1::ConsumeRequest>,
) -> Response<tokio_stream::Empty<S>> {
    let commands = requests.map(|request| command(request.map_err(unreadable)?));
    let pieces = pieces(rooms.consume(caller, commands), FrameEnvelope::Consume, metrics.clone());
    respond_with(Box::pin(pieces), Arc::clone(&metrics.delivery))
}

/// The encoded frames.
pub(super) fn pieces(
    consumed: impl Stream<Item = Result<Consumed>>,
    envelope: FrameEnvelope,
    metrics: GrpcMetrics,
) -> impl Stream<Item = Result<Piece>> {
    consumed.map(move |consumed| consumed.map(|consumed| piece(consumed, envelope, &metrics)))
}

fn unreadable(status: Status) -> Error {
    Error::field("command", "cannot be read as a ConsumeRequest, or is too large").because(status)
}

/// # Errors
/// When the command is missing, or its room id is invalid: an answer then has no room to name, and the error ends the
/// stream.
pub(super) fn command(request: v1::ConsumeRequest) -> Result<ConsumeCommand> {
    let Some(command) = request.command else {
        return Err(Error::field("command", "must be one of open, ack, credit, close and ping"));
    };
    let room = |field: &str, id: String| RoomId::parse(field, id);
    Ok(match command {
        WireCommand::Open(open) => {
            let subscribe = open.subscribe.unwrap_or_default();
            ConsumeCommand::Open {
                room_id: room("open.subscribe.room_id", subscribe.room_id.clone())?,
                options: convert::subscribe(subscribe),
                credit: Credit::new(open.credit_messages, open.credit_bytes),
            }
        }
        WireCommand::Ack(ack) => {
            let given = (!ack.subscriber.is_empty()).then(|| SubscriberId::parse("subscriber", ack.subscriber));
            ConsumeCommand::Acknowledge {
                room_id: room("ack.room_id", ack.room_id)?,
                subscriber: given.transpose(),
                acknowledgement: Acknowledgement { sequence: ack.sequence, generation: ack.generation },
            }
        }
        WireCommand::Credit(credit) => ConsumeCommand::Credit {
            room_id: room("credit.room_id", credit.room_id)?,
            messages: credit.messages,
            bytes: credit.bytes,
        },
        WireCommand::Close(close) => ConsumeCommand::Close { room_id: room("close.room_id", close.room_id)? },
        WireCommand::Ping(ping) => ConsumeCommand::Ping { nonce: ping.nonce },
    })
}

fn piece(Consumed { room_id, event }: Consumed, envelope: FrameEnvelope, metrics: &GrpcMetrics) -> Piece {
    count(&event, metrics);
    let room_id = room_id.map_or_else(String::new, String::from);
    let mut taken = None;
    let wire = match event {
        ConsumeEvent::Frame(frame, session) => {
            taken = complete(&frame, session);
            match wire(frame) {
                Ok(frame) => same_frame(frame),
                Err(slice) => {
                    let messages = slice.messages();
                    return Piece { bytes: tagged(&room_id, &slice, envelope), messages, taken };
                }
            }
        }
        ConsumeEvent::Acknowledged(position) => Wire::Acked(v1::AcknowledgeResponse { position }),
        ConsumeEvent::Rejected { kind, sequence, error } => Wire::Rejected(v1::ConsumeRejected {
            command: kind_of(kind).into(),
            sequence,
            error: Some(status::as_message(error.within(field_of(kind)))),
        }),
        ConsumeEvent::Closed(closed) => Wire::Closed(
            closed
                .map_or_else(|error| status::as_message(error.within(field_of(CommandKind::Open))), |()| status::ok()),
        ),
        ConsumeEvent::Pong(nonce) => Wire::Pong(v1::ConsumePong { nonce }),
    };
    let mut bytes = BytesMut::new();
    let response = v1::ConsumeResponse { room_id, frame: Some(wire) };
    match envelope {
        FrameEnvelope::Consume => put(&response, &mut bytes),
        FrameEnvelope::Session => {
            let frame = Some(v1::open_session_response::Frame::Consume(response));
            put(&v1::OpenSessionResponse { frame }, &mut bytes);
        }
    }
    Piece { bytes: bytes.freeze(), messages: 0, taken }
}

/// Counts the gaps and errors that the client gets. Messages are counted when they are written.
fn count(event: &ConsumeEvent, metrics: &GrpcMetrics) {
    match event {
        ConsumeEvent::Frame(frame, _) => count_gap(frame, &metrics.delivery),
        ConsumeEvent::Rejected { error, .. } | ConsumeEvent::Closed(Err(error)) => {
            metrics.calls.errors.inc(error.reason());
        }
        ConsumeEvent::Acknowledged(_) | ConsumeEvent::Closed(Ok(())) | ConsumeEvent::Pong(_) => {}
    }
}

/// Converts a frame of Subscribe to the same frame of Consume.
fn same_frame(frame: Subscribed) -> Wire {
    match frame {
        Subscribed::Opened(opened) => Wire::Opened(opened),
        Subscribed::Message(message) => Wire::Message(message),
        Subscribed::CaughtUp(caught_up) => Wire::CaughtUp(caught_up),
        Subscribed::Heartbeat(heartbeat) => Wire::Heartbeat(heartbeat),
        Subscribed::Gap(gap) => Wire::Gap(gap),
    }
}

/// The field of `ConsumeRequest` that holds the fields of a command.
fn field_of(kind: CommandKind) -> &'static str {
    match kind {
        CommandKind::Open => "open.subscribe",
        CommandKind::Acknowledge => "ack",
        CommandKind::Credit => "credit",
        CommandKind::Close => "close",
    }
}

fn kind_of(kind: CommandKind) -> v1::ConsumeCommand {
    match kind {
        CommandKind::Open => v1::ConsumeCommand::Open,
        CommandKind::Acknowledge => v1::ConsumeCommand::Ack,
        CommandKind::Credit => v1::ConsumeCommand::Credit,
        CommandKind::Close => v1::ConsumeCommand::Close,
    }
}

/// Encodes messages with the id of their room before each.
fn tagged(room_id: &str, slice: &Slice, envelope: FrameEnvelope) -> Bytes {
    let room_bytes = key_len(ROOM_ID_TAG) + encoded_len_varint(room_id.len() as u64) + room_id.len();
    let mut bytes = BytesMut::new();
    for encoded in slice.encoded() {
        // skips the prefix and the key: the length of the message and the message remain
        let message = encoded.get(PREFIX_BYTES + MESSAGE_KEY_BYTES..).unwrap_or_default();
        let length = room_bytes + key_len(MESSAGE_TAG) + message.len();
        let envelope_bytes = match envelope {
            FrameEnvelope::Consume => 0,
            FrameEnvelope::Session => key_len(CONSUME_TAG) + encoded_len_varint(length as u64),
        };
        bytes.reserve(PREFIX_BYTES + envelope_bytes + length);
        put_prefix(0, envelope_bytes + length, &mut bytes);
        if let FrameEnvelope::Session = envelope {
            encode_key(CONSUME_TAG, WireType::LengthDelimited, &mut bytes);
            encode_varint(length as u64, &mut bytes);
        }
        encode_key(ROOM_ID_TAG, WireType::LengthDelimited, &mut bytes);
        encode_varint(room_id.len() as u64, &mut bytes);
        bytes.put_slice(room_id.as_bytes());
        encode_key(MESSAGE_TAG, WireType::LengthDelimited, &mut bytes);
        bytes.put_slice(message);
    }
    bytes.freeze()
}
