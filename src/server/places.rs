//! The bounds of one listener, and the places that they leave for connections.
//!
//! A connection has a place, of which there are `--max-connections`, or is one of a few in excess whose calls are refused with
//! `LIMIT_REACHED`. Further connections are closed at once, so that file descriptors are left.

use std::{sync::Arc, time::Duration};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::limits::UNIDENTIFIED_REFLECTIONS_MAX;

/// The bounds of the connections of one listener.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Maximum number of connections whose calls are served.
    pub connections_max: u32,
    /// Maximum number of further connections whose calls are refused with `LIMIT_REACHED`.
    pub excess_max: usize,
    /// Maximum number of connections from one source address; `None` without a bound.
    pub connections_per_address_max: Option<u32>,
    /// Maximum number of open calls of one connection.
    pub calls_max: u32,
    /// Whether callers must be identified.
    pub identifies: bool,
    /// How long a client may be silent before the service sends an HTTP/2 `PING`.
    pub keepalive_interval: Duration,
    /// How long the client may take to answer the `PING`.
    pub keepalive_timeout: Duration,
    /// How long a connection may have no open call.
    pub idle_timeout: Duration,
}

impl Bounds {
    /// How long a client may take for its TLS handshake, for the HTTP/2 preface, or for the head of an HTTP/1.1
    /// request.
    pub(super) fn silence_max(&self) -> Duration {
        self.keepalive_interval.saturating_add(self.keepalive_timeout)
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
            regular: Arc::new(Semaphore::new(bounds.connections_max.try_into().unwrap_or(Semaphore::MAX_PERMITS))),
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
