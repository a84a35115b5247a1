//! Excerpts of a room's log: some messages from a place on, complete, whichever server answers.
//!
//! Small excerpts are read by batched direct get (ADR-31) from any replica, large ones by a consumer's fetch. In a
//! replicated log neither proves an absence. So messages that the answer lacks and the leader has are requested from
//! the leader. The leader's answer as JSON is also the fallback if a replica does not answer, or a message breaks the
//! connection.

use std::time::{Duration, SystemTime};

use async_nats::header;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::Serialize;
use tokio::time;
use tracing::debug;

use super::{
    fetch::{Fetched, Origin, fetch},
    high_water_marks::{HighWaterMarks, behind, is_replicated},
    message::StoredMessage,
    raw::{self, Raw, Wanted},
};
use crate::{
    domain::{Message, Room, RoomState},
    error::{Error, Result},
    limits::{HISTORY_PAGE_BYTES_MAX, NATS_REQUEST_TIMEOUT, REPLICA_SILENCE_MAX, STALE_ANSWER_TIMEOUT},
    nats::{Nats, direct::number, error::ApiError},
    store::signatures::Signatures,
};

/// Minimum number of messages for which a consumer is created.
const FETCHED_FROM: usize = 400;
const RETRY_DELAY: Duration = Duration::from_millis(50);
/// Maximum number of concurrent requests for single messages.
const EACH_TOGETHER_MAX: usize = 32;
/// Approximate maximum of bytes of concurrent requests for single messages.
const EACH_TOGETHER_BYTES: usize = 1024 * 1024;

/// One room's log, as it was at the request.
#[derive(Clone, Copy)]
pub(in crate::store) struct Excerpts<'a> {
    pub nats: &'a Nats,
    pub marks: &'a HighWaterMarks,
    pub signatures: &'a Signatures,
    pub room: &'a Room,
    /// A state that is not stale.
    pub state: RoomState,
}

/// The bounds of an excerpt.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct ExcerptLimits {
    pub messages: usize,
    /// One message may exceed this.
    pub bytes: usize,
}

#[derive(Serialize)]
struct BatchRequest {
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_time: Option<String>,
    batch: usize,
    max_bytes: usize,
}

