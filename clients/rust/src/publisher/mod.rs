//! Many messages to one room over one stream, as futures (U13, U14).

mod queue;
mod sink;
mod task;

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::Instant,
};
use tokio_util::sync::{CancellationToken, DropGuard};

pub use self::sink::PublishSink;
use self::task::{Input, PublisherTask, Ticket};
use crate::{
    NewMessage, Published, Room,
    error::{Error, Result},
    retry::later,
};

/// A message of 64 MiB ends the stream of the service, and with it other messages.
const MESSAGE_MAX: usize = 63 * 1024 * 1024;
/// How long [`Publisher::close`] waits for answers.
const CLOSE_TIME: Duration = Duration::from_secs(60);

impl Room {
    /// Begins a publisher, which sends messages without waiting for each answer.
    pub fn publisher(&self) -> PublisherBuilder {
        PublisherBuilder { room: self.clone(), messages: 1024, bytes: 4 * 1024 * 1024, close_time: CLOSE_TIME }
    }
}

/// The options of a publisher.
#[derive(Clone, Debug)]
#[must_use]
pub struct PublisherBuilder {
    room: Room,
    messages: u32,
    bytes: u32,
    close_time: Duration,
}

impl PublisherBuilder {
    /// How many messages, and how many bytes of payloads, may be unanswered: 1024 and 4 MiB by default. Then sending waits.
    pub fn window(mut self, messages: u32, bytes: u32) -> Self {
        (self.messages, self.bytes) = (messages.max(1), bytes.max(1));
        self
    }

    /// How long [`Publisher::close`] waits for answers, 60 s by default.
    pub fn close_time(mut self, time: Duration) -> Self {
        self.close_time = time;
        self
    }

    /// Starts the publisher. It connects when there is a message.
    #[must_use]
    pub fn start(self) -> Publisher {
        let publishers = &self.room.client.connection.publishers;
        let (closing, dropped, ended) =
            (publishers.closing.child_token(), CancellationToken::new(), CancellationToken::new());
        let (inputs, inbox) = mpsc::channel(self.messages as usize);
        let (room, closes, drops, end) = (self.room.clone(), closing.clone(), dropped.clone(), ended.clone());
        publishers.spawn(async move {
            // also if the task panics, or its runtime ends
            let _end = end.drop_guard();
            PublisherTask::new(room, inbox, self.messages as usize, closes).run(self.close_time, drops).await;
        });
        Publisher {
            inputs,
            messages: Window::new(self.messages),
            bytes: Window::new(self.bytes),
            closing,
            ended,
            _dropped: dropped.drop_guard(),
        }
    }
}

/// Publishes messages to one room over one stream, without waiting for each answer.
///
/// The messages keep the order in which the program gives them, as long as none of them is refused (U14). When the
/// connection breaks, all unanswered messages are sent again with their ids (U13). Dropping the publisher drops what is
/// unanswered; [`close`](Self::close) waits for it.
///
/// ```no_run
/// # async fn example(room: unibus_client::Room) -> unibus_client::Result<()> {
/// let publisher = room.publisher().start();
/// let mut receipts = Vec::new();
/// for number in 0..1000 {
///     receipts.push(publisher.send(format!("message {number}")).await?);
/// }
/// for receipt in receipts {
///     println!("stored as {}", receipt.await?.sequence);
/// }
/// publisher.close().await;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Publisher {
    inputs: mpsc::Sender<Input>,
    messages: Window,
    bytes: Window,
    closing: CancellationToken,
    ended: CancellationToken,
    _dropped: DropGuard,
}

/// What may be unanswered.
#[derive(Debug)]
struct Window {
    free: Arc<Semaphore>,
    all: u32,
}

impl Window {
    fn new(all: u32) -> Self {
        Self { free: Arc::new(Semaphore::new(all as usize)), all }
    }

    /// Waits for its turn and for space. Something larger than the window takes all of it.
    async fn take(&self, amount: usize) -> Result<OwnedSemaphorePermit> {
        // something empty waits for its turn too
        let amount = u32::try_from(amount).unwrap_or(u32::MAX).clamp(1, self.all);
        self.free.clone().acquire_many_owned(amount).await.map_err(|_| closed())
    }
}

fn closed() -> Error {
    Error::cancelled("the publisher is closed")
}

impl Publisher {
    /// Sends a message as soon as there is space. The receipt resolves when the message is answered.
    ///
    /// # Errors
    /// Only if the publisher is closed, or the message is larger than 63 MiB. All else is an error of the receipt.
    ///
    /// # Cancel safety
    /// If the future is dropped, the message is not sent.
    pub async fn send(&self, message: impl Into<NewMessage>) -> Result<Receipt> {
        let message = message.into();
        if message.size() > MESSAGE_MAX {
            return Err(Error::invalid("the message is larger than 63 MiB, which no service takes"));
        }
        let space = (self.messages.take(1).await?, self.bytes.take(message.request.payload.len()).await?);
        if self.closing.is_cancelled() {
            return Err(closed());
        }
        let (answer, receipt) = oneshot::channel();
        let deadline = message.within.map(|within| later(Instant::now(), within));
        let input = Input { message, deadline, ticket: Ticket { answer, _space: space } };
        // there is space in the channel, since the window is not larger
        self.inputs.try_send(input).map_err(|_| closed())?;
        Ok(Receipt(receipt))
    }

    /// Waits until every message is answered that was sent before (U14).
    pub async fn flush(&self) {
        // the whole window is free when nothing is unanswered
        let _ = self.messages.take(usize::MAX).await;
    }

    /// Waits until every message is answered, then closes the publisher. Messages without an answer after the
    /// [`close_time`](PublisherBuilder::close_time) fail with an unknown outcome (U14).
    pub async fn close(&self) {
        self.closing.cancel();
        self.ended.cancelled().await;
    }

    /// This publisher as a `Sink`.
    #[must_use]
    pub fn into_sink(self) -> PublishSink {
        PublishSink::new(self)
    }
}

/// The outcome of a message that is under way. If it is dropped, the message is published all the same.
#[derive(Debug)]
#[must_use = "a message whose receipt is dropped may fail without notice"]
pub struct Receipt(oneshot::Receiver<Result<Published>>);

impl Future for Receipt {
    type Output = Result<Published>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // only if the task of the publisher has panicked, or its runtime has ended: nobody knows what became of the message
        let lost = || Err(closed().after(true));
        Poll::Ready(ready!(Pin::new(&mut self.0).poll(context)).unwrap_or_else(|_| lost()))
    }
}
