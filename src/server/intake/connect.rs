//! Translates the messages of a request in the Connect protocol to those of gRPC, after they were received within bounds.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http_body::{Body as HttpBody, Frame};

use super::{
    body::{BoundedBody, budget_exhausted},
    budgets::{CallBudgets, Charge},
    rules::RequestRules,
};
use crate::{
    error::{Error, Reason},
    grpc::{
        JsonShape, MessageType,
        framing::{PREFIX_BYTES, framed, length},
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
    if call.has_envelopes {
        let bounded = bound(body, received);
        return match json {
            Some(json) => Body::new(TranslatedBody::new(bounded, Some(json), rules, false, budgets)),
            None => Body::new(bounded),
        };
    }
    let (body, is_exact) = OneMessage::new(body, received.bytes_max);
    let bounded = bound(Body::new(body), RequestRules { may_end_early: !is_exact, ..received });
    if json.is_none() && is_exact {
        return Body::new(bounded);
    }
    Body::new(TranslatedBody::new(bounded, json, rules, !is_exact, budgets))
}

/// A body that translates each message.
struct TranslatedBody {
    inner: BoundedBody,
    /// The type of the messages, if they are JSON. Otherwise only their prefix changes.
    json: Option<MessageType>,
    /// The rules for the translated messages.
    rules: RequestRules,
    /// Whether only the end of the body ends the message.
    is_open_ended: bool,
    budgets: CallBudgets,
    /// The received part of a message and its prefix.
    received: BytesMut,
    /// The charge for the values of the message that was passed on last.
    charge: Option<Charge>,
    has_ended: bool,
}

impl TranslatedBody {
    fn new(
        inner: BoundedBody,
        json: Option<MessageType>,
        rules: RequestRules,
        is_open_ended: bool,
        budgets: CallBudgets,
    ) -> Self {
        Self { inner, json, rules, is_open_ended, budgets, received: BytesMut::new(), charge: None, has_ended: false }
    }

    /// Takes the received message, if it is complete.
    fn message(&mut self, is_end: bool) -> Option<(u8, Bytes)> {
        let prefix = *self.received.first_chunk::<PREFIX_BYTES>()?;
        let [flags, ..] = prefix;
        let end = PREFIX_BYTES.saturating_add(length(prefix));
        let end = if is_end { end.min(self.received.len()) } else { end };
        if self.received.len() < end || (self.is_open_ended && !is_end) {
            return None;
        }
        let message = self.received.split_to(end).freeze();
        Some((flags, message.slice(PREFIX_BYTES..)))
    }

    fn translate(&mut self, flags: u8, message: &Bytes) -> Result<Bytes, Error> {
        let Some(json) = &self.json else { return Ok(framed(message)) };
        if flags != 0 {
            return Err(Error::new(
                Reason::RequestMalformed,
                "the prefix of a message has flags; messages are neither compressed nor the end of a stream",
            ));
        }
        let cost = JsonShape::of(message)?.cost();
        if self.rules.is_charged && cost > JSON_BASE_BYTES {
            // without waiting: the call holds a charge already, and calls that hold one must not wait for each other
            self.charge = Some(self.budgets.try_charge(cost).ok_or_else(budget_exhausted)?);
        }
        let translated = json.framed_from_json(message)?;
        let length = translated.len().saturating_sub(PREFIX_BYTES);
        if length > self.rules.bytes_max { Err(self.rules.too_large()) } else { Ok(translated) }
    }
}

impl HttpBody for TranslatedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        // the message was decoded
        this.charge = None;
        while !this.has_ended {
            let mut message = this.message(false);
            if message.is_none() {
                match ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
                    Some(Ok(frame)) => {
                        if let Ok(data) = frame.into_data() {
                            this.received.extend_from_slice(&data);
                        }
                        continue;
                    }
                    Some(Err(error)) => {
                        this.has_ended = true;
                        return Poll::Ready(Some(Err(error)));
                    }
                    None => {
                        this.has_ended = true;
                        message = this.message(true);
                    }
                }
            }
            let Some((flags, message)) = message else { break };
            let translated = this.translate(flags, &message);
            this.has_ended |= translated.is_err();
            return Poll::Ready(Some(match translated {
                Ok(translated) => Ok(Frame::data(translated)),
                Err(error) => Err(axum::Error::new(status(error))),
            }));
        }
        Poll::Ready(None)
    }
}
