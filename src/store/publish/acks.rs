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

use super::run::{RUN_MESSAGES_MAX, RunAnswer, RunAnswers, is_not_taken};
use crate::{
    error::Result,
    nats::{Nats, error::unavailable},
    sync::lock,
};

/// Ends the reply subjects of a fast batch. Before it are the operation, the place in the batch, the mode on gaps, the
/// wanted number of messages between two answers, and the id of the batch.
const FAST: &str = ".$FI";
const START: u8 = 0;
const APPEND: u8 = 1;
const COMMIT: u8 = 2;

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
enum AckWaiter {
    One { stream: Arc<str>, batch: Option<AtomicBatch>, reply: oneshot::Sender<Reply> },
    Run { stream: Arc<str>, answers: RunAnswers, reply: oneshot::Sender<RunAnswers> },
}

type AckWaiters = Arc<Mutex<HashMap<u64, AckWaiter>>>;

/// The inbox for acknowledgements, and the publishes that wait for one.
#[derive(Clone, Debug)]
pub(super) struct Acks {
    inbox: Arc<str>,
    /// Begins the ids of the fast batches of this process.
    batches: Arc<str>,
    next: Arc<AtomicU64>,
    waiters: AckWaiters,
}

/// An awaited answer: the [`Reply`] to one publish, or the [`RunAnswers`] to a run. Dropping it stops the wait.
#[derive(Debug)]
pub(super) struct Expected<T> {
    waiters: AckWaiters,
    number: u64,
    answer: oneshot::Receiver<T>,
}

impl<T> Expected<T> {
    /// Waits for the answer. `None` if the service is stopping, so no answer will be read.
    ///
    /// # Cancel safety
    /// May be dropped at any point without losing the answer.
    pub(super) async fn answer(&mut self) -> Option<T> {
        (&mut self.answer).await.ok()
    }

    /// As [`Self::answer`], without waiting. Must not be called again after it returned `Ready`.
    pub(super) fn try_answer(&mut self) -> Poll<Option<T>> {
        match self.answer.try_recv() {
            Ok(answer) => Poll::Ready(Some(answer)),
            Err(TryRecvError::Closed) => Poll::Ready(None),
            Err(TryRecvError::Empty) => Poll::Pending,
        }
    }
}

impl Expected<RunAnswers> {
    /// The answers that came so far.
    pub(super) fn give_up(&mut self) -> Option<RunAnswers> {
        let waiter = lock(&self.waiters).remove(&self.number);
        match waiter {
            Some(AckWaiter::Run { answers, .. }) => Some(answers),
            Some(AckWaiter::One { .. }) | None => self.answer.try_recv().ok(),
        }
    }
}

impl<T> Drop for Expected<T> {
    fn drop(&mut self) {
        lock(&self.waiters).remove(&self.number);
    }
}

/// The reply subjects of the messages of a run.
#[derive(Debug)]
pub(super) struct RunSubjects {
    /// Begins each subject.
    prefix: String,
    messages: usize,
}

impl RunSubjects {
    /// The reply subject of the message at `place`, from 1 (ADR-50).
    pub(super) fn of(&self, place: usize) -> String {
        let operation = if place == self.messages {
            COMMIT
        } else if place == 1 {
            START
        } else {
            APPEND
        };
        format!("{}.{RUN_MESSAGES_MAX}.fail.{place}.{operation}{FAST}", self.prefix)
    }
}

impl Acks {
    /// Opens the inbox. Returns it with the listener that reads it.
    pub(super) async fn open(nats: &Nats) -> Result<(Self, AckListener)> {
        let inbox: Arc<str> = nats.client.new_inbox().into();
        let replies =
            nats.client.subscribe(format!("{inbox}.>")).await.map_err(|error| unavailable().because(error))?;
        let waiters = AckWaiters::default();
        let batches = uuid::Uuid::new_v4().simple().to_string().into();
        let acks = Self { inbox, batches, next: Arc::default(), waiters: Arc::clone(&waiters) };
        Ok((acks, AckListener { replies, waiters }))
    }

