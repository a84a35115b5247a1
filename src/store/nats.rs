//! The connection to NATS: how it is made, whether it stands, and the JetStream API over it.

use std::{path::PathBuf, time::Duration};

use async_nats::{
    Client, ConnectError, ConnectErrorKind, ConnectOptions, Event, ServerAddr,
    client::FlushErrorKind,
    connection::State,
    jetstream::{
        self, ErrorCode,
        consumer::{IntoConsumerConfig, pull},
        context::RequestErrorKind,
        response::Response,
    },
};
use bytes::Bytes;
use percent_encoding::percent_decode_str;
use serde::{
    Serialize,
    de::{DeserializeOwned, IgnoredAny},
};
use serde_json::json;
use tokio::{sync::watch, time};
use tracing::{debug, info, warn};

use super::version::{VERSION_MIN, VERSION_TRUSTED, Version};
use crate::{
    error::{Error, Reason, Result},
    limits::{NATS_GRACE, NATS_REQUEST_TIMEOUT},
};

/// Reconnects are tried at least this often.
const RECONNECT_DELAY_MAX: Duration = Duration::from_millis(250);
const PING_INTERVAL: Duration = Duration::from_secs(5);

/// Where NATS is and how to be let in.
#[derive(Clone, Debug, Default)]
pub(crate) struct Target {
    /// One URL or several, separated by commas.
    pub url: String,
    /// How long to try for.
    pub timeout: Duration,
    pub credentials_file: Option<PathBuf>,
    pub user: Option<String>,
    pub password: Option<String>,
    pub token: Option<String>,
    pub nkey_file: Option<PathBuf>,
    pub tls_ca: Option<PathBuf>,
    pub tls_certificate: Option<PathBuf>,
    pub tls_key: Option<PathBuf>,
}

/// A connection to NATS that heals by itself. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Nats {
    pub(super) client: Client,
    pub(super) jetstream: jetstream::Context,
    connections: watch::Receiver<u64>,
    has_jetstream: bool,
}

