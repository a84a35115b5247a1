//! Connects to NATS: addresses, credentials, TLS, and supported versions.

use std::{path::PathBuf, time::Duration};

use async_nats::{Client, ConnectError, ConnectErrorKind, ConnectOptions, Event, ServerAddr};
use percent_encoding::percent_decode_str;
use tokio::{sync::watch, time};
use tracing::{debug, info, warn};

use super::version::{VERSION_MIN, VERSION_TRUSTED, Version};
use crate::{
    error::{Error, Reason, Result},
    limits::NATS_REQUEST_TIMEOUT,
};

/// Maximum delay between two attempts to reconnect.
const RECONNECT_DELAY_MAX: Duration = Duration::from_millis(250);
const PING_INTERVAL: Duration = Duration::from_secs(5);

/// The addresses of the NATS servers, and the credentials.
#[derive(Clone, Debug, Default)]
pub(crate) struct Target {
    /// One URL or several, separated by commas.
    pub url: String,
    /// How long to try to connect.
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

/// Connects, and checks the server's version. Tries until `deadline`. The receiver holds the number of connections
/// made so far.
///
/// # Errors
/// `NATS_UNAVAILABLE` if no server answered in time, `INTERNAL` for unusable credentials or an old server. The
/// message is for the operator.
pub(super) async fn connect(
    target: &Target,
    name: &str,
    deadline: time::Instant,
) -> Result<(Client, watch::Receiver<u64>)> {
    let (counter, connections) = watch::channel(0);
    let mut delay = Duration::from_millis(50);
    let (addresses, url_credentials) = addresses(&target.url)?;
    let client = loop {
        let options = options(target, name, url_credentials.as_ref(), counter.clone()).await?;
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
                format!("no NATS server could be reached within {:?}; check --nats-url", target.timeout),
            )
            .because(error));
        }
        warn!(%error, "NATS cannot be reached yet, trying again");
        time::sleep(delay).await;
        delay = (delay * 2).min(Duration::from_secs(1));
    };
    check_version(&client.server_info().version)?;
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

type UserAndPassword = (String, String);

/// The addresses without user and password, and the user and password separately. async-nats would ignore them in the
/// addresses, and log them.
fn addresses(url: &str) -> Result<(Vec<ServerAddr>, Option<UserAndPassword>)> {
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
    target: &Target,
    name: &str,
    url_credentials: Option<&UserAndPassword>,
    counter: watch::Sender<u64>,
) -> Result<ConnectOptions> {
    let connection = name.to_owned();
    let mut options = ConnectOptions::new()
        .name(name)
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
            let (counter, connection) = (counter.clone(), connection.clone());
            async move {
                match event {
                    Event::Connected => counter.send_modify(|count| *count += 1),
                    Event::Disconnected | Event::SlowConsumer(_) | Event::ServerError(_) => {
                        warn!(connection, %event, "NATS connection");
                    }
                    // one event for each attempt to reconnect
                    Event::ClientError(_) => debug!(connection, %event, "NATS connection"),
                    Event::LameDuckMode | Event::Draining | Event::Closed => {
                        info!(connection, %event, "NATS connection");
                    }
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
