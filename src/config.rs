//! Flags and environment variables.
//!
//! The doc comments of [`Config`] are the text of `--help`. This module does not use async-nats or tonic.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Parser, ValueEnum};

use crate::limits::{HEARTBEAT_INTERVAL_MIN, PAYLOAD_BYTES_MAX};

/// Rooms over gRPC on NATS JetStream.
///
/// Without --nats-url the service runs its embedded nats-server, on loopback, with its data under --data-dir.
#[derive(Clone, Debug, Parser)]
#[command(name = "unibus", version, max_term_width = 100)]
pub struct Config {
    /// Address and port for gRPC, gRPC-Web and the HTTP history endpoint; port 0 picks a free port
    #[arg(long, env = "UNIBUS_LISTEN", value_name = "ADDRESS", default_value = "127.0.0.1:50051")]
    pub listen: SocketAddr,

    /// Address and port for /livez and /readyz; port 0 picks a free port
    #[arg(long, env = "UNIBUS_ADMIN_LISTEN", value_name = "ADDRESS", default_value = "127.0.0.1:50052")]
    pub admin_listen: SocketAddr,

    /// Whether callers must authenticate: with `off` every caller may do everything, with `enforce` every call needs
    /// a token or a client certificate
    #[arg(long, env = "UNIBUS_AUTH", value_name = "MODE", value_enum, default_value_t = AuthMode::Off)]
    pub auth: AuthMode,

    /// PEM files with the public keys that verify tokens: Ed25519, ECDSA on P-256, or RSA
    #[arg(long, env = "UNIBUS_AUTH_KEYS", value_name = "FILES", value_delimiter = ',')]
    pub auth_keys: Vec<PathBuf>,

    /// Key set (JWKS) with the public keys that verify tokens: a file or a URL; a URL must be https, or http on this
    /// machine
    #[arg(long, env = "UNIBUS_AUTH_JWKS", value_name = "FILE|URL")]
    pub auth_jwks: Option<String>,

    /// How often the key set at a URL is fetched
    #[arg(long, env = "UNIBUS_AUTH_JWKS_REFRESH", value_name = "DURATION", default_value = "5m", value_parser = positive_duration)]
    pub auth_jwks_refresh: Duration,

    /// How long keys stay valid after their file or URL can no longer be read
    #[arg(long, env = "UNIBUS_AUTH_KEYS_MAX_AGE", value_name = "DURATION", default_value = "1h", value_parser = positive_duration)]
    pub auth_keys_max_age: Duration,

    /// The only accepted issuer (`iss`) of tokens; unset: every issuer that signs with one of the keys
    #[arg(long, env = "UNIBUS_AUTH_ISSUER", value_name = "NAME")]
    pub auth_issuer: Option<String>,

    /// The required audience (`aud`) of tokens; unset: tokens with an audience are refused
    #[arg(long, env = "UNIBUS_AUTH_AUDIENCE", value_name = "NAME")]
    pub auth_audience: Option<String>,

    /// Allowed difference of clocks: a token is valid from this time before `nbf` until this time after `exp`; at
    /// most 5m
    #[arg(long, env = "UNIBUS_AUTH_LEEWAY", value_name = "DURATION", default_value = "30s", value_parser = humantime::parse_duration)]
    pub auth_leeway: Duration,

    /// Ids of the administrators, who may do everything in every room
    #[arg(long, env = "UNIBUS_AUTH_ADMINS", value_name = "IDS", value_delimiter = ',')]
    pub auth_admins: Vec<String>,

    /// Claim that makes the holder of a token an administrator. `NAME`: the claim must be true. `NAME=VALUE`: the
    /// claim must be VALUE, or a list that contains VALUE
    #[arg(long, env = "UNIBUS_AUTH_ADMIN_CLAIM", value_name = "NAME[=VALUE]")]
    pub auth_admin_claim: Option<String>,

    /// Allow `--auth off` on an address that other machines can reach
    #[arg(long, env = "UNIBUS_AUTH_INSECURE")]
    pub auth_insecure: bool,

    /// PEM file with the service's certificate chain; the service then accepts only TLS connections. A changed file
    /// is read again
    #[arg(long, env = "UNIBUS_TLS_CERTIFICATE", value_name = "FILE", requires = "tls_key")]
    pub tls_certificate: Option<PathBuf>,

    /// PEM file with the private key of `--tls-certificate`
    #[arg(long, env = "UNIBUS_TLS_KEY", value_name = "FILE", requires = "tls_certificate")]
    pub tls_key: Option<PathBuf>,

    /// PEM file with the authorities that sign client certificates; the service then asks clients for a certificate
    #[arg(long, env = "UNIBUS_TLS_CLIENT_CA", value_name = "FILE", requires = "tls_certificate")]
    pub tls_client_ca: Option<PathBuf>,

