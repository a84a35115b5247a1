//! Flags and environment. The doc comments are the `--help` text. Refuses to know NATS and tonic.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Parser, ValueEnum};

use crate::limits::{HEARTBEAT_INTERVAL_MIN, PAYLOAD_BYTES_MAX};

/// Rooms over gRPC on NATS JetStream.
///
/// Without --nats-url the service runs its own nats-server, on loopback, with its data under --data-dir.
#[derive(Clone, Debug, Parser)]
#[command(name = "unibus", version, max_term_width = 100)]
pub struct Config {
    /// Address and port for gRPC, gRPC-Web and the HTTP history endpoint; port 0 picks a free one
    #[arg(long, env = "UNIBUS_LISTEN", default_value = "127.0.0.1:50051")]
    pub listen: SocketAddr,

    /// Address and port for /livez and /readyz; port 0 picks a free one
    #[arg(long, env = "UNIBUS_ADMIN_LISTEN", default_value = "127.0.0.1:50052")]
    pub admin_listen: SocketAddr,

    /// Who may call: with `off` everybody may do everything, with `enforce` a caller needs a token
    #[arg(long, env = "UNIBUS_AUTH", value_enum, default_value_t = AuthMode::Off)]
    pub auth: AuthMode,

    /// PEM files with the public keys that tokens are signed with: Ed25519, ECDSA on P-256, or RSA
    #[arg(long, env = "UNIBUS_AUTH_KEYS", value_delimiter = ',', value_name = "FILES")]
    pub auth_keys: Vec<PathBuf>,

    /// Key set (JWKS) that tokens are signed with: a file, or a URL; https, or http on this machine
    #[arg(long, env = "UNIBUS_AUTH_JWKS", value_name = "FILE|URL")]
    pub auth_jwks: Option<String>,

    /// How often a key set at a URL is fetched again
    #[arg(long, env = "UNIBUS_AUTH_JWKS_REFRESH", default_value = "5m", value_parser = positive_duration)]
    pub auth_jwks_refresh: Duration,

    /// How long keys count whose file or URL cannot be read any more
    #[arg(long, env = "UNIBUS_AUTH_KEYS_MAX_AGE", default_value = "1h", value_parser = positive_duration)]
    pub auth_keys_max_age: Duration,

    /// The only issuer (`iss`) whose tokens are taken; unset: any that signs with one of the keys
    #[arg(long, env = "UNIBUS_AUTH_ISSUER")]
    pub auth_issuer: Option<String>,

    /// The audience (`aud`) that tokens must be for; unset: tokens that name an audience are refused
    #[arg(long, env = "UNIBUS_AUTH_AUDIENCE")]
    pub auth_audience: Option<String>,

    /// How far the clocks of issuers may differ: tokens count for so long after `exp` and before `nbf`; at most 5m
    #[arg(long, env = "UNIBUS_AUTH_LEEWAY", default_value = "30s", value_parser = humantime::parse_duration)]
    pub auth_leeway: Duration,

    /// Endpoint ids of administrators, who may do everything in every room
    #[arg(long, env = "UNIBUS_AUTH_ADMINS", value_delimiter = ',', value_name = "IDS")]
    pub auth_admins: Vec<String>,

    /// Claim of administrators' tokens: `NAME`, which must be true, or `NAME=VALUE`, which it must be or hold
    #[arg(long, env = "UNIBUS_AUTH_ADMIN_CLAIM", value_name = "NAME[=VALUE]")]
    pub auth_admin_claim: Option<String>,

    /// Insist on `--auth off` although others than this machine can reach `--listen`
    #[arg(long, env = "UNIBUS_AUTH_INSECURE")]
    pub auth_insecure: bool,

    /// PEM file with the certificate chain to show to clients; only TLS is then served. Read again when it changes
    #[arg(long, env = "UNIBUS_TLS_CERTIFICATE", requires = "tls_key")]
    pub tls_certificate: Option<PathBuf>,

    /// PEM file with the certificate's key
    #[arg(long, env = "UNIBUS_TLS_KEY", requires = "tls_certificate")]
    pub tls_key: Option<PathBuf>,

    /// PEM file with the authorities of client certificates; clients are then asked for one
    #[arg(long, env = "UNIBUS_TLS_CLIENT_CA", requires = "tls_certificate")]
    pub tls_client_ca: Option<PathBuf>,

    /// Whether a client must show a certificate when `--tls-client-ca` is given; one that does not verify is always refused
    #[arg(long, env = "UNIBUS_TLS_CLIENT_AUTH", value_enum, default_value_t = ClientAuth::Required)]
    pub tls_client_auth: ClientAuth,

    /// NATS server or cluster to use, such as nats://a:4222,nats://b:4222; unset: an own nats-server
    #[arg(long, env = "UNIBUS_NATS_URL")]
    pub nats_url: Option<String>,

