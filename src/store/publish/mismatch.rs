//! Interprets JetStream's refusal of an expected sequence.
//!
//! JetStream checks the expected sequence before it checks for duplicates, so it refuses a retry of a stored message
//! because of the message's own sequence. In a replicated log, a deposed leader that has not noticed its deposition
//! refuses messages that the new leader stores. So a refusal is passed on only when the message is certainly not
//! stored.

use std::{
    borrow::Cow,
    time::{Duration, SystemTime},
};

use async_nats::jetstream;
use bytes::Bytes;
use tokio::time::{self, Instant};

use super::wire::{outcome_unknown, refused};
use crate::{
    domain::{Draft, Message, RoomState},
    error::Result,
    limits::STALE_ANSWER_TIMEOUT,
    nats::Nats,
    store::{
        log::{
            high_water_marks::{HighWaterMarks, is_replicated},
            message::StoredMessage,
            message_id,
            raw::{self, Wanted},
        },
        registry::known::Registered,
    },
};

const RETRY_DELAY: Duration = Duration::from_millis(50);
/// Maximum difference between the clocks of this machine and of a NATS server.
const CLOCKS_APART_MAX: Duration = Duration::from_secs(10);

/// A message that may only be stored after a given sequence.
#[derive(Debug)]
pub(super) struct Expectation {
    /// The message id in NATS.
    message_id: Option<String>,
    payload: Bytes,
    last_sequence: u64,
    sent_at: SystemTime,
}

/// What is stored at the sequence that the message expected to get.
enum Occupant {
    This,
    Another,
    /// It is unknown whether it is this message.
    Unknown,
}

impl Expectation {
    /// The expectation of the message, if it has one.
    pub(super) fn of(draft: &Draft) -> Option<Self> {
        let last_sequence = draft.expected_last_sequence?;
        let (message_id, payload) = (message_id::of(draft).map(Cow::into_owned), draft.payload.clone());
        Some(Self { message_id, payload, last_sequence, sent_at: SystemTime::now() })
    }

    /// Returns the sequence of the refused message if it is stored after all. Returns `refusal` if it certainly is
    /// not stored.
    ///
    /// # Errors
    /// `SEQUENCE_MISMATCH`. `OUTCOME_UNKNOWN` if it stays unknown whether the message is stored.
    pub(super) async fn resolve(
        &self,
        nats: &Nats,
        marks: &HighWaterMarks,
        registered: &Registered,
        refusal: &jetstream::Error,
        deadline: Instant,
    ) -> Result<u64> {
        if !is_replicated(&registered.room) && self.message_id.is_none() {
            return Err(refused(refusal));
        }
        let give_up = deadline.min(Instant::now() + STALE_ANSWER_TIMEOUT);
        let place = async {
            loop {
                if let Ok(Some(place)) = self.place(nats, marks, registered).await {
                    return place;
                }
                time::sleep(RETRY_DELAY).await;
            }
        };
        match time::timeout_at(give_up, place).await {
            Ok(Occupant::This) => Ok(self.last_sequence.saturating_add(1)),
            Ok(Occupant::Another) => Err(refused(refusal)),
            Ok(Occupant::Unknown) | Err(_) => Err(outcome_unknown()),
        }
    }

    /// `None`: a server may still store the message.
    async fn place(&self, nats: &Nats, marks: &HighWaterMarks, registered: &Registered) -> Result<Option<Occupant>> {
        let (room, place) = (&registered.room, self.last_sequence.saturating_add(1));
        let mut state: RoomState = marks.state(room).await?;
        if state.last_sequence < self.last_sequence {
            state = marks.reaching(room, self.last_sequence, state).await?;
        }
        if state.last_sequence < self.last_sequence {
            // the expected sequence is after the end of the log, so no server stores the message
            return Ok(Some(Occupant::Another));
        }
        if state.last_sequence == self.last_sequence {
            return Ok((!is_replicated(room)).then_some(Occupant::Another));
        }
        if let Some(found) = raw::get(nats, room, Wanted::At(place)).await? {
            return Ok(Some(self.compare(&found.stored)));
        }
        // the message was removed, or the answer is stale: the next message shows the latest time at which the
        // sequence was used
        if is_replicated(room) && marks.list(room).await?.first_from(place) == Some(place) {
            return Ok(None);
        }
        let follows = raw::get(nats, room, Wanted::From(place)).await?;
        let is_old = follows.is_some_and(|found| self.is_older(&found.stored.message));
        Ok(Some(if is_old || !is_replicated(room) { Occupant::Another } else { Occupant::Unknown }))
    }

    fn compare(&self, StoredMessage { nats_id, message: found, .. }: &StoredMessage) -> Occupant {
        match &self.message_id {
            Some(id) if nats_id.as_ref() == Some(id) => Occupant::This,
            Some(_) => Occupant::Another,
            None if self.payload != found.payload || self.is_older(found) => Occupant::Another,
            None => Occupant::Unknown,
        }
    }

    /// Returns true if `found` was stored before this message was sent.
    fn is_older(&self, found: &Message) -> bool {
        found.published_at.checked_add(CLOCKS_APART_MAX).is_some_and(|at| at < self.sent_at)
    }
}
