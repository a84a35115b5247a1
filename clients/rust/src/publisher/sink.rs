//! A publisher as a `Sink`.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures_core::Stream;
use futures_sink::Sink;
use futures_util::{future::BoxFuture, stream::FuturesUnordered};

use super::{Publisher, Receipt};
use crate::{
    NewMessage,
    error::{Error, Result},
};

/// A [`Publisher`] as a `Sink`, for `forward` and `send_all`. Made by [`Publisher::into_sink`].
///
/// The error of a message is reported by the next call. It does not end the sink.
pub struct PublishSink {
    publisher: Arc<Publisher>,
    sending: Option<BoxFuture<'static, Result<Receipt>>>,
    receipts: FuturesUnordered<Receipt>,
    closing: Option<BoxFuture<'static, ()>>,
}

impl PublishSink {
    pub(super) fn new(publisher: Publisher) -> Self {
        Self { publisher: Arc::new(publisher), sending: None, receipts: FuturesUnordered::new(), closing: None }
    }

    /// Ready when the last message is under way, and `Err` if one has failed.
    fn poll_sent(&mut self, context: &mut Context<'_>) -> Poll<Result<()>> {
        if let Some(sending) = &mut self.sending {
            let receipt = ready!(sending.as_mut().poll(context));
            self.sending = None;
            self.receipts.push(receipt?);
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: Into<NewMessage>> Sink<T> for PublishSink {
    type Error = Error;

    fn poll_ready(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        while let Poll::Ready(Some(outcome)) = Pin::new(&mut self.receipts).poll_next(context) {
            outcome?;
        }
        self.poll_sent(context)
    }

    fn start_send(mut self: Pin<&mut Self>, message: T) -> Result<()> {
        let (publisher, message) = (self.publisher.clone(), message.into());
        self.sending = Some(Box::pin(async move { publisher.send(message).await }));
        Ok(())
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        ready!(self.poll_sent(context))?;
        while let Some(outcome) = ready!(Pin::new(&mut self.receipts).poll_next(context)) {
            outcome?;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        ready!(Sink::<T>::poll_flush(self.as_mut(), context))?;
        let publisher = self.publisher.clone();
        let closing = self.closing.get_or_insert_with(|| Box::pin(async move { publisher.close().await }));
        closing.as_mut().poll(context).map(Ok)
    }
}

impl fmt::Debug for PublishSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PublishSink").finish_non_exhaustive()
    }
}
