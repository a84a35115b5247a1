//! Subscriptions that go on for ever (U15 to U27).

mod engine;
mod mailbox;
mod position;
mod program;
mod pulse;
mod stream;

use std::{fmt, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use prost_types::Timestamp;
use unibus::v1::{self, GapReason, start::At};

pub use self::program::Messages;
pub(crate) use self::program::is_in_handler_of;
use self::{
    engine::{Engine, Plan},
    mailbox::{Credit, Mailbox},
    position::{AckBatch, Position},
};
use crate::{
    Room,
    error::{Error, Result},
};

/// Where a subscription starts, or where a subscriber is moved.
#[derive(Clone, Debug, PartialEq)]
pub enum Start {
    /// With the oldest stored message.
    All,
    /// With messages that are stored later.
    New,
    /// After this sequence.
    AfterSequence(u64),
    /// After the message with this cursor.
    AfterCursor(String),
    /// With the first message that was stored at or after this time.
    Since(Timestamp),
    /// With the newest messages: so many of them.
    Last(u64),
}

impl From<Start> for v1::Start {
    fn from(start: Start) -> Self {
        let at = match start {
            Start::All => At::All(()),
            Start::New => At::New(()),
            Start::AfterSequence(sequence) => At::AfterSequence(sequence),
            Start::AfterCursor(cursor) => At::AfterCursor(cursor),
            Start::Since(time) => At::Since(time),
            Start::Last(messages) => At::Last(messages),
        };
        Self { at: Some(at) }
    }
}

/// What happens to a subscription besides messages (U25).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// The subscription is open. The messages after `position` follow. `resumed`: it goes on where an earlier one was.
    Opened {
        /// The sequence before the first message. 0 in an ephemeral room.
        position: u64,
        /// Whether an earlier subscription goes on.
        resumed: bool,
    },
    /// All messages that were stored when the subscription opened have come.
    CaughtUp {
        /// The sequence of the last of them.
        position: u64,
    },
    /// Messages that will not come. The sequences are 0 in an ephemeral room.
    Gap {
        /// The first missing sequence.
        from_sequence: u64,
        /// The last missing sequence.
        to_sequence: u64,
        /// Why they are missing. `Disconnected`: the client was away from an ephemeral room (U18).
        reason: GapReason,
        /// How many messages were dropped, in an ephemeral room.
        dropped: u64,
    },
    /// Somebody moved the subscriber: the messages after `position` follow (U22).
    Moved {
        /// The sequence before the next message.
        position: u64,
    },
    /// The room was deleted and created again. The messages of the new one follow from the beginning (U26).
    Recreated,
    /// The connection is lost. The client subscribes again after the pause.
    Disconnected {
        /// Why.
        error: Error,
        /// The time until the next attempt.
        pause: Duration,
    },
}

impl From<v1::Gap> for Event {
    fn from(gap: v1::Gap) -> Self {
        let reason = gap.reason();
        let v1::Gap { from_sequence, to_sequence, dropped, .. } = gap;
        Self::Gap { from_sequence, to_sequence, reason, dropped }
    }
}

type OnEvent = Box<dyn FnMut(Event) + Send>;

impl Room {
    /// Begins a subscription, which ends with [`run`](Subscribe::run) or [`messages`](Subscribe::messages).
    pub fn subscribe(&self) -> Subscribe {
        Subscribe {
            plan: Plan {
                room: self.clone(),
                subscriber: String::new(),
                start: None,
                until_caught_up: false,
                read_ahead: Credit { messages: 256, bytes: 4 * 1024 * 1024 },
                flush_time: Duration::from_secs(5),
                waits_for_handlers: false,
            },
            batch: AckBatch { messages: 100, time: Duration::from_millis(200) },
            concurrency: 1,
            on_event: None,
            close_on: None,
        }
    }
}

/// The options of a subscription.
#[must_use]
pub struct Subscribe {
    plan: Plan,
    batch: AckBatch,
    concurrency: usize,
    on_event: Option<OnEvent>,
    close_on: Option<BoxFuture<'static, ()>>,
}

impl Subscribe {
    /// Keeps the position in the service under this name: the next subscription of the name resumes after the last
    /// acknowledgement. With authorisation the name is the id of the caller, or begins with it and a `/`. An empty name keeps
    /// no position.
    pub fn durable(mut self, subscriber: impl Into<String>) -> Self {
        self.plan.subscriber = subscriber.into();
        self
    }

