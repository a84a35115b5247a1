//! The connections beside the main one, each made when it is first needed, and again when its client has died.

use std::{collections::HashMap, sync::Mutex, time::Duration};

use async_nats::{Client, Subscriber, jetstream};
use futures_util::{FutureExt, StreamExt};
use tokio::{
    sync::{Mutex as AsyncMutex, Semaphore, watch},
    time::{self, Instant},
};
use tracing::warn;

use super::{
    connect::{self, Target},
    context,
    error::unavailable,
};
use crate::{
    domain::RoomId,
    error::{Error, Result},
    limits::{NATS_GRACE, PAGES_UNDER_WAY_BYTES_MAX, SUSPECT_ROOMS_MAX},
    sync::lock,
};

/// How long a room is suspected after a message was found in it that the NATS client cannot parse.
const SUSPECTED_FOR: Duration = Duration::from_secs(600);

/// All connections beside the main one.
#[derive(Debug)]
pub(super) struct Links {
    /// Logs of rooms.
    pub reading: Link,
    /// Messages of ephemeral rooms.
    pub live: Link,
    /// What the instances and the NATS server tell.
    pub system: Link,
    /// Logs of the rooms that are suspected.
    pub suspect: Link,
    pub suspects: Suspects,
    /// KiB of pages that may be on their way over `reading`.
    pub page_budget: Semaphore,
}

impl Links {
    pub(super) fn new(target: &Target) -> Self {
        let link = |name| Link { name, target: target.clone(), current: AsyncMutex::default() };
        Self {
            reading: link("unibus reading"),
            live: link("unibus live"),
            system: link("unibus system"),
            suspect: link("unibus suspect"),
            suspects: Suspects::default(),
            page_budget: Semaphore::new(PAGES_UNDER_WAY_BYTES_MAX / 1024),
        }
    }
}

/// One connection.
#[derive(Debug)]
pub(super) struct Link {
    name: &'static str,
    target: Target,
    current: AsyncMutex<Option<Current>>,
}

/// A client, its JetStream context, and the count of its connections.
pub(super) type Connection = (Client, jetstream::Context, watch::Receiver<u64>);

#[derive(Debug)]
struct Current {
    connection: Connection,
    /// A subscription on which nothing comes: it ends when the client's task does.
    alive: Subscriber,
}

impl Link {
    /// The connection as it is now.
    ///
    /// # Errors
    /// `NATS_UNAVAILABLE` when no server is reached within a short grace.
    ///
    /// # Cancel safety
    /// May be dropped at any point.
    pub(super) async fn connection(&self) -> Result<Connection> {
        let mut current = self.current.lock().await;
        if let Some(current) = &mut *current {
            if current.alive.next().now_or_never().is_none() {
                return Ok(current.connection.clone());
            }
            warn!(connection = self.name, "a NATS client of the service ended; a new one is made");
        }
        let connecting = async {
            let (client, mut connections) =
                connect::connect(&self.target, self.name, Instant::now() + NATS_GRACE).await?;
            // the first connection is counted a little later, and must not look like a second one
            let _ = connections.wait_for(|count| *count > 0).await;
            let alive = client.subscribe(client.new_inbox()).await.map_err(|error| unavailable().because(error))?;
            Ok(Current { connection: (client.clone(), context(&client), connections), alive })
        };
        let new = match time::timeout(NATS_GRACE, connecting).await {
            Ok(connected) => connected.map_err(|error: Error| unavailable().because(error))?,
            Err(elapsed) => return Err(unavailable().because(elapsed)),
        };
        let connection = new.connection.clone();
        *current = Some(new);
        Ok(connection)
    }
}

/// The rooms in which a message was found that the NATS client cannot parse: a bounded number, and for a while each.
#[derive(Debug, Default)]
pub(crate) struct Suspects(Mutex<HashMap<RoomId, Instant>>);

impl Suspects {
    /// Such a message was found in the room.
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
