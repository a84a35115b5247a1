//! Pages of a room's log: small ones by batched direct get (ADR-31), two requests for the newest page of a room without
//! holes; large ones by a consumer's fetch, three requests.
//!
//! A page is complete whenever enough messages exist: where sequences are missing, more of the log is looked at, in spans
//! that grow over emptiness and shrink where messages are dense or large. Any replica may answer a direct get, so what the
//! leader says is stored and did not come is asked of the leader once more.

use std::{collections::VecDeque, time::SystemTime};

use async_nats::{HeaderName, HeaderValue, StatusCode, header};
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time;

use super::{
    fetch::{Batch, Origin, fetch},
    message::Stored,
    nats::{ApiError, Nats, unavailable},
    signatures::Signatures,
    streams,
};
use crate::{
    domain::{Message, Page, PageRequest, Room, RoomState},
    error::{Error, Result},
    limits::NATS_REQUEST_TIMEOUT,
};

/// Bytes of one read beyond the page's own bound, so that one more message of any size fits.
const READ_SLACK_BYTES: usize = 1024 * 1024;
/// What a message costs in a page beside its payload and headers.
const MESSAGE_OVERHEAD_BYTES: usize = 128;
/// Reads of so many messages are worth a consumer.
const FETCHED_FROM: usize = 400;
/// How much wider the next span is when the one before held nothing.
const SPAN_GROWTH: u64 = 8;

/// Bounds of a page.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PageLimits {
    pub messages: usize,
    /// Payload, headers and overhead; one message is given even if it is larger.
    pub bytes: usize,
}

/// Reads a page.
///
/// # Errors
/// `NATS_UNAVAILABLE`, `TIMEOUT`.
pub(super) async fn page(
    nats: &Nats,
    signatures: &Signatures,
    room: &Room,
    state: RoomState,
    want: PageRequest,
    limits: PageLimits,
) -> Result<Page> {
    let log = Log { nats, signatures, room, state, limits };
    match want {
        PageRequest::Before { end } => log.newest_before(end.min(state.last_sequence + 1)).await,
        PageRequest::From { start } => log.oldest(Origin::Sequence(start.max(1)), None).await,
        PageRequest::Between { start, end } => log.oldest(Origin::Time(start), end).await,
    }
}

/// One room's log as it was when the page was asked for.
struct Log<'a> {
    nats: &'a Nats,
    signatures: &'a Signatures,
    room: &'a Room,
    state: RoomState,
    limits: PageLimits,
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

