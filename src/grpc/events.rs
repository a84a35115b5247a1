//! The frames of a subscription as server-sent events (WHATWG HTML, "Server-sent events"): each frame is an event whose
//! data is the frame in proto3 JSON.

use std::{convert::Infallible, pin::pin, sync::Arc};

use async_stream::stream;
use bytes::{BufMut, Bytes};
use futures_util::{Stream, StreamExt};
use http::Response;
use prost::Message;

use super::{
    codec::without_delay,
    frames::{self, Piece, pieces},
    framing::{PREFIX_BYTES, message_length},
    json::{MessageType, SLOWNESS},
    json_text::JsonText,
    prepared::PreparedBody,
    types::ServedTypes,
};
use crate::{
    error::{Error, Result},
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
            match piece.and_then(|piece| as_events(piece, frames.as_ref())) {
                Ok(events) => yield Ok(events),
                Err(error) => {
                    let mut event = Vec::new();
                    put_line("event", "error", &mut event);
                    put_data(Bytes::from(describe(&error)).into(), &mut event);
                    yield Ok(Piece { bytes: event.into(), messages: 0, taken: None });
                    return;
                }
            }
        }
    }
}

fn as_events(Piece { bytes, messages, taken }: Piece, frames: Option<&MessageType>) -> Result<Piece> {
    let frames = frames.ok_or_else(|| Error::internal().because("the contract has no frames"))?;
    let (mut events, mut rest) = (Vec::new(), bytes);
    without_delay(rest.len().saturating_mul(SLOWNESS), || {
        while !rest.is_empty() {
            put_event(next_frame(&mut rest)?, frames, &mut events)?;
        }
        Ok::<_, Error>(())
    })?;
    Ok(Piece { bytes: events.into(), messages, taken })
}

/// Takes the first gRPC message of `bytes`, without its prefix.
fn next_frame(bytes: &mut Bytes) -> Result<Bytes> {
    let end = message_length(bytes).map(|length| PREFIX_BYTES + length).filter(|end| *end <= bytes.len());
    let end = end.ok_or_else(|| Error::internal().because("a frame is cut off"))?;
    Ok(bytes.split_to(end).slice(PREFIX_BYTES..))
}

fn put_event(frame: Bytes, frames: &MessageType, into: &mut Vec<u8>) -> Result<()> {
    let decoded = v1::SubscribeResponse::decode(frame.clone()).map_err(|error| Error::internal().because(error))?;
    match decoded.frame {
        // a message of an ephemeral room
        Some(Frame::Message(message)) if message.cursor.is_empty() => {}
        Some(Frame::Message(message)) => put_line("id", &message.cursor, into),
        Some(Frame::Opened(_)) => put_line("event", "opened", into),
        Some(Frame::CaughtUp(_)) => put_line("event", "caught_up", into),
        Some(Frame::Heartbeat(_)) => put_line("event", "heartbeat", into),
        Some(Frame::Gap(_)) => put_line("event", "gap", into),
        None => return Ok(()),
    }
    put_data(frames.to_json(frame)?, into);
    Ok(())
}

/// Appends the last line of an event and the empty line that ends it. JSON has no line breaks.
fn put_data(mut json: JsonText, into: &mut Vec<u8>) {
    into.put_slice(b"data: ");
    json.take(json.len(), into);
    into.put_slice(b"\n\n");
}

fn put_line(name: &str, value: &str, into: &mut Vec<u8>) {
    for part in [name, ": ", value, "\n"] {
        into.put_slice(part.as_bytes());
    }
}
