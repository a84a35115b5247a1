//! Publishes several messages as an atomic batch: all are stored in adjacent sequences, or none is stored.

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::{self, Instant};

use super::{
    Publisher, acknowledged,
    acks::Reply,
    mismatch::Expectation,
    room_queue::{Outcome, Work},
    wire::{Outgoing, check_kept_together, is_duplicate, is_mismatch, outcome_unknown, probe_headers, refused},
};
use crate::{
    domain::{Acknowledged, Draft, PublishAcks},
    error::{Error, Reason, Result},
    nats::error::unavailable,
    store::{log::message_id, registry::known::Registered},
};

impl Publisher {
    /// Stores all messages or none. If the message ids of all messages show that the same batch was stored before,
    /// every answer is a duplicate's.
    ///
    /// # Errors
    /// As for a single message. Also `BATCH_DUPLICATE`: nothing was stored. `OUTCOME_UNKNOWN`: all messages are
    /// stored, or none.
    ///
    /// # Cancel safety
    /// A call that is dropped may have stored all messages.
    pub(in crate::store) async fn store_all(
        self: &Arc<Self>,
        registered: &Arc<Registered>,
        mut drafts: Vec<Draft>,
        deadline: Instant,
    ) -> Result<Vec<Acknowledged>> {
        if drafts.len() == 1
            && let Some(draft) = drafts.pop()
        {
            return Ok(vec![
                self.enqueue(registered, draft, None, PublishAcks::Each, deadline).await?.outcome().await?,
            ]);
        }
        let sealed = drafts.into_iter().map(|draft| self.seal(&registered.room, draft));
        let messages: Arc<[Outgoing]> = sealed.collect::<Result<_>>()?;
        check_kept_together(&registered.room, &messages)?;
        let expectation = messages.first().and_then(|first| Expectation::of(&first.draft));
        let mut ticket =
            self.enqueue_work(registered, Work::All(Arc::clone(&messages)), None, PublishAcks::Each, deadline).await?;
        match ticket.outcome().await {
            Outcome::Stored { sequence: last, .. } => {
                let first = (last + 1).saturating_sub(messages.len() as u64);
                let durability = self.durability_of(&registered.room);
                Ok(messages
                    .iter()
                    .zip(first..)
                    .map(|(_, sequence)| acknowledged(sequence, false, durability))
                    .collect())
            }
            Outcome::Refused(error) if is_duplicate(&error) || is_mismatch(&error) => {
                if let Some(expectation) = expectation.filter(|_| is_mismatch(&error)) {
                    let nats = &self.outbox.nats;
                    // from here on the first message is certainly stored; the other messages show whether all are
                    expectation.resolve(nats, &self.marks, registered, &error, deadline).await?;
                }
                let known = self.known(registered, &messages, deadline).await.map_err(|_| outcome_unknown())?;
                if let Some(first) = stored_together(&known) {
                    let durability = self.durability_of(&registered.room);
                    let sequences = first..first + messages.len() as u64;
                    return Ok(sequences.map(|sequence| acknowledged(sequence, true, durability)).collect());
                }
                let index = known.iter().position(Option::is_some);
                match index.and_then(|index| Some((index, known.get(index).copied()??))) {
                    Some((index, sequence)) if is_duplicate(&error) => Err(Error::new(
                        Reason::BatchDuplicate,
                        format!(
                            "`messages[{index}].message_id`: this message was stored earlier, in another way; nothing was stored"
                        ),
                    )
                    .with("index", index)
                    .with("sequence", sequence)),
                    // JetStream has forgotten the message id by now, so the same batch can be stored
                    None if is_duplicate(&error) => Err(Error::new(
                        Reason::Conflict,
                        "`message_id`: the window of an id in the batch has just ended; nothing was stored, publish the batch again",
                    )),
                    Some(_) | None => Err(refused(&error)),
                }
            }
            Outcome::Refused(error) => Err(refused(&error)),
            // only runs leave sequences unknown
            Outcome::StoredUnnumbered => Err(outcome_unknown()),
            Outcome::Failed(error) => Err(error),
        }
    }

    /// Asks JetStream, by the message ids, at which sequence each message was stored before. The request stores
    /// nothing.
    async fn known(
        &self,
        registered: &Registered,
        messages: &[Outgoing],
        deadline: Instant,
    ) -> Result<Vec<Option<u64>>> {
        let stream: Arc<str> = registered.room.stream.as_str().into();
        let mut asked = Vec::with_capacity(messages.len());
        for Outgoing { draft, .. } in messages {
            let Some(message_id) = message_id::of(draft) else {
                asked.push(None);
                continue;
            };
            let (expected, reply_to) = self.outbox.acks.expect(&stream, None);
            let subject = registered.room.subject.as_str().to_owned();
            let headers = probe_headers(&message_id);
            let client = &self.outbox.nats.client;
            let asking = client.publish_with_reply_and_headers(subject, reply_to, headers, Bytes::new());
            match time::timeout_at(deadline, asking).await {
                Ok(sent) => sent.map_err(|error| unavailable().because(error))?,
                Err(elapsed) => return Err(unavailable().because(elapsed)),
            }
            asked.push(Some(expected));
        }
        let mut known = Vec::with_capacity(asked.len());
        for expected in asked {
            let Some(mut expected) = expected else {
                known.push(None);
                continue;
            };
            match time::timeout_at(deadline, expected.answer()).await {
                Ok(Some(Reply::Stored { sequence, duplicate: true })) => known.push(Some(sequence)),
                Ok(Some(Reply::Refused(_))) => known.push(None),
                Ok(Some(Reply::Stored { .. } | Reply::NobodyListens) | None) | Err(_) => return Err(unavailable()),
            }
        }
        Ok(known)
    }
}

/// The first sequence, if all sequences are known and adjacent.
fn stored_together(known: &[Option<u64>]) -> Option<u64> {
    let first = known.first().copied()??;
    known.iter().zip(first..).all(|(found, sequence)| *found == Some(sequence)).then_some(first)
}
