//! Reads a room's log from a position on, for as long as somebody asks.
//!
//! An ephemeral consumer without acknowledgements delivers; when anything about it is in doubt (a missed heartbeat, a new
//! connection, a jump in its own count) it is dropped and another is made at the next sequence. So nothing is lost or
//! doubled, whatever dies in between.

use std::time::Duration;

use async_nats::jetstream::{
    self, ErrorCode,
    consumer::{AckPolicy, DeliverPolicy, pull},
    stream::ConsumerErrorKind,
};
use futures_util::{FutureExt, StreamExt};
use tokio::{runtime::Handle, sync::watch, time};
use tokio_util::task::TaskTracker;
use tracing::debug;

use super::{
    message::Stored,
    nats::{ApiError, Nats, unavailable},
    signatures::{Attribution, Seal, Signatures},
    streams,
};
use crate::{
    domain::{Message, Room, RoomState},
    error::{Error, Reason, Result},
    limits::{READ_AHEAD_BYTES_MAX, READ_AHEAD_MESSAGES_MAX},
};

/// The server is silent for twice this before a consumer counts as lost.
const HEARTBEAT: Duration = Duration::from_secs(3);
const PULL_EXPIRES: Duration = Duration::from_secs(20);
/// An abandoned consumer goes after this.
const INACTIVE_THRESHOLD: Duration = Duration::from_secs(30);
/// How long NATS may be away before a reader gives up.
const OUTAGE_MAX: Duration = Duration::from_secs(30);
const RETRY_DELAY_MAX: Duration = Duration::from_secs(1);

/// A message and how many are stored after it.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub message: Message,
    pub pending: u64,
}

/// One reader of a room's log. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Reader {
    nats: Nats,
    signatures: Signatures,
    tasks: TaskTracker,
    room: Room,
    epoch: i64,
    /// The next sequence to ask for.
    next: u64,
    source: Option<Source>,
    /// Not given yet, since it is not known who published it.
    held: Option<(Arrival, Seal)>,
    /// Since when it has not been possible to read.
    down_since: Option<time::Instant>,
}

struct Source {
    _consumer: Abandon,
    messages: pull::Stream,
    /// The consumer's own count of the next message.
    delivery: u64,
    connections: watch::Receiver<u64>,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source").field("delivery", &self.delivery).finish_non_exhaustive()
    }
}

impl Reader {
    /// A reader of what comes after `position` in the life `epoch` of the room's log.
    pub(super) fn new(
        nats: &Nats,
        signatures: &Signatures,
        tasks: &TaskTracker,
        room: &Room,
        epoch: i64,
        position: u64,
    ) -> Self {
        Self {
            nats: nats.clone(),
            signatures: signatures.clone(),
            tasks: tasks.clone(),
            room: room.clone(),
            epoch,
            next: position + 1,
            source: None,
            held: None,
            down_since: None,
        }
    }

    /// The next message: ascending, each once. Waits for as long as there is none.
    ///
    /// # Errors
    /// `ROOM_RECREATED` when the log is gone or is another one; `NATS_UNAVAILABLE` when NATS was away for too long.
    ///
    /// # Cancel safety
    /// May be dropped at any point without losing a message.
    pub(crate) async fn next(&mut self) -> Result<Arrival> {
        loop {
            if let Some(arrival) = self.release().await {
                return Ok(arrival);
            }
            if self.source.is_none() {
                self.source = Some(self.open().await?);
            }
            let Some(source) = &mut self.source else { continue };
            let delivered = tokio::select! {
                biased;
                _ = source.connections.changed() => None,
                delivered = source.messages.next() => delivered,
            };
            match delivered {
                Some(Ok(message)) => {
                    if let Some(arrival) = self.take(message) {
                        return Ok(arrival);
                    }
                }
                Some(Err(error)) => {
                    debug!(room = %self.room.room_id, %error, "a reader begins again");
                    self.source = None;
                }
                None => self.source = None,
            }
        }
    }

    /// The next message if it is here already. What else there is to do is left to [`Self::next`].
    pub(crate) fn take_ready(&mut self) -> Option<Arrival> {
        while self.held.is_none() {
            let source = self.source.as_mut()?;
            if source.connections.has_changed().unwrap_or(true) {
                return None;
            }
            match source.messages.next().now_or_never()?? {
                Ok(message) => {
                    if let Some(arrival) = self.take(message) {
                        return Some(arrival);
                    }
                }
                Err(error) => {
                    debug!(room = %self.room.room_id, %error, "a reader begins again");
                    self.source = None;
                }
            }
        }
        None
    }

    /// What is held, as soon as everything that can be known of it is.
    async fn release(&mut self) -> Option<Arrival> {
        let (arrival, seal) = self.held.as_mut()?;
        self.signatures.attribute_surely(&self.room, &mut arrival.message, seal).await;
        self.held.take().map(|(arrival, _)| arrival)
    }