impl Nats {
    /// Connects, and checks the server's version and whether it has JetStream.
    ///
    /// # Errors
    /// `NATS_UNAVAILABLE` when no server answered in time, `INTERNAL` for unusable credentials or an old server; the
    /// message is for the operator.
    pub(crate) async fn connect(target: &Target) -> Result<Self> {
        let (counter, connections) = watch::channel(0);
        let deadline = time::Instant::now() + target.timeout;
        let mut delay = Duration::from_millis(50);
        let (addresses, url_credentials) = addresses(&target.url)?;
        let client = loop {
            let options = options(target, url_credentials.as_ref(), counter.clone()).await?;
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
                    format!(
                        "no NATS server could be reached within {:?}; check --nats-url and its credentials",
                        target.timeout
                    ),
                )
                .because(error));
            }
            warn!(%error, "NATS cannot be reached yet, trying again");
            time::sleep(delay).await;
            delay = (delay * 2).min(Duration::from_secs(1));
        };
        check_version(&client.server_info().version)?;
        let jetstream = jetstream::context::ContextBuilder::new().timeout(NATS_REQUEST_TIMEOUT).build(client.clone());
        let mut nats = Self { client, jetstream, connections, has_jetstream: true };
        nats.has_jetstream = nats.probe(deadline).await?;
        info!(version = nats.client.server_info().version, jetstream = nats.has_jetstream, "connected to NATS");
        Ok(nats)
    }

    /// Whether JetStream was there when the service started.
    pub(crate) fn has_jetstream(&self) -> bool {
        self.has_jetstream
    }

    /// Refuses what needs JetStream when there is none.
    pub(super) fn require_jetstream(&self) -> Result<()> {
        if self.has_jetstream {
            return Ok(());
        }
        Err(Error::new(
            Reason::JetstreamMissing,
            "the NATS server runs without JetStream, so only ephemeral rooms can be used; enable JetStream on the server",
        ))
    }

    /// Whether the connection stands.
    pub(crate) fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// Whether the client has come to an end of its own, from which it does not come back: async-nats panics over a header
    /// value with a bare CR in it, which any program can publish.
    pub(crate) async fn has_died(&self) -> bool {
        // while there is no connection this waits
        let flushed = time::timeout(Duration::from_millis(100), self.client.flush()).await;
        matches!(flushed, Ok(Err(error)) if error.kind() == FlushErrorKind::SendError)
    }

    /// Counts connections: changes each time that the connection is made anew.
    pub(crate) fn connections(&self) -> watch::Receiver<u64> {
        self.connections.clone()
    }

    /// Returns when the connection stands.
    ///
    /// # Errors
    /// `NATS_UNAVAILABLE` after a short grace.
    ///
    /// # Cancel safety
    /// May be dropped at any point.
    pub(super) async fn ready(&self) -> Result<()> {
        if self.is_connected() {
            return Ok(());
        }
        let mut connections = self.connections.clone();
        let connected = async {
            while !self.is_connected() {
                // the sender lives as long as the client; the tick covers an event lost in between
                let _ = time::timeout(Duration::from_millis(50), connections.changed()).await;
            }
        };
        time::timeout(NATS_GRACE, connected).await.map_err(|_| unavailable())
    }

    /// Returns when the server has taken everything that was sent before on this connection, subscriptions above all.
    /// async-nats's `flush` ends at the socket; a question that nobody answers comes back from the server itself.
    pub(super) async fn settled(&self) -> Result<()> {
        match self.client.request("unibus.sys.nobody", Bytes::new()).await {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == async_nats::RequestErrorKind::NoResponders => Ok(()),
            Err(error) => Err(unavailable().because(error)),
        }
    }

    /// Largest payload that a message may have, headers aside.
    pub(crate) fn payload_bytes_max(&self) -> usize {
        self.client.max_payload().saturating_sub(crate::limits::HEADROOM_BYTES)
    }

    /// One request to the JetStream API; `subject` is without the `$JS.API` prefix.
    pub(super) async fn api<T, V>(&self, subject: String, request: &T) -> Result<V, ApiError>
    where
        T: Serialize + ?Sized,
        V: DeserializeOwned,
    {
        self.ready().await.map_err(|_| ApiError::Disconnected)?;
        match self.jetstream.request(subject, request).await {
            Ok(Response::Ok(value)) => Ok(value),
            Ok(Response::Err { error }) => Err(ApiError::Refused(error)),
            Err(error) => Err(match error.kind() {
                RequestErrorKind::NoResponders => ApiError::NoResponders,
                RequestErrorKind::TimedOut => ApiError::TimedOut,
                RequestErrorKind::InvalidSubject | RequestErrorKind::Other => ApiError::Other(error.into()),
            }),
        }
    }

    /// Creates a consumer that is named in its configuration, and does not exist yet with another.
    ///
    /// # Errors
    /// `CONSUMER_ALREADY_EXISTS` if it does.
    pub(super) async fn create_consumer(&self, stream: &str, config: pull::Config) -> Result<(), ApiError> {
        // by itself, the configuration of a pull consumer names some settings as NATS does not (async-nats 0.51)
        let config = config.into_consumer_config();
        let subject = format!("CONSUMER.CREATE.{stream}.{}", config.name.as_deref().unwrap_or_default());
        let request = json!({ "stream_name": stream, "config": config, "action": "create" });
        self.api::<_, IgnoredAny>(subject, &request).await.map(drop)
    }

    pub(super) async fn delete_consumer(&self, stream: &str, name: &str) -> Result<(), ApiError> {
        self.api::<_, IgnoredAny>(format!("CONSUMER.DELETE.{stream}.{name}"), &json!({})).await.map(drop)
    }

    /// Whether JetStream answers, waiting for a leader if the server says that it has JetStream.
    async fn probe(&self, deadline: time::Instant) -> Result<bool> {
        loop {
            let error = match self.api::<_, IgnoredAny>("INFO".to_owned(), &json!({})).await {
                Ok(_) => return Ok(true),
                Err(ApiError::Refused(error))
                    if matches!(
                        error.error_code(),
                        ErrorCode::JETSTREAM_NOT_ENABLED | ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT
                    ) =>
                {
                    return Ok(false);
                }
                Err(ApiError::NoResponders) if !self.client.server_info().jetstream => return Ok(false),
                Err(error) => error,
            };
            if time::Instant::now() > deadline {
                return Err(error.into());
            }
            time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Why a request to the JetStream API failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    #[error("not connected")]
    Disconnected,
    #[error("nobody answers")]
    NoResponders,
    #[error("no answer in time")]
    TimedOut,
    #[error(transparent)]
    Refused(#[from] jetstream::Error),
    #[error(transparent)]
    Other(Box<dyn std::error::Error + Send + Sync>),
}

impl ApiError {
    /// The error code of JetStream's refusal.
    pub(super) fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused(error) => Some(error.error_code()),
            Self::Disconnected | Self::NoResponders | Self::TimedOut | Self::Other(_) => None,
        }
    }

    pub(super) fn is(&self, code: ErrorCode) -> bool {
        self.code() == Some(code)
    }
}

