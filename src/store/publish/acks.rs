//! Acknowledgements of publishes. They arrive in one inbox of this process. Other programs can answer on the subject,
//! because a JetStream publish is a request; their answers are ignored. A call that is dropped leaves nothing behind.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    task::Poll,
};

use async_nats::{StatusCode, Subscriber, jetstream};
use futures_util::StreamExt;
use serde::Deserialize;
use tokio::sync::oneshot::{self, error::TryRecvError};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    error::Result,
    nats::{Nats, error::unavailable},
    sync::lock,
};

/// The answer to one publish, or to the commit of a batch.
#[derive(Debug)]
pub(super) enum Reply {
    /// `sequence` is the sequence of the last message.
    Stored { sequence: u64, duplicate: bool },
    /// Nothing was stored.
    Refused(jetstream::Error),
    /// Nothing was stored: the stream is missing, or has no leader.
    NobodyListens,
}

/// The atomic batch that a commit belongs to.
#[derive(Clone, Debug)]
pub(super) struct AtomicBatch {
    pub id: Arc<str>,
    pub messages: u64,
}

#[derive(Debug)]
struct AckWaiter {
    stream: Arc<str>,
    batch: Option<AtomicBatch>,
    reply: oneshot::Sender<Reply>,
}

type AckWaiters = Arc<Mutex<HashMap<u64, AckWaiter>>>;

/// The inbox for acknowledgements, and the publishes that wait for one.
#[derive(Clone, Debug)]
pub(super) struct Acks {
    inbox: Arc<str>,
    next: Arc<AtomicU64>,
    waiters: AckWaiters,
}

/// An awaited acknowledgement. Dropping it stops the wait.
#[derive(Debug)]
pub(super) struct Expected {
    waiters: AckWaiters,
    number: u64,
    reply: oneshot::Receiver<Reply>,
}

impl Expected {
    /// Waits for the answer. `None` if the service is stopping, so no answer will be read.
    ///
    /// # Cancel safety
    /// May be dropped at any point without losing the answer.
    pub(super) async fn reply(&mut self) -> Option<Reply> {
        (&mut self.reply).await.ok()
    }

    /// As [`Self::reply`], without waiting. Must not be called again after it returned `Ready`.
    pub(super) fn try_reply(&mut self) -> Poll<Option<Reply>> {
        match self.reply.try_recv() {
            Ok(reply) => Poll::Ready(Some(reply)),
            Err(TryRecvError::Closed) => Poll::Ready(None),
            Err(TryRecvError::Empty) => Poll::Pending,
        }
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        lock(&self.waiters).remove(&self.number);
    }
}

impl Acks {
    /// Opens the inbox. Returns it with the listener that reads it.
    pub(super) async fn open(nats: &Nats) -> Result<(Self, AckListener)> {
        let inbox: Arc<str> = nats.client.new_inbox().into();
        let replies =
            nats.client.subscribe(format!("{inbox}.*")).await.map_err(|error| unavailable().because(error))?;
        let waiters = AckWaiters::default();
        let acks = Self { inbox, next: Arc::default(), waiters: Arc::clone(&waiters) };
        Ok((acks, AckListener { replies, waiters }))
    }

    /// Registers an expected acknowledgement of `stream`, and of `batch` if one is given. Returns it with the reply
    /// subject.
    pub(super) fn expect(&self, stream: &Arc<str>, batch: Option<AtomicBatch>) -> (Expected, String) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (send, reply) = oneshot::channel();
        lock(&self.waiters).insert(number, AckWaiter { stream: Arc::clone(stream), batch, reply: send });
        let expected = Expected { waiters: Arc::clone(&self.waiters), number, reply };
        (expected, format!("{}.{number}", self.inbox))
    }
}

/// Reads the acknowledgements of a publisher.
#[derive(Debug)]
pub(in crate::store) struct AckListener {
    replies: Subscriber,
    waiters: AckWaiters,
}

#[derive(Deserialize)]
struct PublishAck<'a> {
    stream: Option<&'a str>,
    seq: Option<u64>,
    #[serde(default)]
    duplicate: bool,
    batch: Option<&'a str>,
    count: Option<u64>,
    error: Option<jetstream::Error>,
}

impl AckListener {
    /// Runs until `stop`. Awaited acknowledgements then end with `None`.
    pub(in crate::store) async fn run(mut self, stop: CancellationToken) {
        loop {
            let message = tokio::select! {
                () = stop.cancelled() => break,
                message = self.replies.next() => message,
            };
            match message {
                Some(message) => self.pass_on(&message),
                None => break,
            }
        }
        lock(&self.waiters).clear();
    }

    fn pass_on(&self, message: &async_nats::Message) {
        let Some(number) = message.subject.rsplit('.').next().and_then(|token| token.parse().ok()) else { return };
        let mut waiters = lock(&self.waiters);
        let Some(waiter) = waiters.get(&number) else { return };
        let Some(reply) = read(message, waiter) else {
            warn!(
                stream = &*waiter.stream,
                "another program answered a publish instead of JetStream; its answer is ignored"
            );
            return;
        };
        if let Some(waiter) = waiters.remove(&number) {
            // the caller may have gone, so an error is ignored
            let _ = waiter.reply.send(reply);
        }
    }
}

/// Parses JetStream's answer. `None` if another program answered.
fn read(message: &async_nats::Message, waiter: &AckWaiter) -> Option<Reply> {
    if message.status == Some(StatusCode::NO_RESPONDERS) {
        return Some(Reply::NobodyListens);
    }
    let ack: PublishAck<'_> = serde_json::from_slice(&message.payload).ok()?;
    if let Some(error) = ack.error {
        return Some(Reply::Refused(error));
    }
    let is_of_batch = match &waiter.batch {
        Some(batch) => ack.batch == Some(&*batch.id) && ack.count == Some(batch.messages),
        None => true,
    };
    match ack.seq {
        Some(sequence) if ack.stream == Some(&*waiter.stream) && sequence > 0 && is_of_batch => {
            Some(Reply::Stored { sequence, duplicate: ack.duplicate })
        }
        _ => None,
    }
}