    /// How long to try to reach NATS at the start before giving up
    #[arg(long, env = "UNIBUS_NATS_CONNECT_TIMEOUT", default_value = "30s", value_parser = humantime::parse_duration)]
    pub nats_connect_timeout: Duration,

    /// Credentials file (JWT and seed) for NATS
    #[arg(long, env = "UNIBUS_NATS_CREDENTIALS", requires = "nats_url")]
    pub nats_credentials: Option<PathBuf>,

    /// User name for NATS
    #[arg(long, env = "UNIBUS_NATS_USER", requires = "nats_password", requires = "nats_url")]
    pub nats_user: Option<String>,

    /// Password for NATS
    #[arg(long, env = "UNIBUS_NATS_PASSWORD", hide_env_values = true, requires = "nats_user")]
    pub nats_password: Option<String>,

    /// Token for NATS
    #[arg(long, env = "UNIBUS_NATS_TOKEN", hide_env_values = true, requires = "nats_url")]
    pub nats_token: Option<String>,

    /// File with the nkey seed for NATS
    #[arg(long, env = "UNIBUS_NATS_NKEY_FILE", requires = "nats_url")]
    pub nats_nkey_file: Option<PathBuf>,

    /// PEM file with the certificate authority of the NATS server; TLS is then required
    #[arg(long, env = "UNIBUS_NATS_TLS_CA", requires = "nats_url")]
    pub nats_tls_ca: Option<PathBuf>,

    /// PEM file with the client certificate for NATS
    #[arg(long, env = "UNIBUS_NATS_TLS_CERTIFICATE", requires = "nats_tls_key", requires = "nats_url")]
    pub nats_tls_certificate: Option<PathBuf>,

    /// PEM file with the client certificate's key
    #[arg(long, env = "UNIBUS_NATS_TLS_KEY", requires = "nats_tls_certificate")]
    pub nats_tls_key: Option<PathBuf>,

    /// What the operator knows of an external NATS server's disk: told to publishers as the durability of an acknowledgement
    #[arg(long, env = "UNIBUS_NATS_SYNC", value_enum, default_value_t = NatsSync::Unknown, requires = "nats_url")]
    pub nats_sync: NatsSync,

    /// Copies that a NATS cluster keeps of the registry of rooms: 1, 3 or 5
    #[arg(long, env = "UNIBUS_REGISTRY_REPLICAS", default_value_t = 1, value_parser = odd_replicas)]
    pub registry_replicas: u8,

    /// The nats-server program for the own server; unset: `nats-server` on the PATH
    #[arg(long, env = "UNIBUS_NATS_SERVER")]
    pub nats_server: Option<PathBuf>,

    /// Directory of the own nats-server's data; one service at a time
    #[arg(long, env = "UNIBUS_DATA_DIR", default_value = "unibus-data")]
    pub data_dir: PathBuf,

    /// Connections of clients; the calls of further ones are refused
    #[arg(long, env = "UNIBUS_MAX_CONNECTIONS", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_connections: u32,

    /// Connections of one source address (IPv6: of one /64); unset: 256 with `--auth enforce`; 0: no bound. Behind a proxy all
    /// clients have its address: set it to 0 there, or to what the proxy may open
    #[arg(long, env = "UNIBUS_MAX_CONNECTIONS_PER_ADDRESS")]
    pub max_connections_per_address: Option<u32>,

    /// Open calls of one connection; further ones are refused
    #[arg(long, env = "UNIBUS_MAX_STREAMS_PER_CONNECTION", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_streams_per_connection: u32,

    /// Open subscriptions of all clients together; further ones are refused
    #[arg(long, env = "UNIBUS_MAX_SUBSCRIPTIONS", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_subscriptions: u32,

    /// Messages that a caller may publish in a second; unset: as many as it can
    #[arg(long, env = "UNIBUS_LIMIT_PUBLISHES", value_parser = clap::value_parser!(u32).range(1..))]
    pub limit_publishes: Option<u32>,

    /// Bytes of payloads, headers and message ids that a caller may publish in a second; unset: as many as it can
    #[arg(long, env = "UNIBUS_LIMIT_PUBLISH_BYTES", value_parser = clap::value_parser!(u32).range(1..))]
    pub limit_publish_bytes: Option<u32>,

    /// Open calls of a caller on all its connections; 0: no bound. Unset: 4000 with `--auth enforce`, else 0
    #[arg(long, env = "UNIBUS_LIMIT_CALLS")]
    pub limit_calls: Option<u32>,

    /// Open subscriptions of a caller; 0: no bound but that of all together. Unset: 1000 with `--auth enforce`, else 0
    #[arg(long, env = "UNIBUS_LIMIT_SUBSCRIPTIONS")]
    pub limit_subscriptions: Option<u32>,

    /// Durable subscribers of a caller in all rooms; 0: as many as NATS takes. Unset: 10000 with `--auth enforce`, else 0
    #[arg(long, env = "UNIBUS_LIMIT_DURABLE_SUBSCRIBERS")]
    pub limit_durable_subscribers: Option<u32>,

