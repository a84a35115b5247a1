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
pub(crate) mod sessions;
pub(crate) mod start;
pub(crate) mod stored;
pub(crate) mod subscribe;

use std::{ops::Deref, sync::Arc, time::Duration};

use clap::Args;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    quotas::{Allowances, CallerLimits},
    sessions::{DecodeCommands, Sessions},
    stored::StoredBytes,
};
use crate::{
    error::Violations,
    flags,
    limits::PAYLOAD_BYTES_MAX,
    metrics::{DeliveryMetrics, InstanceLimit, UsageMetrics},
    store::{Store, peers::PeerListener, sessions::ForwardedCommands, subscribers::peers::PeerRequest},
    subscriptions::{frame::Encode, limit::SubscriptionLimit, subscribers::Subscribers, upstream::Upstreams},
};

/// The bounds of the use cases.
#[derive(Clone, Copy, Debug, Args)]
pub struct RoomsConfig {
    /// Open subscriptions of all clients together; further subscriptions are refused
    #[arg(long, env = "UNIBUS_MAX_SUBSCRIPTIONS", value_name = "COUNT", default_value_t = 100_000, value_parser = flags::count())]
    pub max_subscriptions: u32,

    /// The quotas of each caller
    #[command(flatten)]
    pub limits: CallerLimits,

    /// Largest payload in bytes, if the NATS server accepts it; default gRPC clients read messages of at most 4 MiB
    #[arg(long, env = "UNIBUS_PAYLOAD_MAX", value_name = "BYTES", default_value_t = PAYLOAD_BYTES_MAX, value_parser = flags::count())]
    pub payload_max: u32,
}

impl Default for RoomsConfig {
    fn default() -> Self {
        Self { max_subscriptions: 100_000, limits: CallerLimits::default(), payload_max: PAYLOAD_BYTES_MAX }
    }
}

impl RoomsConfig {
    /// Adds the fields with values that their flags refuse to `wrong`.
    pub(crate) fn check(&self, wrong: &mut Violations) {
        flags::check_count("max_subscriptions", self.max_subscriptions, wrong);
        self.limits.check(wrong);
        flags::check_count("payload_max", self.payload_max, wrong);
    }

    /// Returns the bounds in force. An unset limit of a caller gets its default, which depends on `is_enforced`: whether
    /// callers must authenticate.
    pub(crate) fn in_force(self, is_enforced: bool) -> Self {
        Self { limits: self.limits.in_force(is_enforced), ..self }
    }
}

/// The part of the configuration that the use cases read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RoomsSettings {
    /// The bounds, with every default applied.
    pub config: RoomsConfig,
    /// The longest time without a frame on a subscription.
    pub heartbeat_interval: Duration,
    /// Encodes a message for its subscriptions.
    pub encode: Encode,
    /// Decodes the commands of a session that another instance forwards.
    pub decode_commands: DecodeCommands,
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
    sessions: Arc<Sessions>,
    metrics: Arc<DeliveryMetrics>,
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
    /// Creates the use cases over `store`, which also serve the requests of other instances. Their tasks run in `tasks`
    /// until `stop`. Open subscriptions, at most `max_subscriptions`, run until `draining`.
    pub(crate) fn new(
        store: Store,
        (peers, session_commands): (PeerListener<PeerRequest>, PeerListener<ForwardedCommands>),
        settings: RoomsSettings,
        metrics: &Arc<DeliveryMetrics>,
        tasks: &TaskTracker,
        stop: &CancellationToken,
        draining: CancellationToken,
    ) -> Self {
        let RoomsConfig { max_subscriptions, limits, .. } = settings.config;
        let subscribers = Arc::new(Subscribers::new(store.clone(), limits.durable_subscribers, metrics));
        if store.has_jetstream() {
            tasks.spawn(Arc::clone(&subscribers).write_back(stop.clone()));
            tasks.spawn(Arc::clone(&subscribers).follow_holders(stop.clone()));
            tasks.spawn(Arc::clone(&subscribers).serve_peers(peers, stop.clone()));
        }
        let sessions = Arc::new(Sessions::default());
        tasks.spawn(Arc::clone(&sessions).serve(session_commands, settings.decode_commands, stop.clone()));
        let upstreams = Upstreams::new(store.clone(), settings.encode, metrics, tasks.clone(), draining.clone());
        let upstreams = Arc::new(upstreams);
        let open_subscriptions = SubscriptionLimit::new(max_subscriptions, limits.subscriptions);
        let allowances = Arc::new(Allowances::new(&limits));
        tasks.spawn(Arc::clone(&allowances).forget_idle(stop.clone()));
        let stored = StoredBytes::new(limits.stored_bytes);
        let (metrics, tasks) = (Arc::clone(metrics), tasks.clone());
        Self(Arc::new(Inner {
            store,
            subscribers,
            upstreams,
            open_subscriptions,
            allowances,
            stored,
            sessions,
            metrics,
            settings,
            tasks,
            draining,
        }))
    }

    /// Changes the bounds that may change while the service runs: those of subscriptions and of each caller.
    pub(crate) fn set_bounds(&self, bounds: &RoomsConfig) {
        let RoomsConfig { max_subscriptions, limits, payload_max: _ } = bounds;
        self.open_subscriptions.set(*max_subscriptions, limits.subscriptions);
        self.subscribers.set_max_of_endpoint(limits.durable_subscribers);
        self.allowances.set(limits);
        self.stored.set_max(limits.stored_bytes);
    }

    /// Maximum payload of a message, in bytes.
    pub(crate) fn payload_bytes_max(&self) -> usize {
        let configured = usize::try_from(self.settings.config.payload_max).unwrap_or(usize::MAX);
        self.store.payload_bytes_max().min(configured)
    }

    /// Sets what the use cases hold now.
    pub(crate) fn read_usage(&self, usage: &UsageMetrics) {
        self.upstreams.read_lags();
        usage.limit_used.set_number(InstanceLimit::RingBytes, self.upstreams.ring_bytes() as u64);
        let (open, max) = self.open_subscriptions.used_of_max();
        usage.limit_used.set_number(InstanceLimit::Subscriptions, open);
        usage.limit_max.set_known(InstanceLimit::Subscriptions, max);
    }

    /// Writes every unwritten position. For the stop of the service.
    pub(crate) async fn write_back_all(&self) {
        self.subscribers.write_back_all().await;
    }
}
