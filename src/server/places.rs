//! The bounds of one listener, and the places that they leave for connections.
//!
//! A connection has a place, of which there are `--max-connections`, or is one of a few in excess whose calls are refused with
//! `LIMIT_REACHED`. Further connections are closed at once, so that file descriptors are left.

use std::{sync::Arc, time::Duration};

use clap::Args;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    error::Violations,
    flags,
    limits::{CONNECTIONS_PER_ADDRESS_MAX, UNIDENTIFIED_REFLECTIONS_MAX},
};

/// The bounds on connections.
#[derive(Clone, Copy, Debug, Args)]
pub struct ConnectionsConfig {
    /// Client connections; calls on further connections are refused
    #[arg(long = "max-connections", env = "UNIBUS_MAX_CONNECTIONS", value_name = "COUNT", default_value_t = 10_000, value_parser = flags::count())]
    pub max: u32,

    /// Connections of one source address (IPv6: of one /64); 0: no bound. Unset: 256 with `--auth enforce`, else 0.
    /// Behind a proxy all clients have the proxy's address: set 0, or the number of connections that the proxy may
    /// open
    #[arg(long = "max-connections-per-address", env = "UNIBUS_MAX_CONNECTIONS_PER_ADDRESS", value_name = "COUNT")]
    pub max_per_address: Option<u32>,

    /// Open calls of one connection; further calls are refused
    #[arg(long = "max-streams-per-connection", env = "UNIBUS_MAX_STREAMS_PER_CONNECTION", value_name = "COUNT", default_value_t = 10_000, value_parser = flags::count())]
    pub max_streams: u32,
}

impl Default for ConnectionsConfig {
    fn default() -> Self {
        Self { max: 10_000, max_per_address: None, max_streams: 10_000 }
    }
}

impl ConnectionsConfig {
    /// Adds the fields with values that their flags refuse to `wrong`.
    pub(super) fn check(&self, wrong: &mut Violations) {
        flags::check_count("max_connections", self.max, wrong);
        flags::check_count("max_streams_per_connection", self.max_streams, wrong);
    }

    /// Returns the bounds in force: an unset `max_per_address` gets the default that `is_enforced`, whether callers must
    /// authenticate, decides. `None`: no bound.
    pub(super) fn in_force(self, is_enforced: bool) -> Self {
        let max_per_address = flags::bound(self.max_per_address, CONNECTIONS_PER_ADDRESS_MAX, is_enforced);
        Self { max_per_address, ..self }
    }
}

/// How long a connection may be silent or idle.
#[derive(Clone, Copy, Debug, Args)]
pub struct KeepaliveConfig {
    /// How long a client may be silent before the service sends it a ping
    #[arg(long = "keepalive-interval", env = "UNIBUS_KEEPALIVE_INTERVAL", value_name = "DURATION", default_value = "20s", value_parser = flags::positive_duration)]
    pub interval: Duration,

    /// How long a client may take to answer a ping before its connection is closed
    #[arg(long = "keepalive-timeout", env = "UNIBUS_KEEPALIVE_TIMEOUT", value_name = "DURATION", default_value = "10s", value_parser = flags::positive_duration)]
    pub timeout: Duration,

    /// How long a connection may have no open call before it is closed; pings do not prolong this time
    #[arg(long, env = "UNIBUS_IDLE_TIMEOUT", value_name = "DURATION", default_value = "15m", value_parser = flags::positive_duration)]
    pub idle_timeout: Duration,
}

impl Default for KeepaliveConfig {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(20),
            timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(15 * 60),
        }
    }
}

impl KeepaliveConfig {
    /// Adds the fields with values that their flags refuse to `wrong`.
    pub(super) fn check(&self, wrong: &mut Violations) {
        flags::check_positive("keepalive_interval", self.interval, wrong);
        flags::check_positive("keepalive_timeout", self.timeout, wrong);
        flags::check_positive("idle_timeout", self.idle_timeout, wrong);
    }
}

/// The bounds of the connections of one listener.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// The bounds in force on the connections whose calls are served.
    pub connections: ConnectionsConfig,
    /// Maximum number of further connections whose calls are refused with `LIMIT_REACHED`.
    pub excess_max: usize,
    /// Whether callers must be identified.
    pub identifies: bool,
    pub keepalive: KeepaliveConfig,
}

impl Bounds {
    /// How long a client may take for its TLS handshake, for the HTTP/2 preface, or for the head of an HTTP/1.1
    /// request.
    pub(super) fn silence_max(&self) -> Duration {
        self.keepalive.interval.saturating_add(self.keepalive.timeout)
    }
}

/// The places for the connections of one listener.
#[derive(Debug)]
pub(super) struct ConnectionPlaces {
    regular: Arc<Semaphore>,
    excess: Arc<Semaphore>,
    reflections: Arc<Semaphore>,
    bounds: Bounds,
}

impl ConnectionPlaces {
    pub(super) fn new(bounds: Bounds) -> Arc<Self> {
        Arc::new(Self {
            regular: Arc::new(Semaphore::new(bounds.connections.max.try_into().unwrap_or(Semaphore::MAX_PERMITS))),
            excess: Arc::new(Semaphore::new(bounds.excess_max)),
            reflections: Arc::new(Semaphore::new(UNIDENTIFIED_REFLECTIONS_MAX)),
            bounds,
        })
    }

    pub(super) fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// Takes a regular place, or else a place in excess; `None` when neither is free.
    pub(super) fn take(&self) -> Option<ConnectionPlace> {
        self.regular().or_else(|| Arc::clone(&self.excess).try_acquire_owned().map(ConnectionPlace::Excess).ok())
    }

    /// Takes a regular place; `None` when none is free.
    pub(super) fn regular(&self) -> Option<ConnectionPlace> {
        Arc::clone(&self.regular).try_acquire_owned().map(ConnectionPlace::Regular).ok()
    }

    /// Takes a place for a reflection call on a connection without an identified caller; `None` when none is free.
    pub(super) fn reflection(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.reflections).try_acquire_owned().ok()
    }
}

/// The place that a connection holds for as long as it lasts.
#[derive(Debug)]
pub(super) enum ConnectionPlace {
    Regular(#[expect(dead_code, reason = "held, not read")] OwnedSemaphorePermit),
    Excess(#[expect(dead_code, reason = "held, not read")] OwnedSemaphorePermit),
    /// The connection is closed. Its calls that have not ended yet hold no place.
    Closed,
}
