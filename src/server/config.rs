//! The configuration of the service: the flags of its components, in one.
//!
//! The doc comments of the fields are the text of `--help`. Each component declares its own flags.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Parser, ValueEnum};
use tracing_subscriber::EnvFilter;

use super::{
    console::ConsoleConfig,
    cors::CorsConfig,
    places::{ConnectionsConfig, KeepaliveConfig},
    tls::files::TlsConfig,
};
use crate::{
    auth::{AuthConfig, AuthMode},
    error::{Result, Violations},
    flags,
    limits::HEARTBEAT_INTERVAL_MIN,
    nats::{connect::NatsConfig, embedded::EmbeddedNatsConfig},
    rooms::RoomsConfig,
    traces::TracesConfig,
};

/// Rooms over gRPC on NATS JetStream.
///
/// Without --nats-url the service runs its embedded nats-server, on loopback, with its data under --data-dir.
#[derive(Clone, Debug, Parser)]
#[command(name = "unibus", version, max_term_width = 100)]
pub struct Config {
    /// TOML file with values of flags. The key of a value is the name of its flag; flags and environment win
    #[arg(long = "config", env = "UNIBUS_CONFIG", value_name = "FILE")]
    pub config_file: Option<PathBuf>,

    /// Address and port for gRPC, gRPC-Web and the HTTP history endpoint; port 0 picks a free port
    #[arg(long, env = "UNIBUS_LISTEN", value_name = "ADDRESS", default_value = "127.0.0.1:50051")]
    pub listen: SocketAddr,

    /// Address and port for /livez, /readyz, /metrics and the console; port 0 picks a free port
    #[arg(long, env = "UNIBUS_ADMIN_LISTEN", value_name = "ADDRESS", default_value = "127.0.0.1:50052")]
    pub admin_listen: SocketAddr,

    /// How callers are authenticated
    #[command(flatten)]
    pub auth: AuthConfig,

    /// The TLS of the main port
    #[command(flatten)]
    pub tls: TlsConfig,

    /// The web pages that may call the service
    #[command(flatten)]
    pub cors: CorsConfig,

    /// The console
    #[command(flatten)]
    pub console: ConsoleConfig,

    /// The NATS servers, and the credentials for them
    #[command(flatten)]
    pub nats: NatsConfig,

    /// Copies of the registry of rooms in a NATS cluster: 1, 3 or 5
    #[arg(long, env = "UNIBUS_REGISTRY_REPLICAS", value_name = "COUNT", default_value_t = 1, value_parser = registry_replicas)]
    pub registry_replicas: u8,

    /// The embedded nats-server
    #[command(flatten)]
    pub embedded: EmbeddedNatsConfig,

    /// The bounds on connections
    #[command(flatten)]
    pub connections: ConnectionsConfig,

    /// The bounds of the use cases
    #[command(flatten)]
    pub rooms: RoomsConfig,

    /// Threads that serve calls. Unset: half of the cores, at least 1; the other cores serve nats-server and the
    /// network
    #[arg(long, env = "UNIBUS_WORKER_THREADS", value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub worker_threads: Option<u16>,

    /// How long a connection may be silent or idle
    #[command(flatten)]
    pub keepalive: KeepaliveConfig,

    /// Longest time without a frame on a subscription: then the service sends a heartbeat; at least 100ms
    #[arg(long, env = "UNIBUS_HEARTBEAT_INTERVAL", value_name = "DURATION", default_value = "15s", value_parser = heartbeat_interval)]
    pub heartbeat_interval: Duration,

    /// How long open calls may take to end when the service stops
    #[arg(long, env = "UNIBUS_DRAIN_TIMEOUT", value_name = "DURATION", default_value = "10s", value_parser = humantime::parse_duration)]
    pub drain_timeout: Duration,

    /// The export of traces
    #[command(flatten)]
    pub traces: TracesConfig,

    /// What is logged: a level such as `info`, or levels of parts such as `info,unibus=debug`. Unset: what the variable
    /// `RUST_LOG` says, else `info,async_nats=warn`
    #[arg(long, env = "UNIBUS_LOG", value_name = "FILTER", value_parser = log_filter)]
    pub log: Option<String>,

    /// Format of the log lines on standard output
    #[arg(long, env = "UNIBUS_LOG_FORMAT", value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

/// Format of the log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Text for people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Checks `registry_replicas`. An even number survives no more failures than the odd number below it.
fn checked_replicas(replicas: u8) -> Result<u8, String> {
    if matches!(replicas, 1 | 3 | 5) { Ok(replicas) } else { Err("must be 1, 3 or 5".to_owned()) }
}

fn registry_replicas(given: &str) -> Result<u8, String> {
    checked_replicas(given.parse().unwrap_or_default())
}

/// The rule of `heartbeat_interval`. Shorter intervals would cost more than the messages.
fn not_too_often(interval: Duration) -> Result<Duration, String> {
    if interval < HEARTBEAT_INTERVAL_MIN {
        return Err(format!("must be at least {HEARTBEAT_INTERVAL_MIN:?}"));
    }
    Ok(interval)
}

/// Checks what `--log` selects.
fn log_filter(given: &str) -> Result<String, String> {
    EnvFilter::builder().parse(given).map(|_| given.to_owned()).map_err(|error| error.to_string())
}

fn heartbeat_interval(given: &str) -> Result<Duration, String> {
    flags::duration(given).and_then(not_too_often)
}

impl Config {
    /// Returns the configuration in force: an unset bound gets its default, which depends on whether callers must
    /// authenticate.
    ///
    /// # Errors
    /// `INVALID_FIELD`, which names every field with a value that its flag refuses. A program may have set it.
    pub(crate) fn checked(mut self) -> Result<Self> {
        let mut wrong = Violations::default();
        self.auth.check(&mut wrong);
        self.cors.check(&mut wrong);
        self.console.check(&mut wrong);
        flags::check("registry_replicas", checked_replicas(self.registry_replicas), &mut wrong);
        self.connections.check(&mut wrong);
        self.rooms.check(&mut wrong);
        self.keepalive.check(&mut wrong);
        flags::check("heartbeat_interval", not_too_often(self.heartbeat_interval), &mut wrong);
        self.traces.check(&mut wrong);
        wrong.finish()?;
        let is_enforced = self.auth.mode == AuthMode::Enforce;
        self.connections = self.connections.in_force(is_enforced);
        self.rooms = self.rooms.in_force(is_enforced);
        Ok(self)
    }
}

impl Default for Config {
    /// The configuration of a service without flags. The environment is ignored.
    fn default() -> Self {
        Self {
            config_file: None,
            listen: SocketAddr::from(([127, 0, 0, 1], 50051)),
            admin_listen: SocketAddr::from(([127, 0, 0, 1], 50052)),
            auth: AuthConfig::default(),
            tls: TlsConfig::default(),
            cors: CorsConfig::default(),
            console: ConsoleConfig::default(),
            nats: NatsConfig::default(),
            registry_replicas: 1,
            embedded: EmbeddedNatsConfig::default(),
            connections: ConnectionsConfig::default(),
            rooms: RoomsConfig::default(),
            worker_threads: None,
            keepalive: KeepaliveConfig::default(),
            heartbeat_interval: Duration::from_secs(15),
            drain_timeout: Duration::from_secs(10),
            traces: TracesConfig::default(),
            log: None,
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
        parsed.embedded.nats_server = None;
        assert_eq!(format!("{parsed:?}"), format!("{:?}", Config::default()));
    }
}
