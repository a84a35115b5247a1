//! The side of the program: handlers, and messages as a stream.

use std::{
    fmt,
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures_core::{FusedStream, Stream};
use futures_util::{StreamExt, stream::FuturesUnordered};
use unibus::v1;

use super::{
    OnEvent, Subscribe,
    mailbox::{Item, Mailbox},
    position::Ticket,
};
use crate::{
    connection::Connection,
    error::{Error, Result},
};

tokio::task_local! {
    /// The address of the connection whose handler runs.
    static HANDLER_OF: usize;
}

/// Whether the program calls from a handler of a subscription on this connection.
pub(crate) fn is_in_handler_of(connection: &Arc<Connection>) -> bool {
    HANDLER_OF.try_with(|&handler_of| handler_of == address(connection)).unwrap_or_default()
}

fn address(connection: &Arc<Connection>) -> usize {
    Arc::as_ptr(connection).addr()
}

/// Calls the handler with each message.
pub(super) async fn run<E: From<Error>>(
    subscribe: Subscribe,
    handler: impl AsyncFn(v1::Message) -> Result<(), E>,
) -> Result<(), E> {
    let (concurrency, handler_of) = (subscribe.concurrency, address(&subscribe.plan.room.client.connection));
    let mut messages = Messages::open(subscribe, true);
    let mailbox = messages.mailbox.clone();
    let handler = &handler;
    let mut running = FuturesUnordered::new();
    let (mut failure, mut end) = (None, None);
    loop {
        tokio::select! {
            biased;
            Some((ticket, outcome)) = running.next() => {
                mailbox.returned(ticket, Result::is_ok(&outcome));
                if let Err(error) = outcome {
                    failure.get_or_insert(error);
                    mailbox.closing.cancel();
                }
            }
            next = poll_fn(|context| messages.poll_message(context)), if running.len() < concurrency && end.is_none() => {
                match next {
                    // a handler has failed: this message was on its way
                    Ok((_, ticket)) if failure.is_some() => mailbox.returned(ticket, false),
                    Ok((message, ticket)) => {
                        running.push(async move { (ticket, HANDLER_OF.scope(handler_of, handler(message)).await) });
                    }
                    Err(ended) => end = Some(ended),
                }
            }
            else => break,
        }
    }
    match (failure, end) {
        (Some(error), _) => Err(error),
        (None, Some(Err(error))) => Err(error.into()),
        (None, _) => Ok(()),
    }
}

/// The messages of a subscription, for ever. Made by [`Subscribe::messages`].
///
/// A message counts as processed when the program asks for the next one, so ask only when it is processed: adapters that
/// read ahead, such as `buffered`, would acknowledge too early. For several messages at once use
/// [`Subscribe::concurrency`] with [`Subscribe::run`].
///
/// The stream ends with an error that is final, or after [`close`](Self::close), `close_on` or `until_caught_up`. Dropping
/// it ends the subscription at once; what is processed is acknowledged in the background, as far as the runtime lives that long.
pub struct Messages {
    mailbox: Arc<Mailbox>,
    on_event: Option<OnEvent>,
    /// The message that the program has.
    given: Option<Ticket>,
    has_ended: bool,
}

impl Messages {
    pub(super) fn open(subscribe: Subscribe, waits_for_handlers: bool) -> Self {
        let (mailbox, on_event) = subscribe.start_task(waits_for_handlers);
        Self { mailbox, on_event, given: None, has_ended: false }
    }

    /// The program has processed the last message, and asks for no further one now.
    pub fn processed(&mut self) {
        if let Some(ticket) = self.given.take() {
            self.mailbox.returned(ticket, true);
        }
    }

    /// Ends the subscription, and waits until everything that is processed is acknowledged (U20, U27). The last message
    /// counts only after [`processed`](Self::processed).
    pub async fn close(mut self) -> Result<()> {
        self.mailbox.closing.cancel();
        while !self.has_ended {
            match poll_fn(|context| self.poll_message(context)).await {
                Ok((_, ticket)) => self.mailbox.returned(ticket, false),
                Err(end) => return end,
            }
        }
        Ok(())
    }

    /// The next message. Reports the events before it. `Err`: the end.
    fn poll_message(&mut self, context: &mut Context<'_>) -> Poll<Result<(v1::Message, Ticket), Result<()>>> {
        loop {
            match ready!(self.mailbox.poll_next(context)) {
                Ok(Item::Message(message, ticket)) => return Poll::Ready(Ok((message, ticket))),
                Ok(Item::Event(event)) => {
                    if let Some(on_event) = &mut self.on_event {
                        on_event(event);
                    }
                }
                Err(end) => {
                    self.has_ended = true;
                    return Poll::Ready(Err(end));
                }
            }
        }
    }
}

impl Stream for Messages {
    type Item = Result<v1::Message>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.processed();
        if self.has_ended {
            return Poll::Ready(None);
        }
        Poll::Ready(match ready!(self.poll_message(context)) {
            Ok((message, ticket)) => {
                self.given = Some(ticket);
                Some(Ok(message))
            }
            Err(Ok(())) => None,
            Err(Err(error)) => Some(Err(error)),
        })
    }
}

impl FusedStream for Messages {
    fn is_terminated(&self) -> bool {
        self.has_ended
    }
}

impl Drop for Messages {
    fn drop(&mut self) {
        self.mailbox.dropped.cancel();
    }
}

impl fmt::Debug for Messages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Messages").field("has_ended", &self.has_ended).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;
    use crate::Client;

    #[tokio::test]
    async fn close_in_a_handler_does_not_wait_for_the_handler() -> Result<()> {
        let client = Client::new("http://127.0.0.1:1")?;
        let (handler, returned) = oneshot::channel::<()>();
        client.connection.subscriptions.spawn(async { drop(returned.await) });
        HANDLER_OF.scope(address(&client.connection), client.close()).await;
        assert!(!client.connection.closed.is_cancelled());
        drop(handler);
        client.connection.closed.cancelled().await;
        let other = Client::new("http://127.0.0.1:1")?;
        HANDLER_OF.scope(address(&client.connection), other.close()).await;
        assert!(other.connection.closed.is_cancelled(), "another client waits");
        Ok(())
    }
}