    /// Where to start. A durable subscriber uses it when it is new. By default [`Start::All`] in a persisted room and
    /// [`Start::New`] in an ephemeral one.
    pub fn start(mut self, start: Start) -> Self {
        self.plan.start = Some(start.into());
        self
    }

    /// Ends when all messages are processed that were stored at the beginning.
    pub fn until_caught_up(mut self) -> Self {
        self.plan.until_caught_up = true;
        self
    }

    /// How many handlers run at once, 1 by default. They are begun in order (U23).
    pub fn concurrency(mut self, handlers: usize) -> Self {
        self.concurrency = handlers.max(1);
        self
    }

    /// How much to read ahead: 256 messages and 4 MiB by default (U24).
    pub fn read_ahead(mut self, messages: u32, bytes: u64) -> Self {
        self.plan.read_ahead = Credit { messages: messages.max(1), bytes: bytes.max(1) };
        self
    }

    /// When to acknowledge: after so many messages, and after this time at the latest; 100 and 200 ms by default (U20).
    pub fn ack_batch(mut self, messages: u32, time: Duration) -> Self {
        self.batch = AckBatch { messages: messages.max(1), time };
        self
    }

    /// How long the end waits for the confirmation of the last acknowledgement, 5 s by default (U20).
    pub fn flush_time(mut self, time: Duration) -> Self {
        self.plan.flush_time = time;
        self
    }

    /// Calls this function with each event, in order with the messages (U25).
    pub fn on_event(mut self, on_event: impl FnMut(Event) + Send + 'static) -> Self {
        self.on_event = Some(Box::new(on_event));
        self
    }

    /// Closes the subscription in an orderly way when this future is ready (U27): running handlers end, and what is
    /// processed is acknowledged.
    pub fn close_on(mut self, signal: impl Future<Output = ()> + Send + 'static) -> Self {
        self.close_on = Some(Box::pin(signal));
        self
    }

    /// Calls the handler with each message, for ever. Acknowledges each message after its handler returned `Ok` (U19).
    ///
    /// Returns `Ok` when the subscription was closed, by [`close_on`](Self::close_on) or [`Client::close`](crate::Client::close),
    /// or after [`until_caught_up`](Self::until_caught_up).
    ///
    /// To give it to `tokio::spawn`, let the handler own what it uses (`async move |message| ...`), or return an `async move` block.
    ///
    /// # Errors
    /// The error of a handler: its message and all later ones come again with the next subscription (U21). Otherwise a final
    /// error of the service, such as `TAKEN_OVER`.
    ///
    /// # Cancel safety
    /// If the future is dropped, running handlers are dropped with it. What is processed is acknowledged in the background, as
    /// far as the runtime lives that long.
    pub async fn run<E: From<Error>>(self, handler: impl AsyncFn(v1::Message) -> Result<(), E>) -> Result<(), E> {
        program::run(self, handler).await
    }

    /// The messages as a `Stream`. A message is acknowledged when the program asks for the next one (U19).
    #[must_use]
    pub fn messages(self) -> Messages {
        program::Messages::open(self, false)
    }

    /// Starts the task.
    fn start_task(mut self, waits_for_handlers: bool) -> (Arc<Mailbox>, Option<OnEvent>) {
        self.plan.waits_for_handlers = waits_for_handlers;
        let connection = self.plan.room.client.connection.clone();
        let subscriptions = &connection.subscriptions;
        let position = Position::new(!self.plan.subscriber.is_empty(), self.batch);
        let mailbox = Arc::new(Mailbox::new(position, subscriptions.closing.child_token()));
        if let Some(signal) = self.close_on {
            let (closing, dropped) = (mailbox.closing.clone(), mailbox.dropped.clone());
            subscriptions.spawn(async move {
                tokio::select! {
                    () = signal => closing.cancel(),
                    () = closing.cancelled() => {}
                    () = dropped.cancelled() => {}
                }
            });
        }
        if subscriptions.closing.is_cancelled() {
            mailbox.end(Err(Error::cancelled("the client is closed")));
            return (mailbox, self.on_event);
        }
        subscriptions.spawn(Engine::new(self.plan, mailbox.clone()).run());
        (mailbox, self.on_event)
    }
}

impl fmt::Debug for Subscribe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscribe").field("plan", &self.plan).finish_non_exhaustive()
    }
}
