//! Receives the body of a request message by message, within bounds.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use http_body::{Body as HttpBody, Frame};
use tokio::time::{self, Instant, Sleep};

use super::{
    budgets::{CallBudgets, Charge},
    prefix::complete,
    right::PublishRight,
    rules::RequestRules,
};
use crate::{
    error::{Error, Limit, Reason},
    grpc::{
        CORRELATION_JSON_BYTES_MAX,
        framing::{PREFIX_BYTES, framed, length},
        skipped::{CORRELATION_BYTES_MAX, Skipped, stand_in},
        stand_in_json, status,
    },
    limits::{LARGE_REQUEST_BYTES, REQUEST_BYTES_PER_SECOND_MIN, REQUEST_TIMEOUT},
    server::client::Call,
};

/// The position in a body of length-prefixed messages.
enum BodyPosition {
    /// In the prefix of a message. Contains the received part of the prefix.
    Prefix(BytesMut),
    /// Behind a prefix whose message waits for the budget. Contains the prefix, the message's length, and the wait.
    Waiting(Bytes, usize, BoxFuture<'static, Option<Charge>>),
    /// In a message. Contains the number of bytes that are still missing.
    Message(usize),
    /// In a message that is dropped. Contains the number of bytes that are still missing, and the message's beginning.
    Skipping(usize, BytesMut),
}

/// The body of a request. It fails if a message breaks a rule or arrives late.
pub(super) struct BoundedBody {
    inner: Body,
    rules: RequestRules,
    budgets: CallBudgets,
    call: Option<Arc<Call>>,
    skipped: Skipped,
    /// `None` once the beginning of a message was received, or when no check is needed.
    right: Option<PublishRight>,
    position: BodyPosition,
    /// The number of messages that were passed on.
    passed: u64,
    /// Bytes that were received and not passed on yet.
    rest: Bytes,
    /// The charge for the message that is being received.
    charge: Option<Charge>,
    /// When the message must be complete.
    deadline: Option<Pin<Box<Sleep>>>,
    has_failed: bool,
}

impl BoundedBody {
    pub(super) fn new(
        inner: Body,
        rules: RequestRules,
        budgets: CallBudgets,
        call: Option<Arc<Call>>,
        skipped: Skipped,
        right: Option<PublishRight>,
    ) -> Self {
        let deadline = (!rules.is_stream && !inner.is_end_stream()).then(|| Box::pin(time::sleep(REQUEST_TIMEOUT)));
        let position = BodyPosition::Prefix(BytesMut::new());
        let (rest, passed, charge, has_failed) = (Bytes::new(), 0, None, false);
        let right = right.filter(|_| rules.checks_right);
        Self { inner, rules, budgets, call, skipped, right, position, passed, rest, charge, deadline, has_failed }
    }

    fn is_late(&mut self, cx: &mut Context<'_>) -> bool {
        self.deadline.as_mut().is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready())
    }

    /// The part of `rest` that can be passed on; `None` when more bytes must be received first.
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Error>> {
        loop {
            match &mut self.position {
                BodyPosition::Prefix(_) if self.rules.may_end_early && self.passed > 0 && !self.rest.is_empty() => {
                    return Poll::Ready(Err(self.rules.too_large()));
                }
                BodyPosition::Prefix(prefix) => {
                    if prefix.is_empty() && !self.rules.is_json {
                        // messages that are already complete need no charge: decoding them needs no more memory
                        let (end, count) = complete(&self.rest, self.rules.bytes_max);
                        if end > 0 && (self.rules.is_stream || self.passed + count == 1) {
                            self.passed += count;
                            self.end_of_message();
                            return Poll::Ready(Ok(Some(self.rest.split_to(end))));
                        }
                    }
                    let missing = PREFIX_BYTES - prefix.len();
                    prefix.extend_from_slice(&self.rest.split_to(missing.min(self.rest.len())));
                    let Some(whole) = prefix.first_chunk().copied() else { return Poll::Ready(Ok(None)) };
                    let prefix = std::mem::take(prefix).freeze();
                    if let Some(prefix) = self.begin_message(prefix, length(whole))? {
                        return Poll::Ready(Ok(Some(prefix)));
                    }
                }
                BodyPosition::Waiting(prefix, length, charging) => {
                    self.charge = ready!(charging.as_mut().poll(cx));
                    let (prefix, length) = (std::mem::take(prefix), *length);
                    return Poll::Ready(Ok(Some(self.receive_message(prefix, length))));
                }
                BodyPosition::Message(left) => {
                    if self.rest.is_empty() {
                        return Poll::Ready(Ok(None));
                    }
                    if let Some(right) = &mut self.right
                        && *left >= LARGE_REQUEST_BYTES
                    {
                        ready!(right.poll(&self.rest, self.rules.is_json, cx))?;
                    }
                    self.right = None;
                    let taken = self.rest.split_to((*left).min(self.rest.len()));
                    *left -= taken.len();
                    if *left == 0 {
                        self.passed += 1;
                        self.end_of_message();
                    }
                    return Poll::Ready(Ok(Some(taken)));
                }
                BodyPosition::Skipping(left, beginning) => {
                    let taken = self.rest.split_to((*left).min(self.rest.len()));
                    *left -= taken.len();
                    let needed = if self.rules.is_json { CORRELATION_JSON_BYTES_MAX } else { CORRELATION_BYTES_MAX };
                    let space = needed.saturating_sub(beginning.len());
                    beginning.extend_from_slice(taken.get(..space.min(taken.len())).unwrap_or_default());
                    if *left > 0 {
                        return Poll::Ready(Ok(None));
                    }
                    let stand_in =
                        if self.rules.is_json { framed(stand_in_json(beginning)) } else { stand_in(beginning) };
                    self.skipped.add(self.passed);
                    self.passed += 1;
                    self.end_of_message();
                    return Poll::Ready(Ok(Some(stand_in)));
                }
            }
        }
    }

