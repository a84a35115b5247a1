//! Counts the durable subscribers of each endpoint in all rooms, from the bucket's watch.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard},
};

use crate::{
    domain::{MemberId, RoomId},
    error::{Error, Limit, Result},
    store::{registry::Registry, subscribers::holders::Holding},
    sync::{LiveBound, lock},
};

/// The durable subscribers of each endpoint, by their keys in the bucket.
#[derive(Debug)]
pub(super) struct EndpointSubscribers {
    max: LiveBound,
    known: Mutex<EndpointIndex>,
}

#[derive(Debug, Default)]
struct EndpointIndex {
    endpoints: HashMap<String, MemberId>,
    /// Deleting a room deletes its subscribers; the watch does not report that, so we keep the room.
    subscribers: HashMap<MemberId, HashMap<String, RoomId>>,
}

impl EndpointSubscribers {
    /// Allows `max` durable subscribers for each endpoint.
    pub(super) fn new(max: Option<u32>) -> Self {
        Self { max: LiveBound::new(max), known: Mutex::default() }
    }

    /// Changes the bound. Subscribers beyond the new one stay.
    pub(super) fn set_max(&self, max: Option<u32>) {
        self.max.set(max);
    }

    /// Checks that the endpoint may bind one more subscriber.
    ///
    /// # Errors
    /// `LIMIT_REACHED`.
    pub(super) fn check(&self, endpoint: Option<&MemberId>, registry: &Registry) -> Result<()> {
        let (Some(max), Some(endpoint)) = (self.max.get(), endpoint) else { return Ok(()) };
        let mut known = self.known();
        let EndpointIndex { endpoints, subscribers } = &mut *known;
        let Some(own) = subscribers.get_mut(endpoint) else { return Ok(()) };
        own.retain(|key, room| {
            let exists = registry.known(room).is_some();
            if !exists {
                endpoints.remove(key);
            }
            exists
        });
        if u64::try_from(own.len()).is_ok_and(|count| count < max) {
            return Ok(());
        }
        Err(Error::limit_reached(
            Limit::DurableSubscribersOfCaller,
            format!(
                "the caller has as many durable subscribers as --limit-durable-subscribers allows ({max}); delete one \
                 with DeleteSubscriber"
            ),
        ))
    }

    /// Records a subscriber.
    pub(super) fn add(&self, holding: &Holding) {
        let (key, subscriber) = (holding.key(), &holding.subscriber);
        let mut known = self.known();
        known.remove(&key);
        if let Some(endpoint) = &subscriber.endpoint {
            known.endpoints.insert(key.clone(), endpoint.clone());
            known.subscribers.entry(endpoint.clone()).or_default().insert(key, subscriber.room_id.clone());
        }
    }

    /// Removes the subscriber with this key.
    pub(super) fn remove(&self, key: &str) {
        self.known().remove(key);
    }

    /// Clears the counts. The watch reports every existing entry again.
    pub(super) fn clear(&self) {
        *self.known() = EndpointIndex::default();
    }

    fn known(&self) -> MutexGuard<'_, EndpointIndex> {
        lock(&self.known)
    }
}

impl EndpointIndex {
    fn remove(&mut self, key: &str) {
        let Some(endpoint) = self.endpoints.remove(key) else { return };
        if let Some(own) = self.subscribers.get_mut(&endpoint) {
            own.remove(key);
            if own.is_empty() {
                self.subscribers.remove(&endpoint);
            }
        }
    }
}