    /// Whether a client must present a certificate if `--tls-client-ca` is set; an invalid certificate is always
    /// refused
    #[arg(long, env = "UNIBUS_TLS_CLIENT_AUTH", value_name = "MODE", value_enum, default_value_t = ClientAuth::Required)]
    pub tls_client_auth: ClientAuth,

    /// NATS server or cluster, such as nats://a:4222,nats://b:4222; unset: the service runs its embedded nats-server
    #[arg(long, env = "UNIBUS_NATS_URL", value_name = "URLS")]
    pub nats_url: Option<String>,

    /// How long the service tries to reach NATS when it starts, before it gives up
    #[arg(long, env = "UNIBUS_NATS_CONNECT_TIMEOUT", value_name = "DURATION", default_value = "30s", value_parser = humantime::parse_duration)]
    pub nats_connect_timeout: Duration,

    /// File with the NATS credentials: JWT and seed
    #[arg(long, env = "UNIBUS_NATS_CREDENTIALS", value_name = "FILE", requires = "nats_url")]
    pub nats_credentials: Option<PathBuf>,

    /// NATS user name
    #[arg(long, env = "UNIBUS_NATS_USER", value_name = "NAME", requires = "nats_password", requires = "nats_url")]
    pub nats_user: Option<String>,

    /// NATS password
    #[arg(long, env = "UNIBUS_NATS_PASSWORD", value_name = "PASSWORD", hide_env_values = true, requires = "nats_user")]
    pub nats_password: Option<String>,

    /// NATS token
    #[arg(long, env = "UNIBUS_NATS_TOKEN", value_name = "TOKEN", hide_env_values = true, requires = "nats_url")]
    pub nats_token: Option<String>,

    /// File with the NATS nkey seed
    #[arg(long, env = "UNIBUS_NATS_NKEY_FILE", value_name = "FILE", requires = "nats_url")]
    pub nats_nkey_file: Option<PathBuf>,

    /// PEM file with the certificate authority of the NATS server; the service then requires TLS
    #[arg(long, env = "UNIBUS_NATS_TLS_CA", value_name = "FILE", requires = "nats_url")]
    pub nats_tls_ca: Option<PathBuf>,

