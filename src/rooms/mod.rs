//! The use cases: what each call means, in terms of rooms, messages, subscribers and positions. Refuses to know tonic and
//! async-nats.

mod ending;
mod frame;
mod history;
mod life;
mod log_batches;
mod publish;
mod start;
mod subscribe;
mod subscribers;
mod subscription;
mod upstream;

use std::{sync::Arc, time::Duration};

use bytes::BytesMut;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub(crate) use self::{
    frame::Frame,
    life::{CreateRoom, RoomPage},
    subscribe::SubscribeOptions,
    subscribers::Session,
    subscription::{Frames, Subscription},
};
use self::{subscribers::Subscribers, upstream::Upstreams};
use crate::{
    domain::{Message, RoomId},
    error::{Error, Reason, Result},
    store::{PeerListener, Registered, Store},
};

/// Appends the form in which a message of a room, in this life of its log, goes out to every subscriber.
pub(crate) type Encode = fn(&RoomId, Option<i64>, Message, &mut BytesMut);

/// All use cases, for one instance of the service. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Rooms {
    store: Store,
    subscribers: Arc<Subscribers>,
    upstreams: Upstreams,
    encode: Encode,
    heartbeat_interval: Duration,
    /// The service is stopping: open subscriptions end.
    draining: CancellationToken,
}

impl Rooms {
    /// The use cases over `store`; their tasks run in `tasks` until `stop`, open subscriptions until `draining`.
    pub(crate) fn new(
        store: Store,
        peers: PeerListener,
        heartbeat_interval: Duration,
        encode: Encode,
        tasks: &TaskTracker,
        stop: &CancellationToken,
        draining: CancellationToken,
    ) -> Self {
        let subscribers = Arc::new(Subscribers::new(store.clone()));
        if store.has_jetstream() {
            tasks.spawn(Arc::clone(&subscribers).write_back(stop.clone()));
            tasks.spawn(Arc::clone(&subscribers).follow_owners(stop.clone()));
            tasks.spawn(Arc::clone(&subscribers).serve_peers(peers, stop.clone()));
        }
        let upstreams = Upstreams::new(store.clone(), encode, tasks.clone(), draining.clone());
        Self { store, subscribers, upstreams, encode, heartbeat_interval, draining }
    }

    /// Largest payload that can be published.
    pub(crate) fn payload_bytes_max(&self) -> usize {
        self.store.payload_bytes_max()
    }

    /// Writes every position back that is not yet. For the end of the service.
    pub(crate) async fn write_back_all(&self) {
        self.subscribers.write_back_all().await;
    }

    async fn persisted(&self, id: &RoomId) -> Result<Arc<Registered>> {
        let registered = self.store.registry.find(id).await?;
        if registered.room.persist {
            return Ok(registered);
        }
        Err(Error::new(
            Reason::RoomNotPersisted,
            "the room is ephemeral: it has no log, and so no sequences, positions or durable subscribers",
        ))
    }
}
