//! Sends messages to NATS: one message with an awaited answer, or an atomic batch (ADR-50) whose commit is answered.

use std::{sync::Arc, time::Duration};

use async_nats::Subject;
use tokio::time::{self, Instant};

use super::{
    acks::{Acks, AtomicBatch, Expected, Reply},
    room_queue::send_by,
    run::RunAnswers,
    wire::{Outgoing, batch_headers, headers},
};
use crate::{
    domain::Room,
    error::Result,
    nats::{Nats, error::unavailable},
    store::log::high_water_marks::is_replicated,
};

/// How long after a reconnection the answers to earlier messages are awaited.
pub(super) const LOST_ACK_GRACE: Duration = Duration::from_secs(1);

/// The result of a batch.
#[derive(Debug)]
pub(super) enum Commit {
    Answered(Reply),
    /// The whole batch is stored, or nothing.
    Lost,
    /// Nothing is stored.
    NotSent,
}

#[derive(Clone, Debug)]
pub(super) struct Outbox {
    pub nats: Nats,
    pub acks: Acks,
}

impl Outbox {
    /// Sends one message, at the latest at `by`. The answer must be awaited.
    ///
    /// # Errors
    /// `NATS_UNAVAILABLE`; nothing was sent.
    pub(super) async fn send(
        &self,
        stream: &Arc<str>,
        room: &Room,
        outgoing: &Outgoing,
        by: Instant,
    ) -> Result<Expected<Reply>> {
        let (expected, reply_to) = self.acks.expect(stream, None);
        let subject = room.subject.as_str().to_owned();
        let headers = headers(outgoing);
        let payload = outgoing.draft.payload.clone();
        let sending = async {
            if headers.is_empty() {
                self.nats.client.publish_with_reply(subject, reply_to, payload).await
            } else {
                self.nats.client.publish_with_reply_and_headers(subject, reply_to, headers, payload).await
            }
        };
        match time::timeout_at(by, sending).await {
            Ok(Ok(())) => Ok(expected),
            Ok(Err(error)) => Err(unavailable().because(error)),
            Err(elapsed) => Err(unavailable().because(elapsed)),
        }
    }

    /// Sends all messages as one run, at the latest at `by`. Returns the awaited answers, and the number of messages
    /// that were sent.
    pub(super) async fn send_run(
        &self,
        stream: &Arc<str>,
        room: &Room,
        messages: impl ExactSizeIterator<Item = &Outgoing>,
        by: Instant,
    ) -> (Expected<RunAnswers>, usize) {
        let (expected, reply_subjects) = self.acks.expect_run(stream, messages.len(), is_replicated(room));
        let subject = Subject::from(room.subject.as_str());
        let mut sent = 0;
        let sending = async {
            for (outgoing, place) in messages.zip(1..) {
                let (subject, headers, reply_to) = (subject.clone(), headers(outgoing), reply_subjects.of(place));
                let payload = outgoing.draft.payload.clone();
                if headers.is_empty() {
                    self.nats.client.publish_with_reply(subject, reply_to, payload).await?;
                } else {
                    self.nats.client.publish_with_reply_and_headers(subject, reply_to, headers, payload).await?;
                }
                sent = place;
            }
            Ok::<_, async_nats::PublishError>(())
        };
        // on an error the batch does not end, and only some messages were sent
        let _ = time::timeout_at(by, sending).await;
        (expected, sent)
    }

    /// Sends all messages as one batch, and waits for the result. Only the commit asks for an answer. An error of an
    /// earlier message makes the batch incomplete.
    pub(super) async fn commit(
        &self,
        stream: &Arc<str>,
        room: &Room,
        messages: &[&Outgoing],
        deadline: Instant,
    ) -> Commit {
        let mut connections = self.nats.connections();
        connections.mark_unchanged();
        let id = uuid::Uuid::new_v4().simple().to_string().into();
        let batch = AtomicBatch { id, messages: messages.len() as u64 };
        let (mut expected, reply_to) = self.acks.expect(stream, Some(batch.clone()));
        let sending = async {
            for (outgoing, place) in messages.iter().zip(1..) {
                let (subject, headers) = (room.subject.as_str().to_owned(), batch_headers(outgoing, &batch, place));
                let payload = outgoing.draft.payload.clone();
                if place == batch.messages {
                    let reply_to = reply_to.clone();
                    self.nats.client.publish_with_reply_and_headers(subject, reply_to, headers, payload).await?;
                } else {
                    self.nats.client.publish_with_headers(subject, headers, payload).await?;
                }
            }
            Ok::<_, async_nats::PublishError>(())
        };
        // nothing of a batch is stored without its commit, which is sent last
        let Ok(Ok(())) = time::timeout_at(send_by(deadline), sending).await else { return Commit::NotSent };
        let mut by = deadline;
        loop {
            tokio::select! {
                biased;
                reply = expected.answer() => return reply.map_or(Commit::Lost, Commit::Answered),
                Ok(()) = connections.changed() => by = by.min(Instant::now() + LOST_ACK_GRACE),
                () = time::sleep_until(by) => return Commit::Lost,
            }
        }
    }
}
