//! Stops publishes to a NATS server without storage, so that they do not use storage that is freed for the registry.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use async_nats::jetstream;
use tokio::time::Instant;

use super::{embedded::disk::Disk, error::is_full};
use crate::{
    domain::Room,
    error::{Error, Reason, Result},
    limits::STORAGE_FULL_INTERVAL,
    sync::lock,
};

/// The gate is closed for [`STORAGE_FULL_INTERVAL`] after the server had no storage. Then one publish goes through;
/// its result opens or closes the gate. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct StorageGate(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// The disk of the embedded server.
    disk: Option<Disk>,
    is_shut: AtomicBool,
    /// The time at which the gate opens, by number of replicas. An account may have a limit for each number.
    shut: Mutex<HashMap<u32, Instant>>,
}

/// The key for every number of replicas.
const ANY: u32 = 0;

impl StorageGate {
    pub(crate) fn new(disk: Option<Disk>) -> Self {
        Self(Arc::new(Inner { disk, is_shut: AtomicBool::new(false), shut: Mutex::default() }))
    }

    pub(crate) fn disk(&self) -> Option<&Disk> {
        self.0.disk.as_ref()
    }

    /// # Errors
    /// `STORAGE_FULL`.
    pub(crate) fn require_space(&self) -> Result<()> {
        if self.0.disk.as_ref().is_some_and(Disk::is_low) {
            return Err(Error::new(
                Reason::StorageFull,
                "the disk of the service's data directory is nearly full; free space on the disk, or remove messages",
            ));
        }
        Ok(())
    }

    /// Returns true if some publishes are refused now, because there is no storage left.
    pub(crate) fn is_full(&self) -> bool {
        let now = Instant::now();
        self.require_space().is_err() || lock(&self.0.shut).values().any(|until| *until > now)
    }

    /// Admits a publish to the room.
    ///
    /// # Errors
    /// `STORAGE_FULL`.
    pub(crate) fn admit(&self, room: &Room) -> Result<()> {
        self.require_space()?;
        if !self.0.is_shut.load(Ordering::Relaxed) {
            return Ok(());
        }
        let now = Instant::now();
        let mut shut = lock(&self.0.shut);
        if shut.get(&ANY).is_some_and(|until| *until > now) {
            return Err(full());
        }
        shut.remove(&ANY);
        if let Some(until) = shut.get_mut(&room.replicas) {
            if *until > now {
                return Err(full());
            }
            *until = now + STORAGE_FULL_INTERVAL;
        }
        self.0.is_shut.store(!shut.is_empty(), Ordering::Relaxed);
        Ok(())
    }

    /// Records that a message of the room was stored.
    pub(crate) fn note_stored(&self, room: &Room) {
        if self.0.is_shut.load(Ordering::Relaxed) {
            let mut shut = lock(&self.0.shut);
            shut.remove(&room.replicas);
            self.0.is_shut.store(!shut.is_empty(), Ordering::Relaxed);
        }
    }

    /// Records that NATS refused a message of the room.
    pub(crate) fn note_refused(&self, room: &Room, error: &jetstream::Error) {
        if is_full(error) {
            self.shut(room.replicas);
        }
    }

    /// Closes the gate for all rooms, because the registry has no storage.
    pub(crate) fn shut_for_all(&self) {
        self.shut(ANY);
    }

    fn shut(&self, replicas: u32) {
        let mut shut = lock(&self.0.shut);
        shut.insert(replicas, Instant::now() + STORAGE_FULL_INTERVAL);
        self.0.is_shut.store(true, Ordering::Relaxed);
    }
}

fn full() -> Error {
    Error::new(
        Reason::StorageFull,
        "the NATS server or account has no storage left; remove messages, bound the retention of rooms, or raise max_file",
    )
}
