//! The rooms whose streams do not take runs at present.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::time::Instant;

use super::run::PLAIN_AFTER_REFUSAL;
use crate::sync::lock;

/// Streams that did not take a run, and until when their messages are published plainly.
#[derive(Debug, Default)]
pub(super) struct PlainRooms {
    until: Mutex<HashMap<Arc<str>, Instant>>,
    /// False: no stream is known. Spares the lock.
    has_some: AtomicBool,
}

impl PlainRooms {
    /// Records that the stream did not take a message of a run.
    pub(super) fn add(&self, stream: &Arc<str>) {
        let now = Instant::now();
        let mut until = lock(&self.until);
        // those of deleted rooms go too
        until.retain(|_, until| *until > now);
        until.insert(Arc::clone(stream), now + PLAIN_AFTER_REFUSAL);
        self.has_some.store(true, Ordering::Relaxed);
    }

    /// Returns true if messages to the stream are published plainly now.
    pub(super) fn contains(&self, stream: &Arc<str>) -> bool {
        if !self.has_some.load(Ordering::Relaxed) {
            return false;
        }
        let mut all = lock(&self.until);
        match all.get(stream) {
            Some(until) if *until > Instant::now() => true,
            Some(_) => {
                all.remove(stream);
                self.has_some.store(!all.is_empty(), Ordering::Relaxed);
                false
            }
            None => false,
        }
    }
}
