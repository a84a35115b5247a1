//! Bounds the number of open subscriptions.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    domain::{Caller, MemberId},
    error::{Error, Limit, Result},
    sync::lock,
};

/// Bounds on the open subscriptions of this instance: in total and for each caller. Clones share the counts.
#[derive(Clone, Debug)]
pub(crate) struct SubscriptionLimit {
    places: Arc<Semaphore>,
    max: u32,
    of_caller: Option<OfCaller>,
}

/// The bound for each caller, and the number of its open subscriptions. Callers without names share one count.
#[derive(Clone, Debug)]
struct OfCaller {
    max: u32,
    open: Arc<Mutex<HashMap<Option<MemberId>, u32>>>,
}

/// One open subscription's place. Dropping it releases the place.
#[derive(Debug)]
pub(crate) struct SubscriptionPlace {
    _place: OwnedSemaphorePermit,
    _of_caller: Option<PlaceOfCaller>,
}

#[derive(Debug)]
struct PlaceOfCaller {
    limit: OfCaller,
    caller: Option<MemberId>,
}

impl SubscriptionLimit {
    /// Allows `max` subscriptions in total and `max_of_caller` for each caller.
    pub(crate) fn new(max: u32, max_of_caller: Option<u32>) -> Self {
        Self {
            places: Arc::new(Semaphore::new(max.try_into().unwrap_or(Semaphore::MAX_PERMITS))),
            max,
            of_caller: max_of_caller.map(|max| OfCaller { max, open: Arc::default() }),
        }
    }

    /// Takes a place for one subscription.
    ///
    /// # Errors
    /// `LIMIT_REACHED` when all places are taken, or all places of this caller.
    pub(crate) fn take(&self, caller: &Caller) -> Result<SubscriptionPlace> {
        let of_caller = self.of_caller.as_ref().map(|limit| limit.take(caller)).transpose()?;
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| {
            let max = self.max;
            Error::limit_reached(
                Limit::Subscriptions,
                format!(
                    "this instance has as many open subscriptions as --max-subscriptions allows ({max}); \
                     use another instance, or raise the flag"
                ),
            )
        })?;
        Ok(SubscriptionPlace { _place: place, _of_caller: of_caller })
    }
}

impl OfCaller {
    fn take(&self, caller: &Caller) -> Result<PlaceOfCaller> {
        let caller = caller.id().cloned();
        let mut all = self.open();
        let open = all.entry(caller.clone()).or_insert(0);
        if *open >= self.max {
            let max = self.max;
            return Err(Error::limit_reached(
                Limit::SubscriptionsOfCaller,
                format!(
                    "the caller has as many open subscriptions on this instance as --limit-subscriptions allows ({max}); \
                     close a subscription"
                ),
            ));
        }
        *open += 1;
        drop(all);
        Ok(PlaceOfCaller { limit: self.clone(), caller })
    }

    fn open(&self) -> MutexGuard<'_, HashMap<Option<MemberId>, u32>> {
        lock(&self.open)
    }
}

impl Drop for PlaceOfCaller {
    fn drop(&mut self) {
        let mut all = self.limit.open();
        if let Some(open) = all.get_mut(&self.caller) {
            *open -= 1;
            if *open == 0 {
                all.remove(&self.caller);
            }
        }
    }
}