    /// Checks the delivery against the consumer's own count; a jump in it is a loss on the way.
    fn take(&mut self, message: jetstream::Message) -> Option<Arrival> {
        let source = self.source.as_mut()?;
        let (sequence, delivery, pending, published) = match message.info() {
            Ok(info) => (info.stream_sequence, info.consumer_sequence, info.pending, info.published),
            Err(error) => {
                debug!(%error, "a delivery without JetStream's information");
                self.source = None;
                return None;
            }
        };
        if delivery != source.delivery {
            self.source = None;
            return None;
        }
        source.delivery += 1;
        if sequence < self.next {
            return None;
        }
        self.next = sequence + 1;
        let delivered = message.message;
        let Stored { mut message, seal } =
            Stored::new(sequence, published.into(), delivered.headers.as_ref(), delivered.payload);
        if let Some(seal) = seal
            && self.signatures.attribute(&self.room, &mut message, &seal) == Attribution::UnknownKey
        {
            self.held = Some((Arrival { message, pending }, seal));
            return None;
        }
        Some(Arrival { message, pending })
    }

    async fn open(&mut self) -> Result<Source> {
        let give_up = *self.down_since.get_or_insert_with(time::Instant::now) + OUTAGE_MAX;
        let mut delay = Duration::from_millis(10);
        loop {
            let error = match self.try_open().await {
                Ok(source) => {
                    self.down_since = None;
                    return Ok(source);
                }
                Err(error) if is_final(&error) => return Err(error),
                Err(error) => error,
            };
            if time::Instant::now() + delay > give_up {
                return Err(error);
            }
            debug!(room = %self.room.room_id, %error, "a reader cannot begin yet");
            time::sleep(delay).await;
            delay = (delay * 2).min(RETRY_DELAY_MAX);
        }
    }

    async fn try_open(&self) -> Result<Source> {
        let mut connections = self.nats.connections();
        connections.mark_unchanged();
        self.nats.ready().await?;
        let state: RoomState = streams::look(&self.nats, &self.room).await?.ok_or_else(recreated)?;
        if state.epoch != self.epoch || state.last_sequence + 1 < self.next {
            return Err(recreated());
        }
        let stream_name = streams::name(&self.room.room_id);
        let stream =
            self.nats.jetstream.get_stream_no_info(&stream_name).await.map_err(|error| unavailable().because(error))?;
        let consumer = stream
            .create_consumer(pull::Config {
                description: Some("unibus reader".to_owned()),
                deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: self.next },
                ack_policy: AckPolicy::None,
                memory_storage: true,
                num_replicas: 1,
                inactive_threshold: INACTIVE_THRESHOLD,
                ..pull::Config::default()
            })
            .await
            .map_err(consumer_error)?;
        let bytes = READ_AHEAD_BYTES_MAX + self.nats.client.max_payload();
        let messages = consumer
            .stream()
            .max_messages_per_batch(READ_AHEAD_MESSAGES_MAX)
            .max_bytes_per_batch(bytes)
            .heartbeat(HEARTBEAT)
            .expires(PULL_EXPIRES)
            .messages()
            .await
            .map_err(|error| unavailable().because(error))?;
        let name = consumer.cached_info().name.clone();
        let consumer = Abandon { nats: self.nats.clone(), tasks: self.tasks.clone(), stream: stream_name, name };
        Ok(Source { _consumer: consumer, messages, delivery: 1, connections })
    }
}

/// Deletes the consumer when its reader is done with it, so that clients that come and go leave none behind; what this
/// misses goes after the inactivity threshold.
struct Abandon {
    nats: Nats,
    tasks: TaskTracker,
    stream: String,
    name: String,
}

impl Drop for Abandon {
    fn drop(&mut self) {
        // without a runtime the service is being torn down
        let Ok(runtime) = Handle::try_current() else { return };
        let (nats, stream, name) = (self.nats.clone(), self.stream.clone(), self.name.clone());
        let delete = async move {
            // gone already, or out of reach: either way nothing is left to do
            let _ = nats.delete_consumer(&stream, &name).await;
        };
        self.tasks.spawn_on(delete, &runtime);
    }
}

fn is_final(error: &Error) -> bool {
    !matches!(error.reason(), Reason::NatsUnavailable | Reason::Timeout)
}

fn recreated() -> Error {
    Error::new(
        Reason::RoomRecreated,
        "the room's log was deleted and began anew; positions of before mean nothing now, subscribe again",
    )
}

fn consumer_error(error: jetstream::stream::ConsumerError) -> Error {
    let refusal = match error.kind() {
        ConsumerErrorKind::JetStream(refusal) => refusal,
        ConsumerErrorKind::TimedOut
        | ConsumerErrorKind::Request
        | ConsumerErrorKind::InvalidConsumerType
        | ConsumerErrorKind::InvalidName
        | ConsumerErrorKind::Other => return unavailable().because(error),
    };
    if refusal.error_code() == ErrorCode::STREAM_NOT_FOUND {
        return recreated();
    }
    ApiError::Refused(refusal).into()
}
