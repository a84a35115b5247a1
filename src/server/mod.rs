//! Starts the service (NATS, the use cases, the listeners), and stops it in order and in bounded time.

mod addresses;
mod admission;
mod authentication;
mod callers;
mod calls;
mod checks;
mod client;
mod coalesce;
mod connections;
mod deadline;
mod discard;
mod frames;
mod headers;
mod held;
mod intake;
mod leaving;
mod listener;
mod places;
mod refusal;
mod socket;
mod stream;
mod tls;

use std::{net::SocketAddr, time::Duration};

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
    discard::Discards,
    places::Bounds,
    socket::BoundAddress,
    tls::{Tls, files::TlsFiles},
};
use crate::{
    auth::{self, Auth},
    config::{AuthMode, Config, NatsSync},
    domain::Durability,
    error::{Error, Reason, Result},
    grpc::{self, health::Health},
    http,
    limits::{
        ADMIN_CONNECTIONS_MAX, ADMIN_TIMEOUT, CALLS_PER_CALLER, CONNECTIONS_PER_ADDRESS_MAX,
        DURABLE_SUBSCRIBERS_PER_CALLER, EXCESS_CONNECTIONS_MAX, OTHER_DESCRIPTORS, READ_BYTES_PER_CALLER,
        READS_PER_CALLER, ROOMS_PER_CALLER, STORED_BYTES_PER_CALLER, SUBSCRIPTIONS_PER_CALLER, TLS_HANDSHAKES_MAX,
    },
    nats::{
        Nats,
        connect::Target,
        embedded::{EmbeddedNats, Options as EmbeddedOptions},
    },
    rooms::{Rooms, RoomsSettings, quotas::Quotas},
    store::Store,
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
/// use unibus::{Config, Server, v1};
///
/// let config = Config {
///     listen: ([127, 0, 0, 1], 0).into(),
///     admin_listen: ([127, 0, 0, 1], 0).into(),
///     data_dir: "some/empty/directory".into(),
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
    rooms: Rooms,
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
    /// - authentication is off and other machines can reach `listen`, unless `auth_insecure` is set;
    /// - a key or a TLS file cannot be read or used;
    /// - NATS cannot be reached or is too old;
    /// - the embedded nats-server cannot be started, or another process uses the data directory;
    /// - an address cannot be bound.
    pub async fn bind(config: Config) -> Result<Self> {
        // boxed, because the future is large and its callers hold it
        Box::pin(Self::assemble(config)).await
    }

    async fn assemble(config: Config) -> Result<Self> {
        checks::check(&config)?;
        let (auth, keys) = authentication(&config).await?;
        let tls = match tls_files(&config)? {
            Some(files) => Some(Tls::open(files).await?),
            None => None,
        };
        let socket = BoundAddress::new("listen", config.listen)?;
        let admin_socket = BoundAddress::new("admin_listen", config.admin_listen)?;
        let (local_addr, admin_addr) = (socket.local_addr()?, admin_socket.local_addr()?);

        let embedded = embedded(&config).await?;
        let target = target(&config, embedded.as_ref());
        let nats = Nats::connect(&target).await?;

        warn_of_few_descriptors(config.max_connections, tls.is_some());
        let tasks = TaskTracker::new();
        let stop = CancellationToken::new();
        let draining = CancellationToken::new();
        let stop_on_drop = stop.clone().drop_guard();
        let durability = durability(&config);
        let (store, peers) = Store::open(
            nats,
            usize::from(config.registry_replicas),
            durability,
            embedded.as_ref().map(EmbeddedNats::disk),
            &tasks,
            &stop,
        )
        .await?;
        let settings = settings(&config);
        let rooms = Rooms::new(store.clone(), peers, settings, &tasks, &stop, draining.clone());

        if let Some(keys) = keys {
            tasks.spawn(keys.keep_fresh(stop.clone()));
        }

        let health = Health::default();
        let broken = CancellationToken::new();
        tasks.spawn(follow_connection(store.clone(), health.clone(), broken.clone(), draining.clone()));

        let callers = Callers::new(config.quota(config.limit_calls, CALLS_PER_CALLER));
        let service = calls::calls(&rooms, &health, auth, callers)?;
        let bounds = bounds(&config);
        if let Some(tls) = &tls {
            tasks.spawn(tls.follow(stop.clone()));
        }
        let encrypted = tls.is_some();
        let (listener, admin_listener) = (socket.listen()?, admin_socket.listen()?);
        let discards = Discards::new(tasks.clone(), draining.clone());
        let serving = listener::serve(listener, bounds, tls, service, discards.clone(), draining.clone());
        let serving = AbortOnDropHandle::new(tasks.spawn(serving));
        let admin = http::admin_routes(store, draining.clone());
        let admin = listener::serve(admin_listener, admin_bounds(), None, admin, discards, CancellationToken::new());
        let admin = AbortOnDropHandle::new(tasks.spawn(stop.clone().run_until_cancelled_owned(admin).map(drop)));

        info!(address = %local_addr, admin_address = %admin_addr, tls = encrypted, "listening");
        Ok(Self {
            local_addr,
            admin_addr,
            nats_url: target.url,
            drain_timeout: config.drain_timeout,
            rooms,
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

    /// The address that serves liveness and readiness.
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
        if time::timeout(CLEANUP_TIMEOUT, self.rooms.write_back_all()).await.is_err() {
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

fn settings(config: &Config) -> RoomsSettings {
    RoomsSettings {
        heartbeat_interval: config.heartbeat_interval,
        subscriptions_max: config.max_subscriptions,
        payload_bytes_max: usize::try_from(config.payload_max).unwrap_or(usize::MAX),
        quotas: quotas(config),
        encode: grpc::encode_message,
    }
}

/// Starts the embedded nats-server, unless `nats_url` names another server.
async fn embedded(config: &Config) -> Result<Option<EmbeddedNats>> {
    if config.nats_url.is_some() {
        return Ok(None);
    }
    let (binary, data_dir) = (config.nats_server.clone(), config.data_dir.clone());
    Ok(Some(EmbeddedNats::start(EmbeddedOptions { binary, data_dir }).await?))
}

fn target(config: &Config, embedded: Option<&EmbeddedNats>) -> Target {
    let timeout = config.nats_connect_timeout;
    match embedded {
        Some(embedded) => Target { url: embedded.url().to_owned(), timeout, ..Target::default() },
        None => Target {
            url: config.nats_url.clone().unwrap_or_default(),
            timeout,
            credentials_file: config.nats_credentials.clone(),
            user: config.nats_user.clone(),
            password: config.nats_password.clone(),
            token: config.nats_token.clone(),
            nkey_file: config.nats_nkey_file.clone(),
            tls_ca: config.nats_tls_ca.clone(),
            tls_certificate: config.nats_tls_certificate.clone(),
            tls_key: config.nats_tls_key.clone(),
        },
    }
}

/// The authentication of callers, and the sources that keep its keys up to date. `--auth off` on an address that other
/// machines can reach requires `--auth-insecure`.
async fn authentication(config: &Config) -> Result<(Auth, Option<auth::Sources>)> {
    if config.auth == AuthMode::Enforce {
        let settings = auth::TokenSettings {
            keys: config.auth_keys.clone(),
            jwks: config.auth_jwks.clone(),
            jwks_refresh: config.auth_jwks_refresh,
            keys_max_age: config.auth_keys_max_age,
            issuer: config.auth_issuer.clone(),
            audience: config.auth_audience.clone(),
            leeway: config.auth_leeway,
            admins: config.auth_admins.clone(),
            admin_claim: config.auth_admin_claim.clone(),
            certificates: config.tls_client_ca.is_some(),
        };
        let (auth, sources) = Auth::enforce(&settings).await?;
        return Ok((auth, Some(sources)));
    }
    let is_local = config.listen.ip().to_canonical().is_loopback();
    if !is_local && !config.auth_insecure {
        return Err(Error::field(
            "auth",
            "is off, and other machines can reach --listen, so everybody could do everything; \
             set --auth enforce, or --auth-insecure if that is intended",
        ));
    }
    warn!(is_local, "authentication is off: every client that reaches --listen may do everything");
    Ok((Auth::off(), None))
}

/// The TLS files of the main port; `None` without TLS.
fn tls_files(config: &Config) -> Result<Option<TlsFiles>> {
    let client_ca = config.tls_client_ca.clone();
    match (&config.tls_certificate, &config.tls_key) {
        (Some(certificate), Some(key)) => Ok(Some(TlsFiles {
            certificate: certificate.clone(),
            key: key.clone(),
            client_ca,
            client_auth: config.tls_client_auth,
        })),
        (Some(_), None) => Err(Error::field("tls_key", "is missing; set it together with tls_certificate")),
        (None, Some(_)) => Err(Error::field("tls_certificate", "is missing; set it together with tls_key")),
        (None, None) if client_ca.is_some() => {
            Err(Error::field("tls_certificate", "is missing; tls_client_ca needs tls_certificate and tls_key"))
        }
        (None, None) => Ok(None),
    }
}

fn quotas(config: &Config) -> Quotas {
    Quotas {
        publishes: config.limit_publishes,
        publish_bytes: config.limit_publish_bytes,
        subscriptions: config.quota(config.limit_subscriptions, SUBSCRIPTIONS_PER_CALLER),
        durable_subscribers: config.quota(config.limit_durable_subscribers, DURABLE_SUBSCRIBERS_PER_CALLER),
        rooms: config.quota(config.limit_rooms, ROOMS_PER_CALLER),
        reads: config.quota(config.limit_reads, READS_PER_CALLER),
        read_bytes: config.quota(config.limit_read_bytes, READ_BYTES_PER_CALLER),
        stored_bytes: config.quota(config.limit_stored_bytes, STORED_BYTES_PER_CALLER),
    }
}

/// Warns when the process may open fewer files than `--max-connections` needs: each connection is a file descriptor.
fn warn_of_few_descriptors(connections_max: u32, tls: bool) {
    let handshakes = if tls { TLS_HANDSHAKES_MAX } else { 0 };
    let needed = u64::from(connections_max) + (EXCESS_CONNECTIONS_MAX + handshakes) as u64 + OTHER_DESCRIPTORS;
    let allowed = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    if let Some(allowed) = allowed.filter(|allowed| *allowed < needed) {
        warn!(
            allowed,
            needed, "the limit of open files is too low for --max-connections; raise the limit or lower the flag"
        );
    }
}

/// What an acknowledgement of a single nats-server guarantees. The embedded nats-server syncs before it acknowledges.
fn durability(config: &Config) -> Durability {
    match (&config.nats_url, config.nats_sync) {
        (None, _) | (Some(_), NatsSync::Always) => Durability::Synced,
        (Some(_), NatsSync::Interval) => Durability::Buffered,
        (Some(_), NatsSync::Unknown) => Durability::Unknown,
    }
}

fn bounds(config: &Config) -> Bounds {
    Bounds {
        connections_max: config.max_connections,
        excess_max: EXCESS_CONNECTIONS_MAX,
        connections_per_address_max: connections_per_address_max(config),
        calls_max: config.max_streams_per_connection,
        identifies: config.auth == AuthMode::Enforce,
        keepalive_interval: config.keepalive_interval,
        keepalive_timeout: config.keepalive_timeout,
        idle_timeout: config.idle_timeout,
    }
}

/// The bounds of the admin port, whose requests are short and answered at once.
fn admin_bounds() -> Bounds {
    Bounds {
        connections_max: ADMIN_CONNECTIONS_MAX,
        excess_max: 0,
        // so that one address cannot take every connection from the probes of another
        connections_per_address_max: Some(ADMIN_CONNECTIONS_MAX / 4),
        calls_max: ADMIN_CONNECTIONS_MAX,
        identifies: false,
        keepalive_interval: ADMIN_TIMEOUT / 2,
        keepalive_timeout: ADMIN_TIMEOUT / 2,
        idle_timeout: ADMIN_TIMEOUT,
    }
}

/// The maximum number of connections from one source address; `None` without a bound.
fn connections_per_address_max(config: &Config) -> Option<u32> {
    let default = if config.auth == AuthMode::Enforce { CONNECTIONS_PER_ADDRESS_MAX } else { 0 };
    Some(config.max_connections_per_address.unwrap_or(default)).filter(|max| *max > 0)
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
