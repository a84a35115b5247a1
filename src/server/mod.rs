//! Starts the service (NATS, the use cases, the listeners), and stops it in order and in bounded time.

mod addresses;
mod admission;
mod authentication;
mod callers;
mod calls;
mod client;
mod client_socket;
mod coalesce;
mod compression;
pub(crate) mod config;
mod connect;
mod connections;
pub(crate) mod console;
pub(crate) mod cors;
mod deadline;
mod discard;
mod frames;
mod headers;
mod intake;
mod leaving;
mod listener;
mod live;
mod measure;
pub(crate) mod other;
mod pieces;
pub(crate) mod places;
mod refusal;
mod scrape;
pub(crate) mod socket;
pub(crate) mod tls;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use ::http::HeaderName;
use futures_util::FutureExt;
use tokio::time;
use tokio_util::{
    sync::CancellationToken,
    task::{AbortOnDropHandle, TaskTracker},
};
use tracing::{error, info, warn};

use self::{
    callers::Callers,
    config::Config,
    cors::CrossOriginLayer,
    discard::Discards,
    intake::budgets::Budgets,
    live::Live,
    other::OtherService,
    places::{Bounds, ConnectionsConfig, KeepaliveConfig},
    scrape::Scrape,
    socket::BoundAddress,
    tls::Tls,
};
use crate::{
    auth::{Auth, AuthMode},
    error::{Error, Reason, Result},
    grpc::{self, health::Health},
    http,
    limits::{ADMIN_CONNECTIONS_MAX, ADMIN_TIMEOUT, EXCESS_CONNECTIONS_MAX, OTHER_DESCRIPTORS, TLS_HANDSHAKES_MAX},
    metrics::{ConnectionMetrics, Metrics, calls::ServedMethods},
    nats::{
        Nats,
        connect::NatsConfig,
        embedded::{EmbeddedNats, EmbeddedNatsConfig},
    },
    rooms::{Rooms, RoomsSettings},
    store::Store,
    traces::Traces,
};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Interval at which the service checks the NATS connection for health.
const HEALTH_INTERVAL: Duration = Duration::from_millis(200);
/// Time limit of each shutdown step after the open calls have ended.
const CLEANUP_TIMEOUT: Duration = Duration::from_secs(5);

/// A running service. [`Server::shutdown`] drains and stops it. Dropping it stops it at once, without a drain.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use unibus::{Config, EmbeddedNatsConfig, Server, v1};
///
/// let config = Config {
///     listen: ([127, 0, 0, 1], 0).into(),
///     admin_listen: ([127, 0, 0, 1], 0).into(),
///     embedded: EmbeddedNatsConfig { data_dir: "some/empty/directory".into(), ..Default::default() },
///     ..Config::default()
/// };
/// let server = Server::bind(config).await?;
/// let url = format!("http://{}", server.local_addr());
/// let mut client = v1::room_service_client::RoomServiceClient::connect(url).await?;
/// client.create_room(v1::CreateRoomRequest { room_id: "general".into(), persist: true, ..Default::default() }).await?;
/// server.shutdown().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Server {
    local_addr: SocketAddr,
    admin_addr: SocketAddr,
    nats_url: String,
    drain_timeout: Duration,
    live: Live,
    health: Health,
    serving: AbortOnDropHandle<()>,
    admin: AbortOnDropHandle<()>,
    tasks: TaskTracker,
    stop: CancellationToken,
    broken: CancellationToken,
    draining: CancellationToken,
    embedded: Option<EmbeddedNats>,
    // the tasks end with the server even if `shutdown` is never called
    _stop_on_drop: tokio_util::sync::DropGuard,
}

impl Server {
    /// Starts the service: connects to NATS or starts the embedded nats-server, reads the registry, and binds both
    /// listeners. The service serves calls when this returns.
    ///
    /// # Errors
    /// After an error nothing is left running. `bind` fails when:
    /// - a field of `config` has a value that its flag refuses;
    /// - authentication is off and other machines can reach `listen`, unless `auth.insecure` is set;
    /// - a key or a TLS file cannot be read or used;
    /// - NATS cannot be reached or is too old;
    /// - the embedded nats-server cannot be started, or another process uses the data directory;
    /// - an address cannot be bound.
    pub async fn bind(config: Config) -> Result<Self> {
        // boxed, because the future is large and its callers hold it
        Box::pin(Self::assemble(config, None)).await
    }

    /// Starts the service with another gRPC service beside it, for the conformance tests of the protocols.
    ///
    /// # Errors
    /// Those of [`bind`](Self::bind).
    #[doc(hidden)]
    pub async fn bind_with(config: Config, other: OtherService) -> Result<Self> {
        Box::pin(Self::assemble(config, Some(other))).await
    }