impl Excerpts<'_> {
    /// Reads the first messages from `origin` on. In a replicated log, messages at the end may be missing;
    /// [`Self::complete`] adds them.
    pub(in crate::store) async fn read(&self, origin: Origin, limits: ExcerptLimits) -> Result<Fetched> {
        let until = time::Instant::now() + NATS_REQUEST_TIMEOUT;
        if !self.nats.suspects().contains(&self.room.room_id) {
            match time::timeout_at(until, self.read_many(origin, limits)).await {
                Ok(Ok(batch)) => return Ok(batch),
                // another program has disabled direct gets
                Ok(Err(error @ ApiError::NoResponders)) => return Err(error.into()),
                Ok(Err(error)) => {
                    debug!(room = %self.room.room_id, %error, "messages could not be read together; they are read one by one");
                }
                Err(_) => {}
            }
        }
        // at least this time is left, so that one answer can arrive
        let until = until.max(time::Instant::now() + Duration::from_millis(500));
        time::timeout_at(until, self.read_each(origin, limits)).await.map_err(|_| Error::from(ApiError::TimedOut))?
    }

    async fn read_many(&self, origin: Origin, limits: ExcerptLimits) -> Result<Fetched, ApiError> {
        let nats = self.nats.reading(&self.room.room_id).await.map_err(|_| ApiError::Disconnected)?;
        let bytes = limits.bytes + self.nats.client.max_payload();
        let limits = ExcerptLimits { bytes, ..limits };
        let _share = self.nats.share_of_reading(self.expected_bytes(limits)).await;
        if limits.messages >= FETCHED_FROM {
            nats.ready().await.map_err(|_| ApiError::Disconnected)?;
            let fetching = fetch(&nats, self.signatures, self.room, origin, (limits.messages, limits.bytes));
            if let Ok(Some(fetched)) = time::timeout(NATS_REQUEST_TIMEOUT / 2, fetching).await {
                return Ok(fetched);
            }
        }
        let (seq, start_time) = match origin {
            Origin::Sequence(sequence) => (Some(sequence), None),
            Origin::Time(time) => (None, Some(humantime::format_rfc3339_nanos(time).to_string())),
        };
        let request = BatchRequest { seq, start_time, batch: limits.messages, max_bytes: limits.bytes };
        let silence_max = if is_replicated(self.room) { REPLICA_SILENCE_MAX } else { NATS_REQUEST_TIMEOUT };
        let found = nats.direct_get(self.room.stream.as_str(), &request, silence_max).await?;
        let mut messages = Vec::with_capacity(found.messages.len());
        for reply in found.messages {
            if let Some(stored) = read(reply) {
                messages.push(stored.attributed(self.signatures, self.room).await);
            }
        }
        Ok(Fetched { messages, pending: found.pending })
    }

    /// The expected bytes of an excerpt: twice the average size of its messages, at most the bound.
    fn expected_bytes(&self, limits: ExcerptLimits) -> usize {
        let average = usize::try_from(self.state.bytes / self.state.messages.max(1)).unwrap_or(usize::MAX);
        average.saturating_mul(limits.messages).saturating_mul(2).min(limits.bytes)
    }

    /// As [`Self::read`], but reads each message from the leader.
    async fn read_each(&self, origin: Origin, limits: ExcerptLimits) -> Result<Fetched> {
        let mut next = match origin {
            Origin::Sequence(sequence) => sequence,
            Origin::Time(time) => match self.first_at(time).await? {
                Some(sequence) => sequence,
                None => return Ok(Fetched { messages: Vec::new(), pending: 0 }),
            },
        };
        let (mut messages, mut bytes) = (Vec::new(), 0);
        while messages.len() < limits.messages && bytes < limits.bytes {
            let wanted = limits.messages - messages.len();
            let mut found = self.read_together(next, wanted.min(self.together())).await?;
            if found.is_empty() {
                // a hole, or the end of the log
                let Some(first) = raw::get(self.nats, self.room, Wanted::From(next)).await? else {
                    return Ok(Fetched { messages, pending: 0 });
                };
                found.push(first);
            }
            for Raw { stored, .. } in found {
                let message = stored.attributed(self.signatures, self.room).await;
                next = message.sequence + 1;
                bytes += message.payload.len();
                messages.push(message);
            }
        }
        let pending = (self.state.last_sequence + 1).saturating_sub(next);
        Ok(Fetched { messages, pending })
    }

    /// The stored messages among the `count` sequences from `next` on, requested concurrently.
    async fn read_together(&self, next: u64, count: usize) -> Result<Vec<Raw>> {
        let sequences = (next..=self.state.last_sequence).take(count);
        let gets = sequences.map(|sequence| raw::get(self.nats, self.room, Wanted::At(sequence)));
        let found: Vec<_> = stream::iter(gets).buffered(EACH_TOGETHER_MAX).try_collect().await?;
        Ok(found.into_iter().flatten().collect())
    }

    /// Number of messages to request concurrently. It is lower for large messages.
    fn together(&self) -> usize {
        let average = usize::try_from(self.state.bytes / self.state.messages.max(1)).unwrap_or(usize::MAX);
        (EACH_TOGETHER_BYTES / average.max(1)).clamp(1, EACH_TOGETHER_MAX)
    }

    /// Adds the missing messages up to `end` to `found`, which holds a server's messages from `start` on. False:
    /// there are more messages than fit.
    pub(in crate::store) async fn complete(
        &self,
        found: &mut Vec<Message>,
        start: u64,
        end: u64,
        limits: ExcerptLimits,
    ) -> Result<bool> {
        let mut next = found.last().map_or(start, |message| message.sequence + 1);
        if !is_replicated(self.room) || next > end {
            return Ok(true);
        }
        let mut listing = None;
        if !self.state.is_dense() {
            listing = Some(self.marks.list(self.room).await?);
        }
        let mut bytes: usize = found.iter().map(|message| message.payload.len()).sum();
        let give_up = time::Instant::now() + STALE_ANSWER_TIMEOUT;
        loop {
            next = match &listing {
                Some(listing) => match listing.first_from(next) {
                    Some(stored) => stored,
                    None => return Ok(true),
                },
                None => next.max(self.state.first_sequence),
            };
            if next > end {
                return Ok(true);
            }
            if found.len() >= limits.messages || bytes >= limits.bytes {
                return Ok(false);
            }
            if let Some(raw) = raw::get(self.nats, self.room, Wanted::At(next)).await? {
                let message = raw.stored.attributed(self.signatures, self.room).await;
                bytes += message.payload.len();
                found.push(message);
                next += 1;
                continue;
            }
            // the message was removed, or the answer is stale
            let newer = self.marks.list(self.room).await?;
            if newer.first_from(next) == Some(next) {
                if time::Instant::now() > give_up {
                    return Err(behind());
                }
                time::sleep(RETRY_DELAY).await;
            }
            listing = Some(newer);
        }
    }

    /// Returns true if a message is stored after `sequence`.
    pub(in crate::store) async fn exists_after(&self, sequence: u64) -> Result<bool> {
        if sequence >= self.state.last_sequence || self.state.messages == 0 {
            return Ok(false);
        }
        if self.state.is_dense() {
            return Ok(true);
        }
        if is_replicated(self.room) {
            return Ok(self.marks.list(self.room).await?.first_from(sequence + 1).is_some());
        }
        let limits = ExcerptLimits { messages: 1, bytes: HISTORY_PAGE_BYTES_MAX };
        Ok(!self.read(Origin::Sequence(sequence + 1), limits).await?.messages.is_empty())
    }

    /// The sequence of the first message stored at or after `time`, according to the leader.
    pub(in crate::store) async fn first_at(&self, time: SystemTime) -> Result<Option<u64>> {
        let get = async |wanted| raw::get(self.nats, self.room, wanted).await;
        let Some(last) = get(Wanted::Last).await? else { return Ok(None) };
        if last.stored.message.published_at < time {
            return Ok(None);
        }
        // messages before `low` are older than `time`; the first message at or after `high` is not
        let (mut low, mut high) = (self.state.first_sequence, last.stored.message.sequence);
        while low < high {
            let middle = low + (high - low) / 2;
            let Some(found) = get(Wanted::From(middle)).await? else { break };
            let Message { sequence, published_at, .. } = found.stored.message;
            if published_at >= time {
                high = middle;
            } else {
                low = sequence + 1;
            }
        }
        Ok(get(Wanted::From(low)).await?.map(|found| found.stored.message.sequence))
    }
}

/// Converts a reply of a direct get.
fn read(reply: async_nats::Message) -> Option<StoredMessage> {
    let headers = reply.headers.as_ref()?;
    let sequence = number(Some(headers), header::NATS_SEQUENCE)?;
    let time = headers.get_last(header::NATS_TIME_STAMP)?.as_str();
    let time = humantime::parse_rfc3339(time).ok()?;
    Some(StoredMessage::new(sequence, time, Some(headers), reply.payload))
}
