//! How many subscriptions are open, and how many may be.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::{Error, Reason, Result};

/// The bound on open subscriptions of this instance. Clones count together.
#[derive(Clone, Debug)]
pub(super) struct SubscriptionLimit {
    places: Arc<Semaphore>,
    max: u32,
}

/// One open subscription's place; free again when it is dropped.
#[derive(Debug)]
pub(super) struct SubscriptionPlace(#[expect(dead_code, reason = "held, not read")] OwnedSemaphorePermit);

impl SubscriptionLimit {
    /// A bound of `max` subscriptions, of which none is open.
    pub(super) fn new(max: u32) -> Self {
        Self { places: Arc::new(Semaphore::new(max.try_into().unwrap_or(Semaphore::MAX_PERMITS))), max }
    }

    /// A place for one more.
    ///
    /// # Errors
    /// `LIMIT_REACHED` when all are taken.
    pub(super) fn take(&self) -> Result<SubscriptionPlace> {
        Arc::clone(&self.places).try_acquire_owned().map(SubscriptionPlace).map_err(|_| {
            let max = self.max;
            Error::new(
                Reason::LimitReached,
                format!(
                    "this instance has as many open subscriptions as --max-subscriptions allows ({max}); \
                     use another instance, or raise it"
                ),
            )
            .with("limit", "--max-subscriptions")
        })
    }
}