    /// PEM file with the client certificate for NATS
    #[arg(
        long,
        env = "UNIBUS_NATS_TLS_CERTIFICATE",
        value_name = "FILE",
        requires = "nats_tls_key",
        requires = "nats_url"
    )]
    pub nats_tls_certificate: Option<PathBuf>,

    /// PEM file with the private key of `--nats-tls-certificate`
    #[arg(long, env = "UNIBUS_NATS_TLS_KEY", value_name = "FILE", requires = "nats_tls_certificate")]
    pub nats_tls_key: Option<PathBuf>,

    /// When the external NATS server syncs its files to disk; publishers get it as the `durability` of an
    /// acknowledgement
    #[arg(long, env = "UNIBUS_NATS_SYNC", value_name = "SYNC", value_enum, default_value_t = NatsSync::Unknown, requires = "nats_url")]
    pub nats_sync: NatsSync,

    /// Copies of the registry of rooms in a NATS cluster: 1, 3 or 5
    #[arg(long, env = "UNIBUS_REGISTRY_REPLICAS", value_name = "COUNT", default_value_t = 1, value_parser = odd_replicas)]
    pub registry_replicas: u8,

    /// Path of the nats-server program for the embedded nats-server; unset: `nats-server` on the PATH
    #[arg(long, env = "UNIBUS_NATS_SERVER", value_name = "FILE")]
    pub nats_server: Option<PathBuf>,

    /// Data directory of the embedded nats-server; only one service at a time can use it
    #[arg(long, env = "UNIBUS_DATA_DIR", value_name = "DIR", default_value = "unibus-data")]
    pub data_dir: PathBuf,

    /// Client connections; calls on further connections are refused
    #[arg(long, env = "UNIBUS_MAX_CONNECTIONS", value_name = "COUNT", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_connections: u32,

    /// Connections of one source address (IPv6: of one /64); 0: no bound. Unset: 256 with `--auth enforce`, else 0.
    /// Behind a proxy all clients have the proxy's address: set 0, or the number of connections that the proxy may
    /// open
    #[arg(long, env = "UNIBUS_MAX_CONNECTIONS_PER_ADDRESS", value_name = "COUNT")]
    pub max_connections_per_address: Option<u32>,

    /// Open calls of one connection; further calls are refused
    #[arg(long, env = "UNIBUS_MAX_STREAMS_PER_CONNECTION", value_name = "COUNT", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_streams_per_connection: u32,

    /// Open subscriptions of all clients together; further subscriptions are refused
    #[arg(long, env = "UNIBUS_MAX_SUBSCRIPTIONS", value_name = "COUNT", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_subscriptions: u32,

    /// Messages that a caller may publish per second; unset: no bound
    #[arg(long, env = "UNIBUS_LIMIT_PUBLISHES", value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    pub limit_publishes: Option<u32>,

    /// Bytes of payloads, headers and message ids that a caller may publish per second; unset: no bound
    #[arg(long, env = "UNIBUS_LIMIT_PUBLISH_BYTES", value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1..))]
    pub limit_publish_bytes: Option<u32>,

    /// Open calls of a caller on all its connections; 0: no bound. Unset: 4000 with `--auth enforce`, else 0
    #[arg(long, env = "UNIBUS_LIMIT_CALLS", value_name = "COUNT")]
    pub limit_calls: Option<u32>,

    /// Open subscriptions of a caller; 0: no bound but `--max-subscriptions`. Unset: 1000 with `--auth enforce`, else
    /// 0
    #[arg(long, env = "UNIBUS_LIMIT_SUBSCRIPTIONS", value_name = "COUNT")]
    pub limit_subscriptions: Option<u32>,

    /// Durable subscribers of a caller in all rooms; 0: no bound but that of NATS. Unset: 10000 with `--auth
    /// enforce`, else 0
    #[arg(long, env = "UNIBUS_LIMIT_DURABLE_SUBSCRIBERS", value_name = "COUNT")]
    pub limit_durable_subscribers: Option<u32>,

    /// Rooms that a caller created and owns; 0: no bound but that of NATS. Unset: 100 with `--auth enforce`, else 0
    #[arg(long, env = "UNIBUS_LIMIT_ROOMS", value_name = "COUNT")]
    pub limit_rooms: Option<u32>,

    /// Stored bytes in all rooms that a caller created; 0: no bound but that of NATS. Unset: 1 GiB with `--auth
    /// enforce`, else 0
    #[arg(long, env = "UNIBUS_LIMIT_STORED_BYTES", value_name = "BYTES")]
    pub limit_stored_bytes: Option<u64>,

    /// Pages of history that a caller may read at the same time; 0: no bound. Unset: 64 with `--auth enforce`, else 0
    #[arg(long, env = "UNIBUS_LIMIT_READS", value_name = "COUNT")]
    pub limit_reads: Option<u32>,

    /// Bytes of pages and backlogs that a caller may read per second; 0: no bound. Unset: 32 MiB with `--auth
    /// enforce`, else 0
    #[arg(long, env = "UNIBUS_LIMIT_READ_BYTES", value_name = "BYTES")]
    pub limit_read_bytes: Option<u32>,

    /// Largest payload in bytes, if the NATS server accepts it; default gRPC clients read messages of at most 4 MiB
    #[arg(long, env = "UNIBUS_PAYLOAD_MAX", value_name = "BYTES", default_value_t = PAYLOAD_BYTES_MAX, value_parser = clap::value_parser!(u32).range(1..))]
    pub payload_max: u32,

    /// How long a client may be silent before the service sends it a ping
    #[arg(long, env = "UNIBUS_KEEPALIVE_INTERVAL", value_name = "DURATION", default_value = "20s", value_parser = positive_duration)]
    pub keepalive_interval: Duration,

    /// How long a client may take to answer a ping before its connection is closed
    #[arg(long, env = "UNIBUS_KEEPALIVE_TIMEOUT", value_name = "DURATION", default_value = "10s", value_parser = positive_duration)]
    pub keepalive_timeout: Duration,

    /// How long a connection may have no open call before it is closed; pings do not prolong this time
    #[arg(long, env = "UNIBUS_IDLE_TIMEOUT", value_name = "DURATION", default_value = "15m", value_parser = positive_duration)]
    pub idle_timeout: Duration,

    /// Longest time without a frame on a subscription: then the service sends a heartbeat; at least 100ms
    #[arg(long, env = "UNIBUS_HEARTBEAT_INTERVAL", value_name = "DURATION", default_value = "15s", value_parser = heartbeat_interval)]
    pub heartbeat_interval: Duration,

    /// How long open calls may take to end when the service stops
    #[arg(long, env = "UNIBUS_DRAIN_TIMEOUT", value_name = "DURATION", default_value = "10s", value_parser = humantime::parse_duration)]
    pub drain_timeout: Duration,

    /// Format of the log lines on standard output; `RUST_LOG` sets what is logged, such as `info` or `unibus=debug`
    #[arg(long, env = "UNIBUS_LOG_FORMAT", value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

/// Whether callers must authenticate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AuthMode {
    /// Every caller may do everything. For development.
    Off,
    /// Every call except health and reflection needs a token or a client certificate.
    Enforce,
}