impl From<ApiError> for Error {
    fn from(error: ApiError) -> Self {
        match &error {
            ApiError::Disconnected | ApiError::NoResponders => unavailable().because(error),
            ApiError::TimedOut => {
                Self::new(Reason::Timeout, "NATS did not answer in time; asking again is safe").because(error)
            }
            ApiError::Refused(refusal) => refused(refusal).because(error),
            ApiError::Other(_) => Error::internal().because(error),
        }
    }
}

/// What JetStream's refusals mean wherever the operation does not know better. Codes: nats-server `errors.json`.
fn refused(error: &jetstream::Error) -> Error {
    const SYSTEM_UNAVAILABLE: u64 = 10008;
    match error.error_code() {
        ErrorCode::STREAM_SUBJECT_OVERLAP => {
            Error::new(Reason::SubjectTaken, "subject: belongs to another stream on the NATS server; choose another")
        }
        ErrorCode::MAXIMUM_CONSUMERS_LIMIT => Error::limit_reached(
            "max_consumers",
            "the room has as many consumers as JetStream allows, for durable subscribers and open readers; \
             raise max_consumers of the NATS account, and then of the room's stream",
        ),
        ErrorCode::MAXIMUM_STREAMS_LIMIT => Error::limit_reached(
            "max_streams",
            "the NATS account has as many streams as it may; raise max_streams of the account",
        ),
        ErrorCode::STORAGE_RESOURCES_EXCEEDED
        | ErrorCode::ACCOUNT_RESOURCES_EXCEEDED
        | ErrorCode::INSUFFICIENT_RESOURCES
        | ErrorCode::STREAM_STORE_FAILED => Error::new(
            Reason::StorageFull,
            "the NATS server or account has no storage left; bound the rooms' retention or raise max_file",
        ),
        ErrorCode::STREAM_REPLICAS_NOT_SUPPORTED | ErrorCode::CLUSTER_NO_PEERS => Error::new(
            Reason::ReplicasUnavailable,
            "replicas: the NATS server is not part of a cluster with that many servers; give fewer",
        ),
        ErrorCode(SYSTEM_UNAVAILABLE) => unavailable(),
        _ if error.code() == 503 => unavailable(),
        _ => Error::internal(),
    }
}

pub(super) fn unavailable() -> Error {
    Error::new(Reason::NatsUnavailable, "NATS cannot be reached just now; nothing was done, try again shortly")
}