    /// Rooms that a caller has created and owns; 0: as many as NATS takes. Unset: 100 with `--auth enforce`, else 0
    #[arg(long, env = "UNIBUS_LIMIT_ROOMS")]
    pub limit_rooms: Option<u32>,

    /// Bytes in all rooms that a caller has created; 0: as many as NATS takes. Unset: 1 GiB with
    /// `--auth enforce`, else 0
    #[arg(long, env = "UNIBUS_LIMIT_STORED_BYTES")]
    pub limit_stored_bytes: Option<u64>,

    /// Pages of history that a caller reads at the same time; 0: no bound. Unset: 64 with `--auth enforce`, else 0
    #[arg(long, env = "UNIBUS_LIMIT_READS")]
    pub limit_reads: Option<u32>,

    /// Bytes of pages and backlogs that a caller reads in a second; 0: no bound. Unset: 32 MiB with `--auth enforce`, else 0
    #[arg(long, env = "UNIBUS_LIMIT_READ_BYTES")]
    pub limit_read_bytes: Option<u32>,

    /// Largest payload in bytes, if the NATS server takes as much; default gRPC clients read messages of 4 MiB
    #[arg(long, env = "UNIBUS_PAYLOAD_MAX", default_value_t = PAYLOAD_BYTES_MAX, value_parser = clap::value_parser!(u32).range(1..))]
    pub payload_max: u32,

    /// Silence of a client before it is asked for a sign of life
    #[arg(long, env = "UNIBUS_KEEPALIVE_INTERVAL", default_value = "20s", value_parser = positive_duration)]
    pub keepalive_interval: Duration,

    /// How long a client may take for that sign before its connection is closed
    #[arg(long, env = "UNIBUS_KEEPALIVE_TIMEOUT", default_value = "10s", value_parser = positive_duration)]
    pub keepalive_timeout: Duration,

    /// How long a connection may be without an open call before it is closed; signs of life do not count
    #[arg(long, env = "UNIBUS_IDLE_TIMEOUT", default_value = "15m", value_parser = positive_duration)]
    pub idle_timeout: Duration,

    /// Longest silence on a subscription; at least 100 ms
    #[arg(long, env = "UNIBUS_HEARTBEAT_INTERVAL", default_value = "15s", value_parser = heartbeat_interval)]
    pub heartbeat_interval: Duration,

    /// How long open calls may take to end when the service is stopped
    #[arg(long, env = "UNIBUS_DRAIN_TIMEOUT", default_value = "10s", value_parser = humantime::parse_duration)]
    pub drain_timeout: Duration,

    /// Form of the log lines on standard output; what is logged is set by `RUST_LOG`, such as `info` or `unibus=debug`
    #[arg(long, env = "UNIBUS_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

/// Whether callers must say who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AuthMode {
    /// Everybody may do everything: for development.
    Off,
    /// Every call but health and reflection needs a token.
    Enforce,
}

/// Form of the log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Whether clients must show a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ClientAuth {
    /// A connection without one is refused.
    Required,
    /// A client may show one.
    Optional,
}

/// When an external NATS server syncs to disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum NatsSync {
    /// Not declared.
    Unknown,
    /// Now and then: nats-server's default.
    Interval,
    /// Before each acknowledgement: `sync_interval: always`.
    Always,
}

/// Copies: an even number survives no more losses than one less.
fn odd_replicas(given: &str) -> Result<u8, String> {
    match given.parse() {
        Ok(replicas @ (1 | 3 | 5)) => Ok(replicas),
        Ok(_) | Err(_) => Err("must be 1, 3 or 5".to_owned()),
    }
}

/// Shorter ones would cost more than the messages.
fn heartbeat_interval(given: &str) -> Result<Duration, String> {
    match humantime::parse_duration(given) {
        Ok(interval) if interval < HEARTBEAT_INTERVAL_MIN => Err("must be at least 100ms".to_owned()),
        Ok(interval) => Ok(interval),
        Err(error) => Err(error.to_string()),
    }
}

/// A duration of no length would ask and give up at once.
fn positive_duration(given: &str) -> Result<Duration, String> {
    match humantime::parse_duration(given) {
        Ok(Duration::ZERO) => Err("must be longer than nothing".to_owned()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(error.to_string()),
    }
}

impl Config {
    /// What a flag allows each caller: nothing given means `by_default` with `--auth enforce`, and no bound without; 0 means no
    /// bound.
    pub(crate) fn quota<T: Copy + PartialEq + From<u8>>(&self, given: Option<T>, by_default: T) -> Option<T> {
        match given {
            Some(given) => Some(given).filter(|given| *given != T::from(0)),
            None => (self.auth == AuthMode::Enforce).then_some(by_default),
        }
    }
}

impl Default for Config {
    /// What the service runs with when no flag is given, whatever the environment holds.
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
        // the cargo runner names the program in the environment
        parsed.nats_server = None;
        assert_eq!(format!("{parsed:?}"), format!("{:?}", Config::default()));
    }
}
