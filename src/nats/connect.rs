//! Connects to NATS: addresses, credentials, TLS, and supported versions.

use std::{path::PathBuf, sync::Arc, time::Duration};

use async_nats::{Client, ConnectError, ConnectErrorKind, ConnectOptions, Event, ServerAddr, ServerError};
use clap::{Args, ValueEnum};
use percent_encoding::percent_decode_str;
use tokio::{
    sync::{mpsc, watch},
    time,
};
use tracing::{debug, info, warn};

use super::version::{VERSION_MIN, VERSION_TRUSTED, Version};
use crate::{
    domain::Durability,
    error::{Error, Reason, Result},
    limits::NATS_REQUEST_TIMEOUT,
    metrics::{NatsLink, NatsMetrics},
};

/// Maximum delay between two attempts to reconnect.
const RECONNECT_DELAY_MAX: Duration = Duration::from_millis(250);
const PING_INTERVAL: Duration = Duration::from_secs(5);

/// The NATS servers, and the credentials for them.
#[derive(Clone, Debug, Args)]
pub struct NatsConfig {
    /// NATS server or cluster, such as nats://a:4222,nats://b:4222; unset: the service runs its embedded nats-server
    #[arg(long = "nats-url", env = "UNIBUS_NATS_URL", value_name = "URLS")]
    pub url: Option<String>,

    /// How long the service tries to reach NATS when it starts, before it gives up
    #[arg(long = "nats-connect-timeout", env = "UNIBUS_NATS_CONNECT_TIMEOUT", value_name = "DURATION", default_value = "30s", value_parser = humantime::parse_duration)]
    pub connect_timeout: Duration,

    /// File with the NATS credentials: JWT and seed
    #[arg(long = "nats-credentials", env = "UNIBUS_NATS_CREDENTIALS", value_name = "FILE", requires = "url")]
    pub credentials: Option<PathBuf>,

    /// NATS user name
    #[arg(long = "nats-user", env = "UNIBUS_NATS_USER", value_name = "NAME", requires = "password", requires = "url")]
    pub user: Option<String>,

    /// NATS password
    #[arg(
        long = "nats-password",
        env = "UNIBUS_NATS_PASSWORD",
        value_name = "PASSWORD",
        hide_env_values = true,
        requires = "user"
    )]
    pub password: Option<String>,

    /// NATS token
    #[arg(
        long = "nats-token",
        env = "UNIBUS_NATS_TOKEN",
        value_name = "TOKEN",
        hide_env_values = true,
        requires = "url"
    )]
    pub token: Option<String>,

    /// File with the NATS nkey seed
    #[arg(long = "nats-nkey-file", env = "UNIBUS_NATS_NKEY_FILE", value_name = "FILE", requires = "url")]
    pub nkey_file: Option<PathBuf>,

    /// PEM file with the certificate authority of the NATS server; the service then requires TLS
    #[arg(long = "nats-tls-ca", env = "UNIBUS_NATS_TLS_CA", value_name = "FILE", requires = "url")]
    pub tls_ca: Option<PathBuf>,

    /// PEM file with the client certificate for NATS
    #[arg(
        long = "nats-tls-certificate",
        env = "UNIBUS_NATS_TLS_CERTIFICATE",
        value_name = "FILE",
        requires = "tls_key",
        requires = "url"
    )]
    pub tls_certificate: Option<PathBuf>,

    /// PEM file with the private key of `--nats-tls-certificate`
    #[arg(long = "nats-tls-key", env = "UNIBUS_NATS_TLS_KEY", value_name = "FILE", requires = "tls_certificate")]
    pub tls_key: Option<PathBuf>,

    /// When the external NATS server syncs its files to disk; publishers get it as the `durability` of an
    /// acknowledgement
    #[arg(long = "nats-sync", env = "UNIBUS_NATS_SYNC", value_name = "SYNC", value_enum, default_value_t = NatsSync::Unknown, requires = "url")]
    pub sync: NatsSync,
}

/// When an external NATS server syncs its files to disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum NatsSync {
    /// Unknown.
    Unknown,
    /// At intervals, which is the default of nats-server.
    Interval,
    /// Before each acknowledgement: `sync_interval: always`.
    Always,
}

impl Default for NatsConfig {
    fn default() -> Self {
        Self {
            url: None,
            connect_timeout: Duration::from_secs(30),
            credentials: None,
            user: None,
            password: None,
            token: None,
            nkey_file: None,
            tls_ca: None,
            tls_certificate: None,
            tls_key: None,
            sync: NatsSync::Unknown,
        }
    }
}

impl NatsConfig {
    /// Returns the configuration for the embedded nats-server at `url`. It syncs before it acknowledges.
    pub(crate) fn embedded(&self, url: &str) -> Self {
        let connect_timeout = self.connect_timeout;
        Self { url: Some(url.to_owned()), connect_timeout, sync: NatsSync::Always, ..Self::default() }
    }

