//! The spans of the steps of a call.

use std::{
    borrow::Cow,
    pin::Pin,
    task::{Context, Poll, ready},
    time::{Instant, SystemTime},
};

use opentelemetry::{
    KeyValue,
    trace::{Span as _, SpanBuilder, SpanKind, Status},
};
use opentelemetry_sdk::trace::Span;
use pin_project_lite::pin_project;

use super::current::{Parent, Under, current, under};
use crate::{error::Result, metrics::NatsApi};

/// A step of a call.
#[derive(Clone, Copy, Debug)]
pub(crate) enum TraceStep {
    /// The messages of one `PublishBatch` that are stored one by one: until all have their outcome.
    PublishEach,
    /// A message to the current subscribers of an ephemeral room.
    Send,
    /// From the call to the first frame that can be sent.
    OpenSubscription,
    /// A request to JetStream.
    JetStream(NatsApi),
    /// The newest value of a key of the registry.
    ReadRegistry,
    /// A value of the registry, with all attempts.
    WriteRegistry,
}

impl TraceStep {
    fn builder(self) -> SpanBuilder {
        match self {
            Self::PublishEach => SpanBuilder::from_name("publish each"),
            Self::OpenSubscription => SpanBuilder::from_name("open subscription"),
            Self::Send => to_nats("nats publish"),
            Self::JetStream(api) => to_nats(format!("jetstream {}", api.name())),
            Self::ReadRegistry => to_nats("registry read"),
            Self::WriteRegistry => to_nats("registry write"),
        }
    }
}

fn to_nats(name: impl Into<Cow<'static, str>>) -> SpanBuilder {
    SpanBuilder::from_name(name)
        .with_kind(SpanKind::Client)
        .with_attributes([KeyValue::new("messaging.system", "nats")])
}

/// Starts a step of the current span. It ends when it is dropped.
pub(crate) fn step(step: TraceStep) -> StepSpan {
    StepSpan(current().map(|parent| Box::new(parent.child(step.builder()))))
}

/// The span of a step, if the call is traced.
#[derive(Debug)]
pub(crate) struct StepSpan(Option<Box<Span>>);

impl StepSpan {
    /// Notes an answer that is no success, and that the service may expect. `why` is a word of a closed set.
    pub(crate) fn set_answer(&mut self, why: &'static str) {
        if let Some(span) = &mut self.0 {
            span.set_attribute(KeyValue::new("error.type", why));
        }
    }

    /// Marks the step as failed. `why` is a word of a closed set.
    pub(crate) fn fail(&mut self, why: &'static str) {
        if let Some(span) = &mut self.0 {
            fail(span, why);
        }
    }
}

fn fail(span: &mut Span, why: &'static str) {
    span.set_attribute(KeyValue::new("error.type", why));
    span.set_status(Status::error(""));
}

/// Makes the future a step of the current span, with parts of its own.
pub(crate) fn traced<T, F: Future<Output = Result<T>>>(step: TraceStep, future: F) -> Traced<F> {
    Traced { future: under(current().map(|parent| parent.parent_of(step.builder())), future) }
}

pin_project! {
    /// See [`traced`].
    pub(crate) struct Traced<F> {
        #[pin]
        future: Under<F>,
    }
}

impl<T, F: Future<Output = Result<T>>> Future for Traced<F> {
    type Output = Result<T>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<T>> {
        let mut this = self.project();
        let result = ready!(this.future.as_mut().poll(cx));
        if let Some(span) = this.future.take_parent() {
            if let Err(error) = &result {
                span.set(KeyValue::new("error.type", error.reason().name()));
                span.fail();
            }
            span.end();
        }
        Poll::Ready(result)
    }
}

/// Adds the steps of a publish that has ended: its wait in the queue of the room, and the request to JetStream, if the
/// messages were sent.
pub(crate) fn publish_steps(
    parent: &Parent,
    enqueued: Instant,
    sent: Option<Instant>,
    messages: usize,
    failure: Option<&'static str>,
) {
    let now = Instant::now();
    let at = |instant: Instant| SystemTime::now() - now.saturating_duration_since(instant);
    let left = sent.unwrap_or(now);
    let builder = SpanBuilder::from_name("publish queue").with_start_time(at(enqueued));
    let mut queue = parent.child(builder);
    if sent.is_none()
        && let Some(why) = failure
    {
        fail(&mut queue, why);
    }
    queue.end_with_timestamp(at(left));
    if sent.is_none() {
        return;
    }
    let mut request = parent.child(TraceStep::JetStream(NatsApi::Publish).builder().with_start_time(at(left)));
    if let Ok(messages @ 2..) = i64::try_from(messages) {
        request.set_attribute(KeyValue::new("messaging.batch.message_count", messages));
    }
    if let Some(why) = failure {
        fail(&mut request, why);
    }
    request.end_with_timestamp(at(now));
}
