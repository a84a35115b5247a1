//! The frames of a subscription as server-sent events (WHATWG HTML, "Server-sent events"): each frame is an event whose
//! data is the frame in proto3 JSON.

use std::{convert::Infallible, pin::pin, sync::Arc};

use async_stream::stream;
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http::Response;
use prost::Message;

use super::{
    frames::{self, Piece, pieces},
    framing::{PREFIX_BYTES, message_length},
    json::MessageType,
    json_text::JsonText,
    prepared::PreparedBody,
    types::ServedTypes,
};
use crate::{
    error::{Error, Result},
    limits::RESPONSE_PIECE_BYTES,
    metrics::DeliveryMetrics,
    subscriptions::subscription::Subscription,
    v1::{self, subscribe_response::Frame},
};

/// The first line: a client waits this many milliseconds before it connects again.
const RETRY: &[u8] = b"retry: 1000\n\n";
/// The message type of the frames.
const FRAMES: &str = "unibus.v1.SubscribeResponse";

/// The response that carries the frames of the subscription as events. If the subscription ends with an error, the last
/// event is named `error`, and its data is what `describe` writes.
pub(crate) fn event_stream(
    subscription: Subscription,
    served: &ServedTypes,
    metrics: &Arc<DeliveryMetrics>,
    describe: fn(&Error) -> String,
) -> Response<axum::body::Body> {
    let first = Piece { bytes: Bytes::from_static(RETRY), messages: 0, taken: None };
    let events = futures_util::stream::iter([Ok(first)]).chain(events(
        pieces(subscription, metrics),
        served.message(FRAMES),
        describe,
    ));
    // of unknown length, because the prepared body takes its place
    let mut response = Response::new(axum::body::Body::from_stream(tokio_stream::empty::<Result<Bytes, Infallible>>()));
    response.extensions_mut().insert(PreparedBody::new(frames::body_without_status(Box::pin(events), metrics)));
    response
}

fn events(
    pieces: impl Stream<Item = Result<Piece>>,
    frames: Option<MessageType>,
    describe: fn(&Error) -> String,
) -> impl Stream<Item = Result<Piece>> {
    stream! {
        let mut pieces = pin!(pieces);
        while let Some(piece) = pieces.next().await {
            let translated = piece.and_then(|Piece { bytes, messages, taken }| {
                Ok((as_events(bytes, frames.as_ref())?, messages, taken))
            });
            let (mut text, mut messages, mut taken, is_end) = match translated {
                Ok((text, messages, taken)) => (text, messages, taken, false),
                Err(error) => (event(Some(("event", "error")), Bytes::from(describe(&error)).into()), 0, None, true),
            };
            while !text.is_empty() {
                // a whole event would be a copy of its payload for each subscription that waits for its client
                let mut bytes = Vec::new();
                text.take(RESPONSE_PIECE_BYTES, &mut bytes);
                let is_last = text.is_empty();
                let (messages, taken) = if is_last { (std::mem::take(&mut messages), taken.take()) } else { (0, None) };
                yield Ok(Piece { bytes: bytes.into(), messages, taken });
            }
            if is_end {
                return;
            }
        }
    }
}

/// The events of the gRPC messages in `bytes`.
fn as_events(mut bytes: Bytes, frames: Option<&MessageType>) -> Result<JsonText> {
    let frames = frames.ok_or_else(|| Error::internal().because("the contract has no frames"))?;
    let mut events = JsonText::default();
    while !bytes.is_empty() {
        events.append(event_of(next_frame(&mut bytes)?, frames)?);
    }
    Ok(events)
}

/// Takes the first gRPC message of `bytes`, without its prefix.
fn next_frame(bytes: &mut Bytes) -> Result<Bytes> {
    let end = message_length(bytes).map(|length| PREFIX_BYTES + length).filter(|end| *end <= bytes.len());
    let end = end.ok_or_else(|| Error::internal().because("a frame is cut off"))?;
    Ok(bytes.split_to(end).slice(PREFIX_BYTES..))
}

fn event_of(frame: Bytes, frames: &MessageType) -> Result<JsonText> {
    let decoded = v1::SubscribeResponse::decode(frame.clone()).map_err(|error| Error::internal().because(error))?;
    let line = match &decoded.frame {
        // a message of an ephemeral room
        Some(Frame::Message(message)) if message.cursor.is_empty() => None,
        Some(Frame::Message(message)) => Some(("id", &*message.cursor)),
        Some(Frame::Opened(_)) => Some(("event", "opened")),
        Some(Frame::CaughtUp(_)) => Some(("event", "caught_up")),
        Some(Frame::Heartbeat(_)) => Some(("event", "heartbeat")),
        Some(Frame::Gap(_)) => Some(("event", "gap")),
        None => return Ok(JsonText::default()),
    };
    Ok(event(line, frames.to_json(frame)?))
}

/// An event with this line and this data. JSON has no line breaks.
fn event(line: Option<(&str, &str)>, data: JsonText) -> JsonText {
    let line = line.map(|(name, value)| format!("{name}: {value}\n")).unwrap_or_default();
    let mut text = JsonText::from(Bytes::from(format!("{line}data: ")));
    text.append(data);
    text.append(Bytes::from_static(b"\n\n").into());
    text
}