impl Log<'_> {
    /// The newest messages below `end`, collected from the end towards the beginning.
    async fn newest_before(&self, end: u64) -> Result<Page> {
        let first = self.state.first_sequence;
        let mut page: VecDeque<Message> = VecDeque::new();
        let mut bytes = 0;
        let mut full = false;
        let mut top = end;
        let mut span = self.first_span();
        while !full && page.len() < self.limits.messages && top > first {
            let bottom = top.saturating_sub(span).max(first);
            let batch = self.read(Origin::Sequence(bottom), top - bottom).await?;
            let complete = batch.pending == 0 || batch.messages.last().is_some_and(|last| last.sequence + 1 >= top);
            let mut found: Vec<_> = batch.messages.into_iter().filter(|message| message.sequence < top).collect();
            if !complete && bottom + 1 < top {
                // more than one read holds: look nearer to the end
                span = (span / 2).max(1);
                continue;
            }
            if top > self.state.last_sequence {
                self.fill_tail(&mut found, bottom).await?;
            }
            span = next_span(top - bottom, found.len() as u64, (self.limits.messages - page.len()) as u64);
            for message in found.into_iter().rev() {
                let size = size(&message);
                if page.len() == self.limits.messages || (bytes + size > self.limits.bytes && !page.is_empty()) {
                    full = true;
                    break;
                }
                bytes += size;
                page.push_front(message);
            }
            top = bottom;
        }
        let oldest = page.front().map_or(end, |message| message.sequence);
        let newest = page.back().map_or(end.saturating_sub(1), |message| message.sequence);
        Ok(Page {
            has_older: self.state.messages > 0 && first < oldest,
            has_newer: self.exists_after(newest.max(end.saturating_sub(1))).await?,
            messages: page.into(),
            state: Some(self.state),
        })
    }

    /// The oldest messages from `origin` on, stored before `until`.
    async fn oldest(&self, mut origin: Origin, until: Option<SystemTime>) -> Result<Page> {
        let first = self.state.first_sequence;
        let mut page: Vec<Message> = Vec::new();
        let mut bytes = 0;
        let mut has_newer = false;
        let mut from = origin;
        'reading: while !self.is_past_end(from) {
            let wanted = (self.limits.messages - page.len() + 1) as u64;
            let mut batch = self.read(from, wanted).await?;
            if let Origin::Time(start) = from {
                // of a time after the last message the server gives the room from its beginning
                batch.messages.retain(|message| message.published_at >= start);
            }
            if let (Origin::Time(_), Some(found)) = (from, batch.messages.first())
                && found.sequence < first
            {
                // it was asked for less than is stored
                origin = Origin::Sequence(first);
                from = origin;
                continue;
            }
            let more = batch.pending > 0;
            if let (false, Origin::Sequence(start)) = (more, from) {
                self.fill_tail(&mut batch.messages, start).await?;
            }
            let Some(last) = batch.messages.last().map(|message| message.sequence) else { break };
            for message in batch.messages {
                let size = size(&message);
                let outside = until.is_some_and(|until| message.published_at >= until);
                let full = page.len() == self.limits.messages || (bytes + size > self.limits.bytes && !page.is_empty());
                if outside || full {
                    has_newer = true;
                    break 'reading;
                }
                bytes += size;
                page.push(message);
            }
            if !more {
                break;
            }
            from = Origin::Sequence(last + 1);
        }
        let oldest = match (page.first(), origin) {
            (Some(message), _) => message.sequence,
            (None, Origin::Sequence(start)) => start,
            (None, Origin::Time(_)) => self.state.last_sequence + 1,
        };
        let has_older = self.state.messages > 0 && first < oldest;
        Ok(Page { has_older, has_newer, messages: page, state: Some(self.state) })
    }

    fn is_past_end(&self, origin: Origin) -> bool {
        self.state.messages == 0 || matches!(origin, Origin::Sequence(start) if start > self.state.last_sequence)
    }

    /// Sequences that the page should span if the messages are as large and as dense as they are on average.
    fn first_span(&self) -> u64 {
        let messages = self.state.messages.max(1);
        let average = usize::try_from(self.state.bytes / messages).unwrap_or(usize::MAX).max(1);
        // a page's bytes are counted without NATS's own bookkeeping, so this errs on the small side
        let fits = (self.limits.bytes / average).max(1).min(self.limits.messages) as u64;
        let sequences = (self.state.last_sequence + 1).saturating_sub(self.state.first_sequence).max(1);
        let holes = sequences / messages;
        fits.saturating_mul(holes.max(1))
    }

    /// Adds what the leader has after the last of `found`, and the replica that answered had not yet.
    async fn fill_tail(&self, found: &mut Vec<Message>, bottom: u64) -> Result<()> {
        let from = found.last().map_or(bottom, |message| message.sequence + 1);
        if self.room.replicas < 2 || from > self.state.last_sequence {
            return Ok(());
        }
        let subject = self.room.subject.as_str();
        let Some(last) = get(self.nats, self.room, &json!({ "last_by_subj": subject })).await? else { return Ok(()) };
        let last = last.attributed(self.signatures, self.room).await;
        for sequence in from..last.sequence {
            if let Some(stored) = stored_at(self.nats, self.room, sequence).await? {
                found.push(stored.attributed(self.signatures, self.room).await);
            }
        }
        if last.sequence >= from {
            found.push(last);
        }
        Ok(())
    }

    /// Whether a message is stored after `sequence`.
    async fn exists_after(&self, sequence: u64) -> Result<bool> {
        if sequence >= self.state.last_sequence || self.state.messages == 0 {
            return Ok(false);
        }
        if self.state.is_dense() {
            return Ok(true);
        }
        let batch = self.read(Origin::Sequence(sequence + 1), 1).await?;
        Ok(!batch.messages.is_empty())
    }

    async fn read(&self, origin: Origin, messages: u64) -> Result<Batch> {
        let batch = usize::try_from(messages).unwrap_or(usize::MAX).min(self.limits.messages + 1);
        if batch >= FETCHED_FROM {
            self.nats.ready().await?;
            let fetching = fetch(self.nats, self.signatures, self.room, origin, (batch, self.read_bytes()));
            if let Ok(Some(fetched)) = time::timeout(NATS_REQUEST_TIMEOUT / 2, fetching).await {
                return Ok(fetched);
            }
        }
        let request = match origin {
            Origin::Sequence(seq) => {
                BatchRequest { seq: Some(seq), start_time: None, batch, max_bytes: self.read_bytes() }
            }
            Origin::Time(time) => BatchRequest {
                seq: None,
                start_time: Some(humantime::format_rfc3339_nanos(time).to_string()),
                batch,
                max_bytes: self.read_bytes(),
            },
        };
        time::timeout(NATS_REQUEST_TIMEOUT, self.direct_get(&request))
            .await
            .map_err(|_| Error::from(ApiError::TimedOut))?
    }

    fn read_bytes(&self) -> usize {
        self.limits.bytes + READ_SLACK_BYTES.max(self.nats.client.max_payload())
    }

    async fn direct_get(&self, request: &BatchRequest) -> Result<Batch> {
        self.nats.ready().await?;
        let client = &self.nats.client;
        let inbox = client.new_inbox();
        let mut replies = client.subscribe(inbox.clone()).await.map_err(|error| unavailable().because(error))?;
        let body = serde_json::to_vec(request).map_err(|error| Error::internal().because(error))?;
        let subject = format!("$JS.API.DIRECT.GET.{}", streams::name(&self.room.room_id));
        client.publish_with_reply(subject, inbox, body.into()).await.map_err(|error| unavailable().because(error))?;
        let mut messages = Vec::new();
        while let Some(reply) = replies.next().await {
            match reply.status {
                None => {
                    if let Some(stored) = read(reply) {
                        messages.push(stored.attributed(self.signatures, self.room).await);
                    }
                }
                Some(StatusCode::NOT_FOUND) => return Ok(Batch { messages, pending: 0 }),
                Some(StatusCode::NO_RESPONDERS) => return Err(ApiError::NoResponders.into()),
                // 204 ends a batch
                Some(_) => {
                    let pending = number(reply.headers.as_ref(), "Nats-Num-Pending").unwrap_or(0);
                    return Ok(Batch { messages, pending });
                }
            }
        }
        Err(unavailable())
    }
}

