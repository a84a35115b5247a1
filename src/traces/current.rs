//! The current span: the one that a step which begins now belongs to.

use std::{
    cell::RefCell,
    fmt,
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use opentelemetry::{
    KeyValue,
    trace::{SpanBuilder, Status, TraceContextExt, Tracer},
};
use opentelemetry_sdk::trace::{SdkTracer, Span};
use pin_project_lite::pin_project;

thread_local! {
    static CURRENT: RefCell<Option<Parent>> = const { RefCell::new(None) };
}

/// A span that has parts. Cheap to clone. The span ends with [`Parent::end`], or with the last clone.
#[derive(Clone)]
pub(crate) struct Parent(Arc<ParentSpan>);

struct ParentSpan {
    tracer: SdkTracer,
    context: opentelemetry::Context,
}

impl fmt::Debug for Parent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parent").finish_non_exhaustive()
    }
}

impl Parent {
    pub(super) fn new(tracer: SdkTracer, span: Span) -> Self {
        Self(Arc::new(ParentSpan { tracer, context: opentelemetry::Context::new().with_span(span) }))
    }

    /// Starts a span that is a part of this one.
    pub(super) fn child(&self, builder: SpanBuilder) -> Span {
        self.0.tracer.build_with_context(builder, &self.0.context)
    }

    /// Starts a part that has parts itself.
    pub(super) fn parent_of(&self, builder: SpanBuilder) -> Self {
        Self::new(self.0.tracer.clone(), self.child(builder))
    }

    pub(super) fn set(&self, attribute: KeyValue) {
        self.0.context.span().set_attribute(attribute);
    }

    /// Marks the span as failed.
    pub(super) fn fail(&self) {
        self.0.context.span().set_status(Status::error(""));
    }

    pub(super) fn end(&self) {
        self.0.context.span().end();
    }

    /// Makes the span the current one, until the returned guard is dropped.
    pub(crate) fn enter(&self) -> Entered {
        let previous = CURRENT.try_with(|current| current.replace(Some(self.clone())));
        Entered { previous: previous.ok().flatten(), of_this_thread: PhantomData }
    }
}

/// Keeps a span current.
#[derive(Debug)]
pub(crate) struct Entered {
    previous: Option<Parent>,
    of_this_thread: PhantomData<*const ()>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        let previous = self.previous.take();
        // fails only while the thread ends
        let _ = CURRENT.try_with(|current| current.replace(previous));
    }
}

/// The current span, if there is one.
pub(crate) fn current() -> Option<Parent> {
    CURRENT.try_with(|current| current.borrow().clone()).ok().flatten()
}

/// Polls the future with this span as the current one.
pub(crate) fn under<F: Future>(parent: Option<Parent>, future: F) -> Under<F> {
    Under { future, parent }
}

pin_project! {
    /// See [`under`].
    pub(crate) struct Under<F> {
        #[pin]
        future: F,
        parent: Option<Parent>,
    }
}

impl<F> Under<F> {
    /// Takes the span away. Later polls have no current span of this future.
    pub(super) fn take_parent(self: Pin<&mut Self>) -> Option<Parent> {
        self.project().parent.take()
    }
}

impl<F: Future> Future for Under<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let _entered = this.parent.as_ref().map(Parent::enter);
        this.future.poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::TracerProvider;
    use opentelemetry_sdk::trace::SdkTracerProvider;

    use super::*;

    fn parent() -> Parent {
        let tracer = SdkTracerProvider::builder().build().tracer("test");
        let span = tracer.start("test");
        Parent::new(tracer, span)
    }

    fn is_current(parent: &Parent) -> bool {
        current().is_some_and(|current| Arc::ptr_eq(&current.0, &parent.0))
    }

    #[test]
    fn the_outer_span_is_current_again_after_the_inner_one() {
        let (outer, inner) = (parent(), parent());
        assert!(current().is_none());
        let entered = outer.enter();
        drop(inner.enter());
        assert!(is_current(&outer));
        drop(entered);
        assert!(current().is_none());
    }

    #[tokio::test]
    async fn a_span_is_current_only_while_its_future_is_polled() {
        // Goal: tasks on one thread do not take each other's spans. Method: two futures that wait for each other, and what
        // each of them sees.
        let (one, two) = (parent(), parent());
        let see = async |own: &Parent| {
            for _ in 0..3 {
                assert!(is_current(own));
                tokio::task::yield_now().await;
            }
        };
        tokio::join!(
            under(Some(one.clone()), see(&one)),
            async {
                for _ in 0..3 {
                    assert!(current().is_none());
                    tokio::task::yield_now().await;
                }
            },
            under(Some(two.clone()), see(&two))
        );
    }
}