    async fn assemble(config: Config, other: Option<OtherService>) -> Result<Self> {
        let config = config.checked()?;
        let metrics = Metrics::new(ServedMethods::new(grpc::served()));
        let has_certificates = config.tls.client_ca.is_some();
        let (auth, keys) = Auth::open(&config.auth, config.listen, has_certificates, &metrics.auth).await?;
        let tls = Tls::open(config.tls).await?;
        let socket = BoundAddress::new("listen", config.listen)?;
        let admin_socket = BoundAddress::new("admin_listen", config.admin_listen)?;
        let (local_addr, admin_addr) = (socket.local_addr()?, admin_socket.local_addr()?);

        let (nats_config, embedded) = reachable(config.nats, config.embedded).await?;
        let nats = Nats::connect(&nats_config, &metrics.nats).await?;

        warn_of_few_descriptors(config.connections.max, tls.is_some());
        let tasks = TaskTracker::new();
        let stop = CancellationToken::new();
        let draining = CancellationToken::new();
        let stop_on_drop = stop.clone().drop_guard();
        let (store, peer_requests) = Store::open(
            nats,
            usize::from(config.registry_replicas),
            nats_config.durability(),
            embedded.as_ref().map(EmbeddedNats::disk),
            &metrics.publish,
            &tasks,
            &stop,
        )
        .await?;
        let requests = (peer_requests, store.peers.listen().await?);
        let settings = RoomsSettings {
            config: config.rooms,
            heartbeat_interval: config.heartbeat_interval,
            encode: grpc::encode_message,
            decode_commands: grpc::decode_commands,
        };
        let rooms = Rooms::new(store.clone(), requests, settings, &metrics.delivery, &tasks, &stop, draining.clone());

        if let Some(keys) = keys {
            tasks.spawn(keys.keep_fresh(stop.clone()));
        }

        let health = Health::default();
        let broken = CancellationToken::new();
        tasks.spawn(follow_connection(store.clone(), health.clone(), broken.clone(), draining.clone()));

        let callers = Arc::new(Callers::new(config.rooms.limits.calls));
        let origins = CrossOriginLayer::new(&config.cors, &config.console.origins(admin_addr));
        let live =
            Live { auth: auth.clone(), callers: Arc::clone(&callers), origins: origins.clone(), rooms: rooms.clone() };
        let budgets = Arc::<Budgets>::default();
        let traces = Traces::open(&config.traces, &metrics.traces, &tasks, &stop)?;
        let layers = calls::Layers { auth, callers, cross_origin: origins, budgets: Arc::clone(&budgets), traces };
        let service = calls::calls(&rooms, &health, layers, &metrics, other)?;
        let bounds = Bounds {
            connections: config.connections,
            excess_max: EXCESS_CONNECTIONS_MAX,
            identifies: config.auth.mode == AuthMode::Enforce,
            keepalive: config.keepalive,
        };
        if let Some(tls) = &tls {
            tasks.spawn(tls.follow(stop.clone()));
        }
        let encrypted = tls.is_some();
        let (listener, admin_listener) = (socket.listen()?, admin_socket.listen()?);
        let discards = Discards::new(tasks.clone(), draining.clone());
        let connections = Arc::clone(&metrics.connections);
        let serving = listener::serve(listener, bounds, tls, service, discards.clone(), connections, draining.clone());
        let serving = AbortOnDropHandle::new(tasks.spawn(serving));
        let scrape = Scrape {
            metrics,
            store: store.clone(),
            rooms: rooms.clone(),
            budgets,
            embedded: embedded.as_ref().map(EmbeddedNats::status),
            connections_max: config.connections.max,
            draining: draining.clone(),
        };
        config.console.log(admin_addr);
        let console = config.console.routes(local_addr, encrypted);
        let admin = http::admin_routes(store, draining.clone(), Arc::new(move |format| scrape.text(format)));
        let admin = admin.merge(console);
        // these connections are not those of clients, and are counted nowhere
        let (uncounted, never) = (Arc::new(ConnectionMetrics::new()), CancellationToken::new());
        let admin = listener::serve(admin_listener, admin_bounds(), None, admin, discards, uncounted, never);
        let admin = AbortOnDropHandle::new(tasks.spawn(stop.clone().run_until_cancelled_owned(admin).map(drop)));

        info!(address = %local_addr, admin_address = %admin_addr, tls = encrypted, "listening");
        Ok(Self {
            local_addr,
            admin_addr,
            nats_url: nats_config.url.unwrap_or_default(),
            drain_timeout: config.drain_timeout,
            live,
            health,
            serving,
            admin,
            tasks,
            stop,
            broken,
            draining,
            embedded,
            _stop_on_drop: stop_on_drop,
        })
    }