#[derive(Deserialize)]
struct Found {
    message: FoundMessage,
}

#[derive(Deserialize)]
struct FoundMessage {
    seq: u64,
    time: String,
    #[serde(default)]
    hdrs: Option<String>,
    #[serde(default)]
    data: Option<String>,
}

/// The message with this sequence, from the leader; `None` if it is not stored.
pub(super) async fn stored_at(nats: &Nats, room: &Room, sequence: u64) -> Result<Option<Stored>> {
    get(nats, room, &json!({ "seq": sequence })).await
}

/// One message from the leader; `None` if it is not stored.
async fn get(nats: &Nats, room: &Room, request: &serde_json::Value) -> Result<Option<Stored>> {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let subject = format!("STREAM.MSG.GET.{}", streams::name(&room.room_id));
    let found: FoundMessage = match nats.api::<_, Found>(subject, request).await {
        Ok(Found { message }) => message,
        Err(error) if error.is(async_nats::jetstream::ErrorCode::NO_MESSAGE_FOUND) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let decode = |text: Option<String>| STANDARD.decode(text.unwrap_or_default());
    let (Ok(headers), Ok(payload), Ok(time)) =
        (decode(found.hdrs), decode(found.data), humantime::parse_rfc3339(&found.time))
    else {
        return Err(Error::internal());
    };
    let headers = parse_headers(&String::from_utf8_lossy(&headers));
    Ok(Some(Stored::new(found.seq, time, Some(&headers), payload.into())))
}

/// The first message stored at or after `time`; `None` if there is none.
pub(super) async fn first_since(
    nats: &Nats,
    signatures: &Signatures,
    room: &Room,
    state: RoomState,
    time: SystemTime,
) -> Result<Option<u64>> {
    let limits = PageLimits { messages: 1, bytes: 1 };
    let log = Log { nats, signatures, room, state, limits };
    let batch = log.read(Origin::Time(time), 1).await?;
    Ok(batch.messages.first().filter(|message| message.published_at >= time).map(|message| message.sequence))
}

fn parse_headers(text: &str) -> async_nats::HeaderMap {
    let mut headers = async_nats::HeaderMap::new();
    for (name, value) in text.lines().skip(1).filter_map(|line| line.split_once(':')) {
        // any program may have written them
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value.trim().parse::<HeaderValue>()) {
            headers.append(name, value);
        }
    }
    headers
}

/// A reply of a direct get. The server appends its own headers, so of a name that occurs twice the last is the server's.
fn read(reply: async_nats::Message) -> Option<Stored> {
    let headers = reply.headers.as_ref()?;
    let sequence = number(Some(headers), header::NATS_SEQUENCE)?;
    let time = headers.get_last(header::NATS_TIME_STAMP)?.as_str();
    let time = humantime::parse_rfc3339(time).ok()?;
    Some(Stored::new(sequence, time, Some(headers), reply.payload))
}

fn number(headers: Option<&async_nats::HeaderMap>, name: impl header::IntoHeaderName) -> Option<u64> {
    headers?.get_last(name)?.as_str().parse().ok()
}

/// Bytes that a message takes in a page.
fn size(message: &Message) -> usize {
    let headers: usize = message.headers.iter().map(|(name, value)| name.len() + value.len() + 8).sum();
    message.payload.len() + headers + message.message_id.len() + message.sender.len() + MESSAGE_OVERHEAD_BYTES
}

/// How many sequences to look at next, after `span` of them held `found` messages and `needed` are still missing.
fn next_span(span: u64, found: u64, needed: u64) -> u64 {
    if found == 0 {
        return span.saturating_mul(SPAN_GROWTH);
    }
    // as dense as before, and a quarter more
    needed.saturating_mul(span).div_ceil(found).saturating_mul(5) / 4 + 1
}