    /// Registers an expected acknowledgement of `stream`, and of `batch` if one is given. Returns it with the reply
    /// subject.
    pub(super) fn expect(&self, stream: &Arc<str>, batch: Option<AtomicBatch>) -> (Expected<Reply>, String) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (send, answer) = oneshot::channel();
        lock(&self.waiters).insert(number, AckWaiter::One { stream: Arc::clone(stream), batch, reply: send });
        let expected = Expected { waiters: Arc::clone(&self.waiters), number, answer };
        (expected, format!("{}.{number}", self.inbox))
    }

    /// Registers the expected answers to a run of `messages` messages. Returns them with the reply subjects.
    pub(super) fn expect_run(
        &self,
        stream: &Arc<str>,
        messages: usize,
        is_replicated: bool,
    ) -> (Expected<RunAnswers>, RunSubjects) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (send, answer) = oneshot::channel();
        let answers = RunAnswers::new(messages, is_replicated);
        lock(&self.waiters).insert(number, AckWaiter::Run { stream: Arc::clone(stream), answers, reply: send });
        let subjects = RunSubjects { prefix: format!("{}.{}-{number}", self.inbox, self.batches), messages };
        (Expected { waiters: Arc::clone(&self.waiters), number, answer }, subjects)
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
    /// Only in answers inside a fast batch.
    #[serde(rename = "type")]
    kind: Option<&'a str>,
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
        if let Some(address) = message.subject.strip_suffix(FAST) {
            return self.pass_on_to_run(message, address);
        }
        let Some(number) = message.subject.rsplit('.').next().and_then(|token| token.parse().ok()) else { return };
        let mut waiters = lock(&self.waiters);
        let Some(AckWaiter::One { stream, batch, .. }) = waiters.get(&number) else { return };
        let Some(reply) = read(message, stream, batch.as_ref()) else { return warn_foreign(stream) };
        if let Some(AckWaiter::One { reply: caller, .. }) = waiters.remove(&number) {
            // the caller may have gone, so an error is ignored
            let _ = caller.send(reply);
        }
    }

    /// `address` is the reply subject of a message of a run, without its end.
    fn pass_on_to_run(&self, message: &async_nats::Message, address: &str) {
        let mut tokens = address.rsplit('.').skip(1);
        let Some(place) = tokens.next().and_then(|place| place.parse().ok()) else { return };
        let Some(id) = tokens.nth(2) else { return };
        let Some(number) = id.rsplit('-').next().and_then(|number| number.parse().ok()) else { return };
        let mut waiters = lock(&self.waiters);
        let Some(AckWaiter::Run { stream, answers, .. }) = waiters.get_mut(&number) else { return };
        let is_complete = match read_of_run(message, stream, id) {
            RunMessage::Answer(answer) => answers.apply(place, answer),
            RunMessage::Control => false,
            RunMessage::Foreign => return warn_foreign(stream),
        };
        if is_complete && let Some(AckWaiter::Run { answers, reply, .. }) = waiters.remove(&number) {
            // the worker may have gone, so an error is ignored
            let _ = reply.send(answers);
        }
    }
}

fn warn_foreign(stream: &str) {
    warn!(stream, "another program answered a publish instead of JetStream; its answer is ignored");
}

/// Parses JetStream's answer. `None` if another program answered.
fn read(message: &async_nats::Message, stream: &str, batch: Option<&AtomicBatch>) -> Option<Reply> {
    if message.status == Some(StatusCode::NO_RESPONDERS) {
        return Some(Reply::NobodyListens);
    }
    let ack: PublishAck<'_> = serde_json::from_slice(&message.payload).ok()?;
    if let Some(error) = ack.error {
        return Some(Reply::Refused(error));
    }
    let is_of_batch = match batch {
        Some(batch) => ack.batch == Some(&*batch.id) && ack.count == Some(batch.messages),
        None => true,
    };
    match ack.seq {
        Some(sequence) if ack.stream == Some(stream) && sequence > 0 && is_of_batch => {
            Some(Reply::Stored { sequence, duplicate: ack.duplicate })
        }
        _ => None,
    }
}

/// A message that came for a run.
enum RunMessage {
    Answer(RunAnswer),
    /// Flow control of the batch. A run needs none, because it is bounded like plain publishes.
    Control,
    /// Another program answered.
    Foreign,
}

/// Parses JetStream's answer to a message of the run with this batch `id`.
fn read_of_run(message: &async_nats::Message, stream: &str, id: &str) -> RunMessage {
    const CONTROL: &[&str] = &["ack", "gap"];
    if message.status == Some(StatusCode::NO_RESPONDERS) {
        return RunMessage::Answer(RunAnswer::NotTaken);
    }
    let Ok(ack) = serde_json::from_slice::<PublishAck<'_>>(&message.payload) else { return RunMessage::Foreign };
    if ack.kind.is_some_and(|kind| CONTROL.contains(&kind)) {
        return RunMessage::Control;
    }
    let answer = match (ack.error, ack.seq, ack.count) {
        (Some(error), ..) if is_not_taken(&error) => RunAnswer::NotTaken,
        (Some(error), ..) => RunAnswer::Refused(error),
        (None, Some(_), _) if ack.stream != Some(stream) => return RunMessage::Foreign,
        (None, Some(sequence), Some(count)) if ack.batch == Some(id) => {
            RunAnswer::Ended { count: usize::try_from(count).unwrap_or(usize::MAX), sequence }
        }
        (None, Some(sequence), None) if sequence > 0 => RunAnswer::Stored(sequence),
        (None, ..) => return RunMessage::Foreign,
    };
    RunMessage::Answer(answer)
}