/// What is wrong with a connection that trying again will not mend.
fn refusal(error: &ConnectError) -> Option<&'static str> {
    // rustls reports a certificate that is not accepted, by either side, as invalid data
    let invalid_data = std::error::Error::source(error)
        .and_then(|source| source.downcast_ref::<std::io::Error>())
        .is_some_and(|source| source.kind() == std::io::ErrorKind::InvalidData);
    match error.kind() {
        ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
            Some("the NATS server refuses the credentials; check the --nats-... flags")
        }
        ConnectErrorKind::Tls => Some("TLS with the NATS server cannot be set up; check the --nats-tls-... flags"),
        ConnectErrorKind::Io if invalid_data => Some(
            "a certificate was not accepted between the service and the NATS server; check the --nats-tls-... flags",
        ),
        ConnectErrorKind::Io
        | ConnectErrorKind::ServerParse
        | ConnectErrorKind::Dns
        | ConnectErrorKind::TimedOut
        | ConnectErrorKind::MaxReconnects => None,
    }
}

type UserAndPassword = (String, String);

/// The addresses without user and password, which async-nats would ignore, and log; and these by themselves.
fn addresses(url: &str) -> Result<(Vec<ServerAddr>, Option<UserAndPassword>)> {
    let malformed = || Error::field("nats_url", "is not a list of NATS URLs such as nats://a:4222,nats://b:4222");
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
    target: &Target,
    url_credentials: Option<&UserAndPassword>,
    counter: watch::Sender<u64>,
) -> Result<ConnectOptions> {
    let mut options = ConnectOptions::new()
        .name("unibus")
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
            let counter = counter.clone();
            async move {
                match event {
                    Event::Connected => counter.send_modify(|count| *count += 1),
                    Event::Disconnected | Event::SlowConsumer(_) | Event::ServerError(_) => {
                        warn!(%event, "NATS connection");
                    }
                    // one for each attempt to connect anew
                    Event::ClientError(_) => debug!(%event, "NATS connection"),
                    Event::LameDuckMode | Event::Draining | Event::Closed => info!(%event, "NATS connection"),
                }
            }
        });
    if let Some(path) = &target.credentials_file {
        options = options.credentials_file(path).await.map_err(|error| unreadable("nats_credentials", error))?;
    }
    let flag_credentials = target.user.clone().zip(target.password.clone());
    if let Some((user, password)) = flag_credentials.as_ref().or(url_credentials) {
        options = options.user_and_password(user.clone(), password.clone());
    }
    if let Some(token) = &target.token {
        options = options.token(token.clone());
    }
    if let Some(path) = &target.nkey_file {
        let seed = tokio::fs::read_to_string(path).await.map_err(|error| unreadable("nats_nkey_file", error))?;
        options = options.nkey(seed.trim().to_owned());
    }
    if let Some(path) = &target.tls_ca {
        options = options.add_root_certificates(path.clone()).require_tls(true);
    }
    if let (Some(certificate), Some(key)) = (&target.tls_certificate, &target.tls_key) {
        options = options.add_client_certificate(certificate.clone(), key.clone());
    }
    Ok(options)
}

fn unreadable(field: &str, error: std::io::Error) -> Error {
    Error::field(field, "cannot be read").because(error)
}

fn check_version(version: &str) -> Result<()> {
    let mut numbers = version.split(['.', '-']).map_while(|part| part.parse().ok());
    let mut next = || numbers.next().unwrap_or(0);
    let found = Version { major: next(), minor: next(), patch: next() };
    if found < VERSION_MIN {
        return Err(Error::new(
            Reason::Internal,
            format!(
                "the NATS server is version {version}; unibus needs {VERSION_MIN} or newer, which can reset consumers"
            ),
        ));
    }
    if found < VERSION_TRUSTED {
        warn!(
            version,
            "NATS {VERSION_TRUSTED} or newer is recommended: older ones can lose messages that they said were synced"
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
