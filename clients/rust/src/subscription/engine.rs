//! Keeps a subscription open (U15 to U18, U26, U27).

use std::{sync::Arc, time::Duration};

use tokio::time::{self, Instant};
use tonic::Code;
use unibus::v1::{self, AcknowledgeRequest, start::At};

use super::{
    Event,
    mailbox::{Credit, Mailbox},
    position::Ack,
    stream::OpenStream,
};
use crate::{
    Room,
    error::{Class, Error, Result},
    retry::{Backoff, Tokens, call, later},
};

/// How many items may wait for the program before the subscription is opened again: a program that takes nothing must not
/// collect reports of outages without end.
const ITEMS_MAX: usize = 4096;

/// What a subscription is.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) room: Room,
    /// Empty: no position is kept.
    pub(super) subscriber: String,
    pub(super) start: Option<v1::Start>,
    pub(super) until_caught_up: bool,
    pub(super) read_ahead: Credit,
    /// How long the end waits for the last acknowledgement (U20).
    pub(super) flush_time: Duration,
    /// Whether an orderly end waits for the messages that the program works on (U27).
    pub(super) waits_for_handlers: bool,
}

impl Plan {
    pub(super) fn acknowledgement(&self, ack: Ack) -> AcknowledgeRequest {
        AcknowledgeRequest {
            room_id: self.room.room_id(),
            subscriber: self.subscriber.clone(),
            sequence: ack.sequence,
            generation: ack.generation,
        }
    }
}

/// The task of one subscription.
pub(super) struct Engine {
    plan: Plan,
    mailbox: Arc<Mailbox>,
    backoff: Backoff,
    tokens: Tokens,
}

/// What follows on an error of an open subscription (U15, U26).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Again,
    Recreated,
    End,
}

impl Next {
    fn after(error: &Error, was_open: bool) -> Self {
        match error.reason() {
            "ROOM_RECREATED" => Self::Recreated,
            "CURSOR_EXPIRED" | "POSITION_AFTER_END" if was_open => Self::Recreated,
            _ if error.class() == Class::Final => Self::End,
            _ => Self::Again,
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // the program would wait for ever if the task panicked, or its runtime ended
        self.mailbox.end(Err(Error::cancelled("the task of the subscription has ended")));
    }
}

impl Engine {
    pub(super) fn new(plan: Plan, mailbox: Arc<Mailbox>) -> Self {
        Self { plan, mailbox, backoff: Backoff::default(), tokens: Tokens::default() }
    }

    /// Runs until the subscription ends or is dropped.
    pub(super) async fn run(mut self) {
        let mailbox = self.mailbox.clone();
        match mailbox.dropped.run_until_cancelled(Box::pin(self.keep_open())).await {
            Some(end) => mailbox.end(end),
            // nobody waits for it, but what is processed need not come again
            None => drop(self.acknowledge(later(Instant::now(), self.plan.flush_time)).await),
        }
    }

    /// Subscribes again and again.
    async fn keep_open(&mut self) -> Result<()> {
        loop {
            let error = match self.subscribe().await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            self.tokens.note(&error);
            let pause = self.backoff.next(&error);
            let was_open = self.mailbox.state().position.was_open();
            match Next::after(&error, was_open) {
                Next::End => {
                    if error.reason() == "TAKEN_OVER" {
                        // the other program gets them
                        self.mailbox.state().take_back();
                    }
                    return Err(error);
                }
                Next::Recreated => {
                    self.plan.start = Some(v1::Start { at: Some(At::All(())) });
                    let mut state = self.mailbox.state();
                    state.position.recreated();
                    state.event(Event::Recreated);
                }
                Next::Again => self.mailbox.state().event(Event::Disconnected { error, pause }),
            }
            let mailbox = self.mailbox.clone();
            let pause = async {
                time::sleep(pause).await;
                while mailbox.state().len() > ITEMS_MAX {
                    mailbox.work.notified().await;
                }
            };
            if mailbox.closing.run_until_cancelled(pause).await.is_none() {
                return self.finish().await;
            }
        }
    }

    /// Subscribes once. `Ok`: the subscription has ended in an orderly way.
    async fn subscribe(&mut self) -> Result<()> {
        let closing = self.mailbox.closing.clone();
        let open = OpenStream::open(&self.plan, &self.mailbox, &mut self.tokens);
        let Some(opened) = closing.run_until_cancelled(open).await else { return self.finish().await };
        let mut stream = opened?;
        let outcome = stream.run().await;
        if stream.was_success() {
            self.backoff.reset();
        }
        match outcome {
            Ok(()) => {
                let until = later(Instant::now(), self.plan.flush_time);
                stream.flush(until).await?;
                self.acknowledge(until).await
            }
            Err(_) if closing.is_cancelled() => self.finish().await,
            Err(error) => Err(error),
        }
    }

    /// The end of a subscription without a stream: acknowledges what is processed (U20, U27).
    async fn finish(&self) -> Result<()> {
        self.mailbox.state().close();
        while self.plan.waits_for_handlers && self.mailbox.state().is_busy() {
            self.mailbox.work.notified().await;
        }
        self.acknowledge(later(Instant::now(), self.plan.flush_time)).await
    }

    /// Acknowledges what is processed and not confirmed, by a call of its own.
    async fn acknowledge(&self, until: Instant) -> Result<()> {
        let ack = {
            let state = self.mailbox.state();
            if !state.position.has_unconfirmed() {
                return Ok(());
            }
            state.position.ack()
        };
        let request = self.plan.acknowledgement(ack);
        let limit = until.saturating_duration_since(Instant::now());
        let client = self.plan.room.client.with_times(limit, limit);
        match call!(client, Always, acknowledge, request) {
            Err(error) if error.class() == Class::Final => Err(error),
            // what is not confirmed comes again
            _ => Ok(()),
        }
    }
}

/// The end of a stream that should go on.
pub(super) fn silent(message: &str) -> Error {
    Error::local(Code::Unavailable, message)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic::Status;
    use tonic_types::{ErrorDetails, StatusExt};

    use super::*;

    #[test]
    fn what_follows_on_an_error() {
        use Next::{Again, End, Recreated};
        for (code, reason, retry, was_open, next) in [
            (Code::Unavailable, "DRAINING", true, true, Again),
            (Code::Unauthenticated, "CREDENTIALS_EXPIRED", false, true, Again),
            (Code::Aborted, "TAKEN_OVER", false, true, End),
            (Code::Aborted, "CONFLICT", true, false, Again),
            (Code::Aborted, "ROOM_RECREATED", false, true, Recreated),
            (Code::FailedPrecondition, "CURSOR_EXPIRED", false, true, Recreated),
            (Code::FailedPrecondition, "CURSOR_EXPIRED", false, false, End),
            (Code::OutOfRange, "POSITION_AFTER_END", false, true, Recreated),
            (Code::OutOfRange, "POSITION_AFTER_END", false, false, End),
            (Code::NotFound, "ROOM_NOT_FOUND", false, true, End),
        ] {
            let mut details = ErrorDetails::with_error_info(reason, "unibus.v1", HashMap::new());
            if retry {
                details.set_retry_info(Some(Duration::from_millis(100)));
            }
            let error = Status::with_error_details(code, "text", details).into();
            assert_eq!(Next::after(&error, was_open), next, "{reason} {was_open}");
        }
        assert_eq!(Next::after(&silent("no frame in time"), true), Again);
    }
}