    /// What an acknowledgement of a single nats-server guarantees.
    pub(crate) fn durability(&self) -> Durability {
        match self.sync {
            NatsSync::Always => Durability::Synced,
            NatsSync::Interval => Durability::Buffered,
            NatsSync::Unknown => Durability::Unknown,
        }
    }
}

/// Connects, and checks the server's version. Tries until `deadline`. The receiver holds the number of connections
/// made so far.
///
/// # Errors
/// `NATS_UNAVAILABLE` if no server answered in time, `INTERNAL` for unusable credentials or an old server. The
/// message is for the operator.
pub(super) async fn connect(
    config: &NatsConfig,
    link: NatsLink,
    metrics: &Arc<NatsMetrics>,
    deadline: time::Instant,
) -> Result<(Client, watch::Receiver<u64>)> {
    let of_link = Some((link, Arc::clone(metrics)));
    let (client, connections) = connect_as(config, name(link), deadline, None, of_link).await?;
    check_version(&client.server_info().version)?;
    Ok((client, connections))
}

/// As [`connect`], to a server of any version. `refusals` gets what the server refuses, such as a publish without
/// permission; what it has no space for is lost.
pub(super) async fn connect_unchecked(
    config: &NatsConfig,
    name: &'static str,
    deadline: time::Instant,
    refusals: Option<mpsc::Sender<String>>,
) -> Result<(Client, watch::Receiver<u64>)> {
    connect_as(config, name, deadline, refusals, None).await
}

/// Where the events of a connection are counted.
type CountedLink = (NatsLink, Arc<NatsMetrics>);

async fn connect_as(
    config: &NatsConfig,
    name: &'static str,
    deadline: time::Instant,
    refusals: Option<mpsc::Sender<String>>,
    of_link: Option<CountedLink>,
) -> Result<(Client, watch::Receiver<u64>)> {
    let (counter, connections) = watch::channel(0);
    let mut delay = Duration::from_millis(50);
    let (addresses, url_credentials) = addresses(config.url.as_deref().unwrap_or_default())?;
    let client = loop {
        let events =
            ConnectionEvents { name, of_link: of_link.clone(), counter: counter.clone(), refusals: refusals.clone() };
        let options = options(config, url_credentials.as_ref(), events).await?;
        let error = match options.connect(addresses.as_slice()).await {
            Ok(client) => break client,
            Err(error) => error,
        };
        if let Some(refusal) = refusal(&error) {
            return Err(Error::new(Reason::Internal, refusal).because(error));
        }
        if time::Instant::now() + delay > deadline {
            return Err(Error::new(
                Reason::NatsUnavailable,
                format!("no NATS server could be reached within {:?}; check --nats-url", config.connect_timeout),
            )
            .because(error));
        }
        warn!(%error, "NATS cannot be reached yet, trying again");
        time::sleep(delay).await;
        delay = (delay * 2).min(Duration::from_secs(1));
    };
    Ok((client, connections))
}

/// The reason for a failure that trying again cannot fix.
fn refusal(error: &ConnectError) -> Option<&'static str> {
    // rustls reports a certificate that one side rejects as invalid data
    let invalid_data = std::error::Error::source(error)
        .and_then(|source| source.downcast_ref::<std::io::Error>())
        .is_some_and(|source| source.kind() == std::io::ErrorKind::InvalidData);
    match error.kind() {
        ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
            Some("the NATS server refuses the credentials; check the --nats-... flags")
        }
        ConnectErrorKind::Tls => {
            Some("the TLS connection to the NATS server cannot be set up; check the --nats-tls-... flags")
        }
        ConnectErrorKind::Io if invalid_data => Some(
            "the service or the NATS server does not accept the certificate of the other; check the --nats-tls-... flags",
        ),
        ConnectErrorKind::Io
        | ConnectErrorKind::ServerParse
        | ConnectErrorKind::Dns
        | ConnectErrorKind::TimedOut
        | ConnectErrorKind::MaxReconnects => None,
    }
}

/// The name of a connection in the lists of the NATS server, and in the log.
pub(super) fn name(link: NatsLink) -> &'static str {
    match link {
        NatsLink::Main => "unibus",
        NatsLink::Reading => "unibus reading",
        NatsLink::Live => "unibus live",
        NatsLink::System => "unibus system",
        NatsLink::Suspect => "unibus suspect",
    }
}

/// Receives the events of a connection.
#[derive(Clone)]
struct ConnectionEvents {
    name: &'static str,
    of_link: Option<CountedLink>,
    counter: watch::Sender<u64>,
    refusals: Option<mpsc::Sender<String>>,
}

