//! Publishing: to JetStream with an acknowledgement that is believed only if it is the right stream's, and to core NATS.
//!
//! Acknowledgements come to one inbox of this process. Whoever else answers on the subject (a native responder can, since
//! a JetStream publish is a request) is passed over, and a call that gives up leaves nothing behind.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use async_nats::{
    HeaderMap, StatusCode, Subscriber, header,
    jetstream::{self, ErrorCode},
};
use futures_util::StreamExt;
use serde::Deserialize;
use tokio::{sync::oneshot, time};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{
    history, lock,
    nats::{Nats, unavailable},
    streams,
};
use crate::{
    domain::{Acknowledged, Draft, Durability, Room},
    error::{Error, Reason, Result},
    limits::PUBLISH_TIMEOUT,
};

/// First wait before a publish that nobody took is tried again; doubles.
const RETRY_DELAY: Duration = Duration::from_millis(25);

/// What came back for one publish.
#[derive(Debug)]
enum Reply {
    Stored { sequence: u64, duplicate: bool },
    Refused(jetstream::Error),
    NobodyListens,
}

#[derive(Debug)]
struct Waiting {
    stream: String,
    tell: oneshot::Sender<Reply>,
}

type Waiters = Arc<Mutex<HashMap<u64, Waiting>>>;

/// Publishes for all rooms of this process.
#[derive(Clone, Debug)]
pub(crate) struct Publisher {
    nats: Nats,
    inbox: Arc<str>,
    next: Arc<AtomicU64>,
    waiters: Waiters,
    durability: Durability,
}

/// Removes a waiter whose caller has gone or given up.
struct Ticket {
    waiters: Waiters,
    number: u64,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        lock(&self.waiters).remove(&self.number);
    }
}

impl Publisher {
    /// A publisher and the task that hears its acknowledgements. `durability` is what one acknowledgement of a room with
    /// one replica means.
    pub(super) async fn new(nats: &Nats, durability: Durability) -> Result<(Self, AckListener)> {
        let inbox: Arc<str> = nats.client.new_inbox().into();
        let replies =
            nats.client.subscribe(format!("{inbox}.*")).await.map_err(|error| unavailable().because(error))?;
        let waiters = Waiters::default();
        let publisher =
            Self { nats: nats.clone(), inbox, next: Arc::default(), waiters: Arc::clone(&waiters), durability };
        Ok((publisher, AckListener { replies, waiters }))
    }

    /// Hands a message to the NATS server, for whoever is subscribed now.
    ///
    /// # Errors
    /// `NATS_UNAVAILABLE`; nothing was sent.
    pub(super) async fn send(&self, room: &Room, draft: Draft) -> Result<Acknowledged> {
        self.nats.ready().await?;
        let headers = headers(&draft);
        let subject = room.subject.as_str().to_owned();
        let sent = if headers.is_empty() {
            self.nats.client.publish(subject, draft.payload).await
        } else {
            self.nats.client.publish_with_headers(subject, headers, draft.payload).await
        };
        sent.map_err(|error| unavailable().because(error))?;
        Ok(Acknowledged {
            sequence: 0,
            duplicate: false,
            published_at: SystemTime::now(),
            durability: Durability::None,
        })
    }

    /// Stores a message. `ensure` is called when nobody takes it, to bring the stream back if it is gone.
    ///
    /// # Errors
    /// `SEQUENCE_MISMATCH`, `TTL_NOT_ALLOWED`, `STORAGE_FULL`, `NATS_UNAVAILABLE`: not stored. `OUTCOME_UNKNOWN`: perhaps.
    ///
    /// # Cancel safety
    /// A call that is dropped may have stored the message.
    pub(super) async fn store<F>(&self, room: &Room, draft: &Draft, ensure: impl Fn() -> F) -> Result<Acknowledged>
    where
        F: Future<Output = Result<()>>,
    {
        let deadline = time::Instant::now() + PUBLISH_TIMEOUT;
        let mut delay = RETRY_DELAY;
        loop {
            self.nats.ready().await?;
            match self.attempt(room, draft, deadline).await? {
                Reply::Stored { sequence, duplicate } => {
                    return Ok(self.acknowledged(room, sequence, duplicate));
                }
                Reply::Refused(error) => {
                    return match self.stored_before(room, draft, &error).await? {
                        Some(sequence) => Ok(self.acknowledged(room, sequence, true)),
                        None => Err(refused(&error)),
                    };
                }
                // the stream is gone, or has no leader just now: either way the message was not stored
                Reply::NobodyListens if time::Instant::now() + delay < deadline => {
                    time::sleep(delay).await;
                    delay *= 2;
                    time::timeout_at(deadline, ensure()).await.map_err(|_| unavailable())??;
                }
                Reply::NobodyListens => return Err(unavailable()),
            }
        }
    }

