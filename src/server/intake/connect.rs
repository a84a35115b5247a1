//! Translates the messages of a request in the Connect protocol, and compressed messages, to plain ones of gRPC, after they
//! were received within bounds.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use http_body::{Body as HttpBody, Frame};

use super::{
    body::{BoundedBody, budget_exhausted},
    budgets::{CallBudgets, Charge, InflationTurn},
    inflate::{framed_inflated, inflated_length},
    rules::RequestRules,
};
use crate::{
    error::{Error, Reason},
    grpc::{
        JsonShape, MessageType,
        framing::{COMPRESSED_FLAG, PREFIX_BYTES, framed, length},
        status,
    },
    limits::JSON_BASE_BYTES,
    server::connect::{ConnectCall, ConnectCodec, OneMessage},
};

/// The body of a call in the Connect protocol as messages of gRPC. `bound` receives the messages of the client within
/// rules.
pub(super) fn translated(
    body: Body,
    rules: RequestRules,
    call: &ConnectCall,
    budgets: CallBudgets,
    bound: impl FnOnce(Body, RequestRules) -> BoundedBody,
) -> Body {
    let json = call.types.as_ref().filter(|_| call.codec == ConnectCodec::Json).map(|types| types.request.clone());
    let received = if json.is_some() { rules.in_json() } else { rules };
    let as_sent = json.is_none() && !call.is_compressed;
    let translation = Translation { json, is_compressed: call.is_compressed, is_open_ended: false, received, rules };
    if call.has_envelopes {
        let bounded = bound(body, received);
        return if as_sent {
            Body::new(bounded)
        } else {
            Body::new(TranslatedBody::new(bounded, translation, budgets))
        };
    }
    let (body, is_exact) = OneMessage::new(body, received.bytes_max, call.is_compressed);
    let bounded = bound(Body::new(body), RequestRules { may_end_early: !is_exact, ..received });
    if as_sent && is_exact {
        return Body::new(bounded);
    }
    Body::new(TranslatedBody::new(bounded, Translation { is_open_ended: !is_exact, ..translation }, budgets))
}

/// The body of a gRPC call whose messages may be compressed. `bounded` receives the messages of the client within `rules`.
pub(super) fn inflated(bounded: BoundedBody, rules: RequestRules, budgets: CallBudgets) -> Body {
    let translation = Translation { json: None, is_compressed: true, is_open_ended: false, received: rules, rules };
    Body::new(TranslatedBody::new(bounded, translation, budgets))
}

/// What is translated.
struct Translation {
    /// The type of the messages, if they are JSON.
    json: Option<MessageType>,
    /// Whether a message may be compressed. A flag in its prefix says that it is.
    is_compressed: bool,
    /// Whether only the end of the body ends the message.
    is_open_ended: bool,
    /// The rules for the messages as the client has written them, before they were compressed.
    received: RequestRules,
    /// The rules for the translated messages.
    rules: RequestRules,
}

/// A body that translates each message.
struct TranslatedBody {
    inner: BoundedBody,
    translation: Translation,
    budgets: CallBudgets,
    /// The received part of a message and its prefix.
    received: BytesMut,
    /// A compressed message that waits until it may be inflated.
    waiting: Option<(Bytes, BoxFuture<'static, Option<InflationTurn>>)>,
    /// The charge for the values of the message that was passed on last.
    charge: Option<Charge>,
    has_ended: bool,
}

impl TranslatedBody {
    fn new(inner: BoundedBody, translation: Translation, budgets: CallBudgets) -> Self {
        let (received, waiting, charge) = (BytesMut::new(), None, None);
        Self { inner, translation, budgets, received, waiting, charge, has_ended: false }
    }