impl ConnectionEvents {
    fn note(&self, event: &Event) {
        if let Some((link, metrics)) = &self.of_link {
            count(event, *link, metrics);
        }
        if let (Some(refusals), Event::ServerError(ServerError::Other(refusal))) = (&self.refusals, event) {
            // a full channel loses it, as documented
            drop(refusals.try_send(refusal.clone()));
        }
        let connection = self.name;
        match event {
            Event::Connected => self.counter.send_modify(|count| *count += 1),
            Event::Disconnected | Event::SlowConsumer(_) | Event::ServerError(_) => {
                warn!(connection, %event, "NATS connection");
            }
            // one event for each attempt to reconnect
            Event::ClientError(_) => debug!(connection, %event, "NATS connection"),
            Event::LameDuckMode | Event::Draining | Event::Closed => info!(connection, %event, "NATS connection"),
        }
    }
}

fn count(event: &Event, link: NatsLink, metrics: &NatsMetrics) {
    match event {
        Event::Connected => {
            metrics.connects.inc(link);
            metrics.connected.set_number(link, 1);
        }
        Event::Disconnected => {
            metrics.disconnects.inc(link);
            metrics.connected.set_number(link, 0);
        }
        Event::Closed => metrics.connected.set_number(link, 0),
        Event::SlowConsumer(_) => metrics.slow_consumers.inc(link),
        Event::ServerError(_) => metrics.server_errors.inc(link),
        Event::ClientError(_) | Event::LameDuckMode | Event::Draining => {}
    }
}

pub(super) type UserAndPassword = (String, String);

/// The addresses without user and password, and the user and password separately. async-nats would ignore them in the
/// addresses, and log them.
pub(super) fn addresses(url: &str) -> Result<(Vec<ServerAddr>, Option<UserAndPassword>)> {
    let malformed = || Error::field("nats_url", "must be a list of NATS URLs, such as nats://a:4222,nats://b:4222");
    let mut credentials = None;
    let mut addresses = Vec::new();
    for given in url.split(',') {
        let address: ServerAddr = given.trim().parse().map_err(|_| malformed())?;
        if let (Some(user), Some(password)) = (address.username(), address.password()) {
            let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
            credentials = Some((decode(user), decode(password)));
        }
        let host = address.host();
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let bare = format!("{}://{host}:{}", address.scheme(), address.port());
        addresses.push(bare.parse().map_err(|_| malformed())?);
    }
    Ok((addresses, credentials))
}

async fn options(
    config: &NatsConfig,
    url_credentials: Option<&UserAndPassword>,
    events: ConnectionEvents,
) -> Result<ConnectOptions> {
    let mut options = ConnectOptions::new()
        .name(events.name)
        .custom_inbox_prefix("_INBOX_unibus")
        .ping_interval(PING_INTERVAL)
        .connection_timeout(NATS_REQUEST_TIMEOUT)
        .request_timeout(Some(NATS_REQUEST_TIMEOUT))
        .reconnect_delay_callback(|attempts| {
            Duration::from_millis(5)
                .saturating_mul(u32::try_from(attempts).unwrap_or(u32::MAX))
                .min(RECONNECT_DELAY_MAX)
        })
        .event_callback(move |event| {
            let events = events.clone();
            async move { events.note(&event) }
        });
    if let Some(path) = &config.credentials {
        options = options.credentials_file(path).await.map_err(|error| unreadable("nats_credentials", error))?;
    }
    let flag_credentials = config.user.clone().zip(config.password.clone());
    if let Some((user, password)) = flag_credentials.as_ref().or(url_credentials) {
        options = options.user_and_password(user.clone(), password.clone());
    }
    if let Some(token) = &config.token {
        options = options.token(token.clone());
    }
    if let Some(path) = &config.nkey_file {
        let seed = tokio::fs::read_to_string(path).await.map_err(|error| unreadable("nats_nkey_file", error))?;
        options = options.nkey(seed.trim().to_owned());
    }
    if let Some(path) = &config.tls_ca {
        options = options.add_root_certificates(path.clone()).require_tls(true);
    }
    if let (Some(certificate), Some(key)) = (&config.tls_certificate, &config.tls_key) {
        options = options.add_client_certificate(certificate.clone(), key.clone());
    }
    Ok(options)
}

fn unreadable(field: &str, error: std::io::Error) -> Error {
    Error::field(field, "cannot be read").because(error)
}

fn check_version(version: &str) -> Result<()> {
    let found = Version::of_server(version);
    if found < VERSION_MIN {
        return Err(Error::new(
            Reason::Internal,
            format!(
                "the NATS server has version {version}; unibus needs {VERSION_MIN} or newer, update the NATS server"
            ),
        ));
    }
    if found < VERSION_TRUSTED {
        warn!(
            version,
            "this NATS server can lose messages that it reported as synced; update it to {VERSION_TRUSTED} or newer"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_servers_are_refused() {
        for (version, good) in [
            ("2.13.9", false),
            ("1.99.0", false),
            ("", false),
            ("2.14.0", true),
            ("2.15.1-beta.2", true),
            ("3.0", true),
        ] {
            assert_eq!(check_version(version).is_ok(), good, "{version}");
        }
    }
}
