//! The connections beside the main one. Each is opened at its first use, and opened again when its client has died.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_nats::{Client, Subscriber, jetstream};
use futures_util::{FutureExt, StreamExt};
use tokio::{
    sync::{Mutex as AsyncMutex, Semaphore, watch},
    time::{self, Instant},
};
use tracing::warn;

use super::{
    connect::{self, NatsConfig},
    context,
    error::unavailable,
};
use crate::{
    domain::RoomId,
    error::{Error, Result},
    limits::{NATS_GRACE, PAGES_UNDER_WAY_BYTES_MAX, SUSPECT_ROOMS_MAX},
    metrics::{NatsLink, NatsMetrics},
    sync::lock,
};

/// How long a room stays suspect after it contained a message that the NATS client cannot parse.
const SUSPECTED_FOR: Duration = Duration::from_secs(600);

/// All connections beside the main one.
#[derive(Debug)]
pub(super) struct Links {
    /// Reads the logs of rooms.
    pub reading: Link,
    /// Receives messages of ephemeral rooms.
    pub live: Link,
    /// Receives messages of other instances and of the NATS server.
    pub system: Link,
    /// Reads the logs of suspect rooms.
    pub suspect: Link,
    pub suspects: Suspects,
    /// Permits for KiB of pages in flight over `reading`.
    pub page_budget: Semaphore,
}

impl Links {
    pub(super) fn new(config: &NatsConfig, metrics: &Arc<NatsMetrics>) -> Self {
        let link =
            |link| Link { link, config: config.clone(), metrics: Arc::clone(metrics), open: AsyncMutex::default() };
        Self {
            reading: link(NatsLink::Reading),
            live: link(NatsLink::Live),
            system: link(NatsLink::System),
            suspect: link(NatsLink::Suspect),
            suspects: Suspects::default(),
            page_budget: Semaphore::new(PAGES_UNDER_WAY_BYTES_MAX / 1024),
        }
    }
}

/// One connection.
#[derive(Debug)]
pub(super) struct Link {
    link: NatsLink,
    config: NatsConfig,
    metrics: Arc<NatsMetrics>,
    open: AsyncMutex<Option<OpenLink>>,
}

/// A client, its JetStream context, and how often it has connected.
pub(super) type NatsConnection = (Client, jetstream::Context, watch::Receiver<u64>);

#[derive(Debug)]
struct OpenLink {
    connection: NatsConnection,
    /// A subscription without messages. It ends when the client's task ends.
    alive: Subscriber,
}

impl Link {
    /// Returns the connection. Opens it if needed.
    ///
    /// # Errors
    /// `NATS_UNAVAILABLE` if no server is reached within [`NATS_GRACE`].
    ///
    /// # Cancel safety
    /// May be dropped at any point.
    pub(super) async fn connection(&self) -> Result<NatsConnection> {
        let mut slot = self.open.lock().await;
        if let Some(open) = &mut *slot {
            if open.alive.next().now_or_never().is_none() {
                return Ok(open.connection.clone());
            }
            warn!(connection = connect::name(self.link), "a NATS client of the service ended; a new one is made");
        }
        let connecting = async {
            let (client, mut connections) =
                connect::connect(&self.config, self.link, &self.metrics, Instant::now() + NATS_GRACE).await?;
            // the first connection is counted a little later, and must not be taken as a reconnection
            let _ = connections.wait_for(|count| *count > 0).await;
            let alive = client.subscribe(client.new_inbox()).await.map_err(|error| unavailable().because(error))?;
            Ok(OpenLink { connection: (client.clone(), context(&client), connections), alive })
        };
        let new = match time::timeout(NATS_GRACE, connecting).await {
            Ok(connected) => connected.map_err(|error: Error| unavailable().because(error))?,
            Err(elapsed) => return Err(unavailable().because(elapsed)),
        };
        let connection = new.connection.clone();
        *slot = Some(new);
        Ok(connection)
    }
}

/// The suspect rooms: they contain a message that the NATS client cannot parse. Their number is bounded, and each
/// stays suspect for [`SUSPECTED_FOR`].
#[derive(Debug, Default)]
pub(crate) struct Suspects(Mutex<HashMap<RoomId, Instant>>);

impl Suspects {
    /// Marks the room as suspect.
    pub(crate) fn add(&self, room: &RoomId) {
        let now = Instant::now();
        let mut found = lock(&self.0);
        if found.len() >= SUSPECT_ROOMS_MAX {
            found.retain(|_, since| now.duration_since(*since) < SUSPECTED_FOR);
        }
        if found.len() < SUSPECT_ROOMS_MAX || found.contains_key(room) {
            found.insert(room.clone(), now);
        }
    }

    pub(crate) fn contains(&self, room: &RoomId) -> bool {
        lock(&self.0).get(room).is_some_and(|since| since.elapsed() < SUSPECTED_FOR)
    }
}