    /// Takes the received message, if it is complete.
    fn message(&mut self, is_end: bool) -> Option<(u8, Bytes)> {
        let prefix = *self.received.first_chunk::<PREFIX_BYTES>()?;
        let [flags, ..] = prefix;
        let end = PREFIX_BYTES.saturating_add(length(prefix));
        let end = if is_end { end.min(self.received.len()) } else { end };
        if self.received.len() < end || (self.translation.is_open_ended && !is_end) {
            return None;
        }
        let message = self.received.split_to(end).freeze();
        Some((flags, message.slice(PREFIX_BYTES..)))
    }

    /// Whether a message with these flags is compressed.
    ///
    /// # Errors
    /// `REQUEST_MALFORMED`, for other flags.
    fn is_compressed(&self, flags: u8) -> Result<bool, Error> {
        match flags {
            0 => Ok(false),
            COMPRESSED_FLAG if self.translation.is_compressed => Ok(true),
            _ => Err(Error::new(
                Reason::RequestMalformed,
                "the prefix of a message has wrong flags; it is neither the end of a stream, nor compressed without a header that \
                 names the compression",
            )),
        }
    }

    /// Translates a message, which gets the prefix of gRPC.
    fn translate(&mut self, message: &Bytes) -> Result<Bytes, Error> {
        let Translation { json: Some(json), rules, .. } = &self.translation else { return Ok(framed(message)) };
        let cost = JsonShape::of(message)?.cost();
        if rules.is_charged && cost > JSON_BASE_BYTES {
            // without waiting: the call holds a charge already, and calls that hold one must not wait for each other
            self.charge = Some(self.budgets.try_charge(cost).ok_or_else(budget_exhausted)?);
        }
        let translated = json.framed_from_json(message)?;
        let length = translated.len().saturating_sub(PREFIX_BYTES);
        if length > rules.bytes_max { Err(rules.too_large()) } else { Ok(translated) }
    }

    /// Inflates and translates a message.
    fn inflate(&mut self, compressed: &[u8]) -> Result<Bytes, Error> {
        let length = inflated_length(compressed)?;
        if length > self.translation.received.bytes_max {
            return Err(self.translation.received.too_large());
        }
        let framed = framed_inflated(compressed, length)?;
        if self.translation.json.is_some() { self.translate(&framed.slice(PREFIX_BYTES..)) } else { Ok(framed) }
    }

    fn poll_translated(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, axum::Error>>> {
        loop {
            if let Some((compressed, turn)) = &mut self.waiting {
                // it ends with the last use of the inflated message here: the gRPC library decodes what it gets at once
                let _turn = ready!(turn.as_mut().poll(cx));
                let compressed = std::mem::take(compressed);
                self.waiting = None;
                return Poll::Ready(Some(self.inflate(&compressed).map_err(failed)));
            }
            let mut message = self.message(false);
            if message.is_none() {
                match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
                    Some(Ok(frame)) => {
                        if let Ok(data) = frame.into_data() {
                            self.received.extend_from_slice(&data);
                        }
                        continue;
                    }
                    Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                    None => {
                        self.has_ended = true;
                        message = self.message(true);
                    }
                }
            }
            let Some((flags, message)) = message else { return Poll::Ready(None) };
            match self.is_compressed(flags) {
                // some clients also mark empty messages
                Ok(true) if !message.is_empty() => {
                    self.waiting = Some((message, Box::pin(self.budgets.inflation_turn())));
                }
                Ok(_) => return Poll::Ready(Some(self.translate(&message).map_err(failed))),
                Err(error) => return Poll::Ready(Some(Err(failed(error)))),
            }
        }
    }
}

fn failed(error: Error) -> axum::Error {
    axum::Error::new(status(error))
}

impl HttpBody for TranslatedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        // the message was decoded
        this.charge = None;
        if this.has_ended && this.waiting.is_none() {
            return Poll::Ready(None);
        }
        let translated = ready!(this.poll_translated(cx));
        this.has_ended |= !matches!(translated, Some(Ok(_)));
        Poll::Ready(translated.map(|translated| translated.map(Frame::data)))
    }
}