    /// Checks the `length` that a prefix announces. Returns the prefix if the message can be received at once.
    fn begin_message(&mut self, prefix: Bytes, length: usize) -> Result<Option<Bytes>, Error> {
        self.charge = None;
        if self.passed > 0 && !self.rules.is_stream {
            return Err(wrong_cardinality("the request has more than one message; send exactly one"));
        }
        let seconds = length / REQUEST_BYTES_PER_SECOND_MIN;
        let until = Instant::now() + REQUEST_TIMEOUT + Duration::from_secs(seconds.try_into().unwrap_or(u64::MAX));
        match &mut self.deadline {
            Some(deadline) => deadline.as_mut().reset(until),
            None => self.deadline = Some(Box::pin(time::sleep_until(until))),
        }
        if length > self.rules.bytes_max {
            // nobody can read the `correlation_id` of a compressed message
            if self.rules.drops(length) && prefix.first() == Some(&0) {
                self.position = BodyPosition::Skipping(length, BytesMut::new());
                return Ok(None);
            }
            return Err(self.rules.too_large());
        }
        let bytes = self.rules.cost(length);
        if self.rules.is_charged {
            self.charge = self.budgets.try_charge(bytes);
            if self.charge.is_none() {
                let charging = self.budgets.charge(bytes).ok_or_else(budget_exhausted)?;
                self.position = BodyPosition::Waiting(prefix, length, Box::pin(charging));
                return Ok(None);
            }
        }
        Ok(Some(self.receive_message(prefix, length)))
    }

    fn receive_message(&mut self, prefix: Bytes, length: usize) -> Bytes {
        self.position = BodyPosition::Message(length);
        if length == 0 {
            self.passed += 1;
            self.end_of_message();
        }
        prefix
    }

    fn end_of_message(&mut self) {
        self.position = BodyPosition::Prefix(BytesMut::new());
        // a call of one message begins at the end of the body, when it is certain that there is no second message
        if self.rules.is_stream {
            self.deadline = None;
            self.mark_busy();
        }
    }

    fn mark_busy(&mut self) {
        if let Some(call) = self.call.take() {
            call.mark_busy();
        }
    }

    fn late(&self) -> Error {
        if matches!(self.position, BodyPosition::Waiting(..)) {
            return budget_exhausted();
        }
        Error::new(
            Reason::Timeout,
            "the request message did not arrive in time; nothing was done, send it again over a faster connection",
        )
    }

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        loop {
            // the previous message was decoded, so its charge ends
            if matches!(self.position, BodyPosition::Prefix(_)) {
                self.charge = None;
            }
            if self.is_late(cx) {
                return self.fail(self.late());
            }
            match ready!(self.poll_rest(cx)) {
                Ok(Some(bytes)) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
                Ok(None) => {}
                Err(error) => return self.fail(error),
            }
            match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return self.poll_end(),
            }
        }
    }

    /// Handles the end of the client's body.
    fn poll_end(&mut self) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.mark_busy();
        self.deadline = None;
        if self.misses_message() {
            return self.fail(wrong_cardinality("the request has no message; send exactly one"));
        }
        match &self.position {
            BodyPosition::Prefix(prefix) if prefix.is_empty() => Poll::Ready(None),
            // the charge stays until the message was translated
            BodyPosition::Message(_) if self.rules.may_end_early => Poll::Ready(None),
            _ => self.fail(Error::new(
                Reason::RequestMalformed,
                "the request ends in the middle of a message; send it again",
            )),
        }
    }

    /// Whether the one message of the request has not begun.
    fn misses_message(&self) -> bool {
        !self.rules.is_stream
            && self.passed == 0
            && matches!(&self.position, BodyPosition::Prefix(prefix) if prefix.is_empty())
    }

    fn fail(&mut self, error: Error) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.has_failed = true;
        self.charge = None;
        self.inner = Body::empty();
        self.rest = Bytes::new();
        Poll::Ready(Some(Err(axum::Error::new(status(error)))))
    }
}

/// The error for a request with too few or too many messages. gRPC calls it a cardinality violation, and wants
/// UNIMPLEMENTED ("Status codes and their use in gRPC").
fn wrong_cardinality(message: &'static str) -> Error {
    Error::new(Reason::NotSupported, message)
}

pub(super) fn budget_exhausted() -> Error {
    Error::new(
        Reason::RateLimited,
        "the service is receiving as many request bytes as it can hold; nothing was done, send fewer large messages at the same time",
    )
    .with("limit", Limit::RequestBytes.name())
}

impl HttpBody for BoundedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.has_failed {
            return Poll::Ready(None);
        }
        self.poll_data(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.has_failed
            || (self.rest.is_empty()
                && !self.misses_message()
                && matches!(&self.position, BodyPosition::Prefix(prefix) if prefix.is_empty())
                && self.inner.is_end_stream())
    }
}
