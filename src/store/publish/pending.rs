//! A publish whose outcome is not known yet.

use std::sync::Arc;

use super::{
    Publisher, acknowledged,
    mismatch::Expectation,
    room_queue::{Outcome, Ticket},
    wire::{is_mismatch, refused},
};
use crate::{domain::Acknowledged, error::Result, store::registry::known::Registered};

/// A message that has its place in the order of its room. If this is dropped, the message may be stored or not.
#[derive(Debug)]
pub(crate) struct Pending(PublishState);

#[derive(Debug)]
enum PublishState {
    Sent(Acknowledged),
    Queued(QueuedPublish),
}

#[derive(Debug)]
struct QueuedPublish {
    publisher: Arc<Publisher>,
    registered: Arc<Registered>,
    expectation: Option<Expectation>,
    ticket: Ticket,
}

impl Pending {
    pub(super) fn new(
        publisher: &Arc<Publisher>,
        registered: &Arc<Registered>,
        expectation: Option<Expectation>,
        ticket: Ticket,
    ) -> Self {
        let (publisher, registered) = (Arc::clone(publisher), Arc::clone(registered));
        Self(PublishState::Queued(QueuedPublish { publisher, registered, expectation, ticket }))
    }

    /// A message that was sent and is not stored.
    pub(in crate::store) fn sent(acknowledged: Acknowledged) -> Self {
        Self(PublishState::Sent(acknowledged))
    }

    /// Waits for the outcome, until the deadline at the latest.
    ///
    /// # Errors
    /// `SEQUENCE_MISMATCH`, `TTL_NOT_ALLOWED`, `STORAGE_FULL`, `CONFLICT`, `ROOM_NOT_FOUND`, `NATS_UNAVAILABLE`: the
    /// message is not stored. `OUTCOME_UNKNOWN`: the message may be stored.
    ///
    /// # Cancel safety
    /// A call that is dropped may have stored the message.
    pub(crate) async fn outcome(self) -> Result<Acknowledged> {
        let QueuedPublish { publisher, registered, expectation, mut ticket } = match self.0 {
            PublishState::Sent(acknowledged) => return Ok(acknowledged),
            PublishState::Queued(waiting) => waiting,
        };
        let durability = publisher.durability_of(&registered.room);
        let nats = &publisher.outbox.nats;
        match ticket.outcome().await {
            Outcome::Stored { sequence, duplicate } => Ok(acknowledged(sequence, duplicate, durability)),
            Outcome::StoredUnnumbered => Ok(acknowledged(0, false, durability)),
            Outcome::Refused(error) => match expectation.filter(|_| is_mismatch(&error)) {
                Some(expectation) => {
                    let marks = &publisher.marks;
                    // boxed, because it is rare and too large for the future of every message
                    let resolving = Box::pin(expectation.resolve(nats, marks, &registered, &error, ticket.deadline));
                    let sequence = resolving.await?;
                    Ok(acknowledged(sequence, true, durability))
                }
                None => Err(refused(&error)),
            },
            Outcome::Failed(error) => Err(error),
        }
    }
}