/// Format of the log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Text for people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Whether clients must present a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ClientAuth {
    /// A connection without a client certificate is refused.
    Required,
    /// A client may present a certificate.
    Optional,
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

/// Parses a number of copies. An even number survives no more failures than the odd number below it.
fn odd_replicas(given: &str) -> Result<u8, String> {
    match given.parse() {
        Ok(replicas @ (1 | 3 | 5)) => Ok(replicas),
        Ok(_) | Err(_) => Err("must be 1, 3 or 5".to_owned()),
    }
}

/// Parses a heartbeat interval. Shorter intervals would cost more than the messages.
fn heartbeat_interval(given: &str) -> Result<Duration, String> {
    match humantime::parse_duration(given) {
        Ok(interval) if interval < HEARTBEAT_INTERVAL_MIN => Err("must be at least 100ms".to_owned()),
        Ok(interval) => Ok(interval),
        Err(error) => Err(error.to_string()),
    }
}

/// Parses a duration that must not be zero.
fn positive_duration(given: &str) -> Result<Duration, String> {
    match humantime::parse_duration(given) {
        Ok(Duration::ZERO) => Err("must be longer than 0s".to_owned()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(error.to_string()),
    }
}

impl Config {
    /// The bound that a flag sets for each caller; `None`: no bound. An unset flag means `by_default` with `--auth enforce`,
    /// and no bound with `--auth off`. 0 means no bound.
    pub(crate) fn quota<T: Copy + PartialEq + From<u8>>(&self, given: Option<T>, by_default: T) -> Option<T> {
        match given {
            Some(given) => Some(given).filter(|given| *given != T::from(0)),
            None => (self.auth == AuthMode::Enforce).then_some(by_default),
        }
    }
}

impl Default for Config {
    /// The settings of a service without flags. The environment is ignored.
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 50051)),
            admin_listen: SocketAddr::from(([127, 0, 0, 1], 50052)),
            auth: AuthMode::Off,
            auth_keys: Vec::new(),
            auth_jwks: None,
            auth_jwks_refresh: Duration::from_secs(300),
            auth_keys_max_age: Duration::from_secs(3600),
            auth_issuer: None,
            auth_audience: None,
            auth_leeway: Duration::from_secs(30),
            auth_admins: Vec::new(),
            auth_admin_claim: None,
            auth_insecure: false,
            tls_certificate: None,
            tls_key: None,
            tls_client_ca: None,
            tls_client_auth: ClientAuth::Required,
            nats_url: None,
            nats_connect_timeout: Duration::from_secs(30),
            nats_credentials: None,
            nats_user: None,
            nats_password: None,
            nats_token: None,
            nats_nkey_file: None,
            nats_tls_ca: None,
            nats_tls_certificate: None,
            nats_tls_key: None,
            nats_sync: NatsSync::Unknown,
            registry_replicas: 1,
            nats_server: None,
            data_dir: PathBuf::from("unibus-data"),
            max_connections: 10_000,
            max_connections_per_address: None,
            max_streams_per_connection: 10_000,
            max_subscriptions: 100_000,
            limit_publishes: None,
            limit_publish_bytes: None,
            limit_calls: None,
            limit_subscriptions: None,
            limit_durable_subscribers: None,
            limit_rooms: None,
            limit_stored_bytes: None,
            limit_reads: None,
            limit_read_bytes: None,
            payload_max: PAYLOAD_BYTES_MAX,
            keepalive_interval: Duration::from_secs(20),
            keepalive_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(15 * 60),
            heartbeat_interval: Duration::from_secs(15),
            drain_timeout: Duration::from_secs(10),
            log_format: LogFormat::Text,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::{CommandFactory, Parser};

    use super::Config;

    #[test]
    fn the_flags_are_consistent() {
        Config::command().debug_assert();
    }

    #[test]
    fn replicas_are_odd_and_heartbeats_not_too_many() {
        let parses = |flag: &str, value: &str| Config::try_parse_from(["unibus", flag, value]).is_ok();
        for (value, is_allowed) in
            [("0", false), ("1", true), ("2", false), ("3", true), ("4", false), ("5", true), ("x", false)]
        {
            assert_eq!(parses("--registry-replicas", value), is_allowed, "{value}");
        }
        for (value, is_allowed) in [("0s", false), ("99ms", false), ("100ms", true), ("1h", true), ("x", false)] {
            assert_eq!(parses("--heartbeat-interval", value), is_allowed, "{value}");
        }
    }

    #[test]
    fn the_default_is_what_no_flags_give() {
        let mut parsed = Config::try_parse_from(["unibus"]).unwrap();
        // the cargo runner sets `UNIBUS_NATS_SERVER` in the environment
        parsed.nats_server = None;
        assert_eq!(format!("{parsed:?}"), format!("{:?}", Config::default()));
    }
}
