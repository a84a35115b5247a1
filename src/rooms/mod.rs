//! The use cases: the meaning of each call, in terms of rooms, messages, subscribers and positions. This module does
//! not use tonic or async-nats.

pub(crate) mod access;
pub(crate) mod consume;
pub(crate) mod durable_subscribers;
pub(crate) mod history;
pub(crate) mod life;
pub(crate) mod members;
pub(crate) mod publish;
pub(crate) mod quotas;
pub(crate) mod start;
pub(crate) mod stored;
pub(crate) mod subscribe;

use std::{ops::Deref, sync::Arc, time::Duration};

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    quotas::{Allowances, Quotas},
    stored::StoredBytes,
};
use crate::{
    store::{Store, subscribers::peers::PeerListener},
    subscriptions::{frame::Encode, limit::SubscriptionLimit, subscribers::Subscribers, upstream::Upstreams},
};

/// The settings of the use cases.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RoomsSettings {
    pub heartbeat_interval: Duration,
    /// Maximum number of open subscriptions of this instance.
    pub subscriptions_max: u32,
    /// Maximum payload in bytes. The NATS server's maximum also applies.
    pub payload_bytes_max: usize,
    /// The bounds for each caller.
    pub quotas: Quotas,
    pub encode: Encode,
}

/// All use cases, for one instance of the service. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Rooms(Arc<Inner>);

/// The state that the clones of [`Rooms`] share.
#[derive(Debug)]
pub(crate) struct Inner {
    store: Store,
    subscribers: Arc<Subscribers>,
    upstreams: Arc<Upstreams>,
    open_subscriptions: SubscriptionLimit,
    allowances: Arc<Allowances>,
    stored: StoredBytes,
    settings: RoomsSettings,
    tasks: TaskTracker,
    /// Cancelled when the service begins to stop. Open subscriptions then end.
    draining: CancellationToken,
}

impl Deref for Rooms {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        let Self(inner) = self;
        inner
    }
}

impl Rooms {
    /// Creates the use cases over `store`. Their tasks run in `tasks` until `stop`. Open subscriptions, at most
    /// `subscriptions_max`, run until `draining`.
    pub(crate) fn new(
        store: Store,
        peers: PeerListener,
        settings: RoomsSettings,
        tasks: &TaskTracker,
        stop: &CancellationToken,
        draining: CancellationToken,
    ) -> Self {
        let subscribers = Arc::new(Subscribers::new(store.clone(), settings.quotas.durable_subscribers));
        if store.has_jetstream() {
            tasks.spawn(Arc::clone(&subscribers).write_back(stop.clone()));
            tasks.spawn(Arc::clone(&subscribers).follow_holders(stop.clone()));
            tasks.spawn(Arc::clone(&subscribers).serve_peers(peers, stop.clone()));
        }
        let upstreams = Arc::new(Upstreams::new(store.clone(), settings.encode, tasks.clone(), draining.clone()));
        let open_subscriptions = SubscriptionLimit::new(settings.subscriptions_max, settings.quotas.subscriptions);
        let allowances = Arc::new(Allowances::new(settings.quotas));
        tasks.spawn(Arc::clone(&allowances).forget_idle(stop.clone()));
        let stored = StoredBytes::new(settings.quotas.stored_bytes);
        let tasks = tasks.clone();
        Self(Arc::new(Inner {
            store,
            subscribers,
            upstreams,
            open_subscriptions,
            allowances,
            stored,
            settings,
            tasks,
            draining,
        }))
    }

    /// Maximum payload of a message, in bytes.
    pub(crate) fn payload_bytes_max(&self) -> usize {
        self.store.payload_bytes_max().min(self.settings.payload_bytes_max)
    }

    /// Writes every unwritten position. For the stop of the service.
    pub(crate) async fn write_back_all(&self) {
        self.subscribers.write_back_all().await;
    }
}