    async fn attempt(&self, room: &Room, draft: &Draft, deadline: time::Instant) -> Result<Reply> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (tell, reply) = oneshot::channel();
        let ticket = Ticket { waiters: Arc::clone(&self.waiters), number };
        lock(&self.waiters).insert(number, Waiting { stream: streams::name(&room.room_id), tell });
        let subject = room.subject.as_str().to_owned();
        let reply_to = format!("{}.{number}", self.inbox);
        let headers = headers(draft);
        let payload = draft.payload.clone();
        let sent = if headers.is_empty() {
            self.nats.client.publish_with_reply(subject, reply_to, payload).await
        } else {
            self.nats.client.publish_with_reply_and_headers(subject, reply_to, headers, payload).await
        };
        sent.map_err(|error| unavailable().because(error))?;
        let reply = time::timeout_at(deadline, reply).await;
        drop(ticket);
        match reply {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(_)) | Err(_) => Err(Error::new(
                Reason::OutcomeUnknown,
                "the acknowledgement was lost: the message may or may not be stored; publish it again with the same message_id",
            )),
        }
    }

    /// JetStream looks at the expected sequence before it looks for duplicates, so a retry of a message that was stored is
    /// refused for the sequence that it itself took. That sequence, if it holds this very message.
    async fn stored_before(&self, room: &Room, draft: &Draft, error: &jetstream::Error) -> Result<Option<u64>> {
        let (Some(id), Some(expected), true) = (&draft.message_id, draft.expected_last_sequence, is_mismatch(error))
        else {
            return Ok(None);
        };
        let sequence = expected.saturating_add(1);
        let found = history::stored_at(&self.nats, room, sequence).await?;
        Ok(found.filter(|found| found.message_id == *id).map(|_| sequence))
    }

    fn acknowledged(&self, room: &Room, sequence: u64, duplicate: bool) -> Acknowledged {
        Acknowledged { sequence, duplicate, published_at: SystemTime::now(), durability: self.durability_of(room) }
    }

    fn durability_of(&self, room: &Room) -> Durability {
        match (self.durability, room.replicas) {
            (Durability::Synced, 2..) => Durability::QuorumSynced,
            (Durability::Buffered, 2..) => Durability::Quorum,
            (durability, _) => durability,
        }
    }
}

fn headers(draft: &Draft) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in draft.headers.iter() {
        headers.insert(name, value);
    }
    if let Some(id) = &draft.message_id {
        headers.insert(header::NATS_MESSAGE_ID, id.as_str());
    }
    if let Some(sequence) = draft.expected_last_sequence {
        headers.insert(header::NATS_EXPECTED_LAST_SEQUENCE, sequence.to_string());
    }
    if let Some(ttl) = draft.ttl {
        headers.insert(header::NATS_MESSAGE_TTL, format!("{}s", ttl.as_secs()));
    }
    headers
}

fn is_mismatch(error: &jetstream::Error) -> bool {
    matches!(error.error_code(), ErrorCode::STREAM_WRONG_LAST_SEQUENCE | ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT)
}

/// What JetStream's refusal of a message means. Codes: nats-server `errors.json`.
fn refused(error: &jetstream::Error) -> Error {
    const MAXIMUM_MESSAGES_EXCEEDED: &str = "maximum messages exceeded";
    const MAXIMUM_BYTES_EXCEEDED: &str = "maximum bytes exceeded";
    let text = error.to_string();
    match error.error_code() {
        _ if is_mismatch(error) => {
            let actual = text.split("sequence: ").nth(1).map_or("", |rest| {
                let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
                rest.get(..digits).unwrap_or_default()
            });
            let error = Error::new(
                Reason::SequenceMismatch,
                format!("expected_last_sequence: the room's last sequence is {actual}; nothing was stored"),
            );
            if actual.is_empty() { error } else { error.with("last_sequence", actual) }
        }
        ErrorCode::MESSAGE_TTL_DISABLED => ttl_not_allowed(),
        ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM => {
            Error::new(Reason::PayloadTooLarge, "payload: larger than the room's stream takes; nothing was stored")
        }
        _ if error.code() == 429
            || text.contains(MAXIMUM_MESSAGES_EXCEEDED)
            || text.contains(MAXIMUM_BYTES_EXCEEDED) =>
        {
            Error::new(
                Reason::StorageFull,
                "the room or the NATS server takes no more messages now; nothing was stored",
            )
        }
        _ => super::nats::ApiError::Refused(error.clone()).into(),
    }
}

pub(crate) fn ttl_not_allowed() -> Error {
    Error::new(Reason::TtlNotAllowed, "ttl: the room was created without allow_message_ttl; nothing was stored")
}

/// Hears the acknowledgements of a [`Publisher`].
#[derive(Debug)]
pub(super) struct AckListener {
    replies: Subscriber,
    waiters: Waiters,
}

#[derive(Deserialize)]
struct PubAck {
    stream: Option<String>,
    seq: Option<u64>,
    #[serde(default)]
    duplicate: bool,
    error: Option<jetstream::Error>,
}

impl AckListener {
    /// Runs until `stop`.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        loop {
            let message = tokio::select! {
                () = stop.cancelled() => return,
                message = self.replies.next() => message,
            };
            match message {
                Some(message) => self.hear(&message),
                None => return,
            }
        }
    }

    fn hear(&self, message: &async_nats::Message) {
        let Some(number) = message.subject.rsplit('.').next().and_then(|token| token.parse().ok()) else { return };
        let mut waiters = lock(&self.waiters);
        let Some(waiting) = waiters.get(&number) else { return };
        let Some(reply) = read(message, &waiting.stream) else {
            warn!(
                stream = waiting.stream,
                "another program answered a publish in JetStream's place; its answer is passed over"
            );
            return;
        };
        if let Some(waiting) = waiters.remove(&number) {
            // the caller may have gone meanwhile
            let _ = waiting.tell.send(reply);
        }
    }
}

/// JetStream's answer; `None` if it is somebody else's.
fn read(message: &async_nats::Message, stream: &str) -> Option<Reply> {
    if message.status == Some(StatusCode::NO_RESPONDERS) {
        return Some(Reply::NobodyListens);
    }
    let ack: PubAck = serde_json::from_slice(&message.payload).ok()?;
    match ack {
        PubAck { error: Some(error), .. } => Some(Reply::Refused(error)),
        PubAck { stream: Some(of), seq: Some(sequence), duplicate, .. } if of == stream && sequence > 0 => {
            Some(Reply::Stored { sequence, duplicate })
        }
        PubAck { .. } => None,
    }
}