    /// The address that serves gRPC, gRPC-Web and the HTTP history endpoint.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// The address that serves liveness, readiness and metrics.
    #[must_use]
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin_addr
    }

    /// The URL of the NATS server in use. The URL of the embedded nats-server contains user and password, so that
    /// native programs can connect.
    #[must_use]
    pub fn nats_url(&self) -> &str {
        &self.nats_url
    }

    /// Puts the fields of `config` in force that may change while the service runs: the rules for tokens and the
    /// administrators of `auth`, `cors`, `rooms.max_subscriptions`, and `rooms.limits`. The other fields are ignored. They apply
    /// to the next call; open calls keep the rights and limits with which they began.
    ///
    /// # Errors
    /// `INVALID_FIELD`, which names the fields with values that their flags refuse. Nothing has changed.
    pub fn reload(&self, config: Config) -> Result<()> {
        self.live.reload(config)
    }

    /// Completes when the service can no longer serve, because its listener or its NATS client has failed. The log
    /// contains the cause.
    ///
    /// # Cancel safety
    /// May be dropped at any point.
    pub async fn stopped(&mut self) {
        tokio::select! {
            _ = &mut self.serving => {}
            () = self.broken.cancelled() => {}
        }
    }

    /// Drains and stops the service. Takes at most `drain_timeout` and a few seconds.
    ///
    /// 1. Health reports `NOT_SERVING`.
    /// 2. Open subscriptions end with their position, and the other open calls finish.
    /// 3. The positions of `AUTO` subscribers are written back.
    /// 4. The embedded nats-server stops, if there is one.
    ///
    /// # Errors
    /// `DRAINING`, when calls were still open after `drain_timeout` and were cut off. The service is stopped all the
    /// same.
    pub async fn shutdown(self) -> Result<()> {
        info!("the service is draining: open calls may end before --drain-timeout");
        self.draining.cancel();
        // also ends the health watches, which would otherwise stay open calls forever
        self.health.stop();
        let abort = self.serving.abort_handle();
        let drained = time::timeout(self.drain_timeout, self.serving).await.is_ok();
        abort.abort();
        if time::timeout(CLEANUP_TIMEOUT, self.live.rooms.write_back_all()).await.is_err() {
            warn!(
                "not every position of AUTO subscribers was written; their subscriptions will get some messages again"
            );
        }
        self.stop.cancel();
        self.tasks.close();
        if time::timeout(CLEANUP_TIMEOUT, self.tasks.wait()).await.is_err() {
            warn!("some tasks of the service did not end in time and are dropped");
        }
        drop(self.admin);
        if let Some(embedded) = self.embedded {
            embedded.stop().await;
        }
        if drained {
            info!("stopped");
            return Ok(());
        }
        Err(Error::new(
            Reason::Draining,
            format!("calls were still open after --drain-timeout ({:?}) and were cut off", self.drain_timeout),
        ))
    }
}

/// Returns the NATS servers to connect to. Starts the embedded nats-server if `config` names none.
async fn reachable(config: NatsConfig, embedded: EmbeddedNatsConfig) -> Result<(NatsConfig, Option<EmbeddedNats>)> {
    if config.url.is_some() {
        return Ok((config, None));
    }
    let embedded = EmbeddedNats::start(embedded).await?;
    Ok((config.embedded(embedded.url()), Some(embedded)))
}

/// The file descriptors that the process needs, and how many it may open. `None`: any number.
pub(crate) fn descriptors(connections_max: u32, tls: bool) -> (u64, Option<u64>) {
    let handshakes = if tls { TLS_HANDSHAKES_MAX } else { 0 };
    let needed = u64::from(connections_max) + (EXCESS_CONNECTIONS_MAX + handshakes) as u64 + OTHER_DESCRIPTORS;
    (needed, rustix::process::getrlimit(rustix::process::Resource::Nofile).current)
}

/// Warns when the process may open fewer files than `--max-connections` needs: each connection is a file descriptor.
fn warn_of_few_descriptors(connections_max: u32, tls: bool) {
    let (needed, allowed) = descriptors(connections_max, tls);
    if let Some(allowed) = allowed.filter(|allowed| *allowed < needed) {
        warn!(
            allowed,
            needed, "the limit of open files is too low for --max-connections; raise the limit or lower the flag"
        );
    }
}

/// The bounds of the admin port, whose requests are short and answered at once.
fn admin_bounds() -> Bounds {
    Bounds {
        connections: ConnectionsConfig {
            max: ADMIN_CONNECTIONS_MAX,
            // so that one address cannot take every connection from the probes of another
            max_per_address: Some(ADMIN_CONNECTIONS_MAX / 4),
            max_streams: ADMIN_CONNECTIONS_MAX,
        },
        excess_max: 0,
        identifies: false,
        keepalive: KeepaliveConfig {
            interval: ADMIN_TIMEOUT / 2,
            timeout: ADMIN_TIMEOUT / 2,
            idle_timeout: ADMIN_TIMEOUT,
        },
    }
}

async fn follow_connection(store: Store, health: Health, broken: CancellationToken, draining: CancellationToken) {
    let mut was = true;
    loop {
        tokio::select! {
            () = draining.cancelled() => return,
            () = time::sleep(HEALTH_INTERVAL) => {}
        }
        let is = store.is_connected();
        if is != was {
            warn!(connected = is, "the NATS connection has changed; health reports it");
            health.report(is);
            was = is;
        }
        if store.has_died().await {
            error!(
                "the NATS client has died of a message that it received; the service stops and must be started again"
            );
            health.report(false);
            broken.cancel();
            return;
        }
    }
}
