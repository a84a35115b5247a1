//! The consumer of a reader, and the messages that were read ahead from it.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use async_nats::jetstream::{
    self, ErrorCode,
    consumer::{
        AckPolicy, DeliverPolicy,
        pull::{self, MessagesError},
    },
    stream::{ConsumerError, ConsumerErrorKind},
};
use futures_util::{Stream, StreamExt};
use tokio::{runtime::Handle, sync::watch};
use tokio_util::task::TaskTracker;

use super::recreated;
use crate::{
    domain::Room,
    error::{Error, Result},
    limits::{READ_AHEAD_BYTES_MAX, READ_AHEAD_MESSAGES_MAX},
    nats::{
        Nats,
        error::{ApiError, unavailable},
    },
    store::log::backlogs::{BacklogTurns, ReadAhead},
};

/// A consumer is lost if the server is silent for twice this interval.
const HEARTBEAT: Duration = Duration::from_secs(3);
const PULL_EXPIRES: Duration = Duration::from_secs(20);
/// The server deletes an abandoned consumer after this time.
const INACTIVE_THRESHOLD: Duration = Duration::from_secs(30);

/// The source of a reader.
pub(super) struct LogConsumer {
    pub messages: ReadAhead<Messages>,
    /// The consumer's own number of the next message.
    pub delivery: u64,
    pub connections: watch::Receiver<u64>,
    /// The connection was lost. Messages that arrived over it are still valid.
    pub is_cut: bool,
}

impl fmt::Debug for LogConsumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogConsumer").field("delivery", &self.delivery).finish_non_exhaustive()
    }
}

impl LogConsumer {
    /// Waits for the reader's turn, and creates a consumer that starts at the sequence `next`.
    pub(super) async fn open(
        nats: &Nats,
        tasks: &TaskTracker,
        turns: Option<&BacklogTurns>,
        room: &Room,
        next: u64,
    ) -> Result<Self> {
        let reading = nats.reading(&room.room_id).await?;
        let message_bytes_max = reading.client.max_payload();
        let turn = match turns {
            Some(turns) => Some(turns.turn(message_bytes_max).await),
            None => None,
        };
        let bytes = turn.as_ref().map_or(READ_AHEAD_BYTES_MAX + message_bytes_max, |turn| turn.bytes);
        let mut connections = reading.connections();
        connections.mark_unchanged();
        reading.ready().await?;
        let stream_name = room.stream.to_string();
        let stream =
            reading.jetstream.get_stream_no_info(&stream_name).await.map_err(|error| unavailable().because(error))?;
        let consumer = stream
            .create_consumer(pull::Config {
                description: Some("unibus reader".to_owned()),
                deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: next },
                ack_policy: AckPolicy::None,
                memory_storage: true,
                num_replicas: 1,
                inactive_threshold: INACTIVE_THRESHOLD,
                ..pull::Config::default()
            })
            .await
            .map_err(consumer_error)?;
        let delivered = consumer
            .stream()
            .max_messages_per_batch(READ_AHEAD_MESSAGES_MAX)
            .max_bytes_per_batch(bytes)
            .heartbeat(HEARTBEAT)
            .expires(PULL_EXPIRES)
            .messages()
            .await
            .map_err(|error| unavailable().because(error))?;
        let name = consumer.cached_info().name.clone();
        let consumer = Abandon { nats: nats.clone(), tasks: tasks.clone(), stream: stream_name, name };
        let messages = ReadAhead::new(Messages { delivered, _consumer: consumer }, turn);
        Ok(Self { messages, delivery: 1, connections, is_cut: false })
    }
}

/// The messages of a consumer.
pub(super) struct Messages {
    delivered: pull::Stream,
    _consumer: Abandon,
}

impl fmt::Debug for Messages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Messages").finish_non_exhaustive()
    }
}

impl Stream for Messages {
    type Item = Result<jetstream::Message, MessagesError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.delivered.poll_next_unpin(cx)
    }
}

/// Deletes the consumer when its reader drops it, so that clients that come and go leave no consumers. The inactivity
/// threshold removes the rest.
struct Abandon {
    nats: Nats,
    tasks: TaskTracker,
    stream: String,
    name: String,
}

impl Drop for Abandon {
    fn drop(&mut self) {
        // without a runtime the service is shutting down
        let Ok(runtime) = Handle::try_current() else { return };
        let (nats, stream, name) = (self.nats.clone(), self.stream.clone(), self.name.clone());
        let delete = async move {
            // the consumer is gone, or NATS is unavailable; nothing else can be done
            let _ = nats.delete_consumer(&stream, &name).await;
        };
        self.tasks.spawn_on(delete, &runtime);
    }
}

fn consumer_error(error: ConsumerError) -> Error {
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
