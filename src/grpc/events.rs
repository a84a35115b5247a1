//! The frames of a subscription as server-sent events (WHATWG HTML, "Server-sent events"): each frame is an event whose
//! data is the frame in proto3 JSON.

use std::{
    convert::Infallible,
    pin::pin,
    sync::{Arc, LazyLock},
};

use async_stream::stream;
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use http::Response;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};

use super::{
    frames::{self, Piece, pieces},
    framing::PREFIX_BYTES,
    prepared::PreparedBody,
};
use crate::{
    error::{Error, Result},
    metrics::DeliveryMetrics,
    subscriptions::subscription::Subscription,
    v1,
};

/// The first line: a client waits this many milliseconds before it connects again.
const RETRY: &[u8] = b"retry: 1000\n\n";
/// The frame whose events have an id, and no name of their own.
const MESSAGE: &str = "message";

/// The type of the frames. `None` is impossible: the build compiled the same descriptors.
static FRAMES: LazyLock<Option<MessageDescriptor>> = LazyLock::new(|| {
    let types = DescriptorPool::decode(v1::FILE_DESCRIPTOR_SET).ok()?;
    types.get_message_by_name("unibus.v1.SubscribeResponse")
});

/// The response that carries the frames of the subscription as events. If the subscription ends with an error, the last
/// event is named `error`, and its data is what `describe` writes.
pub(crate) fn event_stream(
    subscription: Subscription,
    metrics: &Arc<DeliveryMetrics>,
    describe: fn(&Error) -> String,
) -> Response<axum::body::Body> {
    let first = Piece { bytes: Bytes::from_static(RETRY), messages: 0, taken: None };
    let events = futures_util::stream::iter([Ok(first)]).chain(events(pieces(subscription, metrics), describe));
    // of unknown length, because the prepared body takes its place
    let mut response = Response::new(axum::body::Body::from_stream(tokio_stream::empty::<Result<Bytes, Infallible>>()));
    response.extensions_mut().insert(PreparedBody::new(frames::body_without_status(Box::pin(events), metrics)));
    response
}

fn events(
    pieces: impl Stream<Item = Result<Piece>>,
    describe: fn(&Error) -> String,
) -> impl Stream<Item = Result<Piece>> {
    stream! {
        let mut pieces = pin!(pieces);
        while let Some(piece) = pieces.next().await {
            match piece.and_then(as_events) {
                Ok(events) => yield Ok(events),
                Err(error) => {
                    let mut event = BytesMut::new();
                    put_lines(&[("event", "error"), ("data", &describe(&error))], &mut event);
                    yield Ok(Piece { bytes: event.freeze(), messages: 0, taken: None });
                    return;
                }
            }
        }
    }
}

fn as_events(Piece { bytes, messages, taken }: Piece) -> Result<Piece> {
    let (mut events, mut rest) = (BytesMut::new(), bytes);
    while !rest.is_empty() {
        put_event(&next_frame(&mut rest)?, &mut events)?;
    }
    Ok(Piece { bytes: events.freeze(), messages, taken })
}

/// Takes the first gRPC message of `bytes`.
fn next_frame(bytes: &mut Bytes) -> Result<DynamicMessage> {
    let length = bytes.get(1..PREFIX_BYTES).and_then(|length| length.try_into().ok()).map(u32::from_be_bytes);
    let end = length.and_then(|length| usize::try_from(length).ok()).map(|length| PREFIX_BYTES + length);
    let end = end.filter(|end| *end <= bytes.len()).ok_or_else(|| Error::internal().because("a frame is cut off"))?;
    let frame = bytes.split_to(end).slice(PREFIX_BYTES..);
    let kind = FRAMES.clone().ok_or_else(|| Error::internal().because("the contract has no frames"))?;
    DynamicMessage::decode(kind, frame).map_err(|error| Error::internal().because(error))
}

fn put_event(frame: &DynamicMessage, into: &mut BytesMut) -> Result<()> {
    let data = serde_json::to_string(frame).map_err(|error| Error::internal().because(error))?;
    let Some((field, value)) = frame.fields().next() else { return Ok(()) };
    if field.name() != MESSAGE {
        put_lines(&[("event", field.name()), ("data", &data)], into);
        return Ok(());
    }
    let cursor = value.as_message().and_then(|message| message.get_field_by_name("cursor"));
    match cursor.as_ref().and_then(|cursor| cursor.as_str()).filter(|cursor| !cursor.is_empty()) {
        Some(cursor) => put_lines(&[("id", cursor), ("data", &data)], into),
        // a message of an ephemeral room
        None => put_lines(&[("data", &data)], into),
    }
    Ok(())
}

/// Appends an event. JSON and cursors have no line breaks.
fn put_lines(lines: &[(&str, &str)], into: &mut BytesMut) {
    for (name, value) in lines {
        for part in [name, ": ", value, "\n"] {
            into.put_slice(part.as_bytes());
        }
    }
    into.put_u8(b'\n');
}
