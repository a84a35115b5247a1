//! Bounds the number of open subscriptions.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{
    domain::{Caller, MemberId},
    error::{Error, Limit, Result},
    metrics::OpenSubscription,
    sync::{LiveBound, lock},
};

/// Bounds on the open subscriptions of this instance: in total and for each caller. Clones share the counts.
#[derive(Clone, Debug)]
pub(crate) struct SubscriptionLimit(Arc<OpenCounts>);

#[derive(Debug)]
struct OpenCounts {
    max: LiveBound,
    open: AtomicU64,
    max_of_caller: LiveBound,
    /// Callers without names share one count.
    of_callers: Mutex<HashMap<Option<MemberId>, u64>>,
}

/// One open subscription's place. Dropping it releases the place.
#[derive(Debug)]
pub(crate) struct SubscriptionPlace {
    _place: PlaceOfInstance,
    _of_caller: PlaceOfCaller,
}

/// A place, and the subscription that the metrics count.
pub(crate) type CountedPlace = (SubscriptionPlace, OpenSubscription);

#[derive(Debug)]
struct PlaceOfInstance(Arc<OpenCounts>);

#[derive(Debug)]
struct PlaceOfCaller {
    counts: Arc<OpenCounts>,
    caller: Option<MemberId>,
}

impl SubscriptionLimit {
    /// Allows `max` subscriptions in total and `max_of_caller` for each caller.
    pub(crate) fn new(max: u32, max_of_caller: Option<u32>) -> Self {
        Self(Arc::new(OpenCounts {
            max: LiveBound::new(Some(max)),
            open: AtomicU64::default(),
            max_of_caller: LiveBound::new(max_of_caller),
            of_callers: Mutex::default(),
        }))
    }

    /// Changes the bounds. Open subscriptions beyond the new ones stay open.
    pub(crate) fn set(&self, max: u32, max_of_caller: Option<u32>) {
        self.0.max.set(Some(max));
        self.0.max_of_caller.set(max_of_caller);
    }

    /// The number of taken places, and the bound.
    pub(crate) fn used_of_max(&self) -> (u64, Option<u64>) {
        (self.0.open.load(Ordering::Relaxed), self.0.max.get())
    }

    /// Takes a place for one subscription.
    ///
    /// # Errors
    /// `LIMIT_REACHED` when all places are taken, or all places of this caller.
    pub(crate) fn take(&self, caller: &Caller) -> Result<SubscriptionPlace> {
        let of_caller = PlaceOfCaller::take(&self.0, caller)?;
        let place = PlaceOfInstance::take(&self.0)?;
        Ok(SubscriptionPlace { _place: place, _of_caller: of_caller })
    }
}

impl PlaceOfInstance {
    fn take(counts: &Arc<OpenCounts>) -> Result<Self> {
        let before = counts.open.fetch_add(1, Ordering::AcqRel);
        // made before the check: a refusal drops it, which takes the count back
        let place = Self(Arc::clone(counts));
        match counts.max.get() {
            Some(max) if before >= max => Err(Error::limit_reached(
                Limit::Subscriptions,
                format!(
                    "this instance has as many open subscriptions as --max-subscriptions allows ({max}); \
                     use another instance, or raise the flag"
                ),
            )),
            _ => Ok(place),
        }
    }
}

impl Drop for PlaceOfInstance {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::AcqRel);
    }
}

impl PlaceOfCaller {
    fn take(counts: &Arc<OpenCounts>, caller: &Caller) -> Result<Self> {
        let caller = caller.id().cloned();
        let max = counts.max_of_caller.get().unwrap_or(u64::MAX);
        let mut all = lock(&counts.of_callers);
        if all.get(&caller).is_some_and(|open| *open >= max) {
            return Err(Error::limit_reached(
                Limit::SubscriptionsOfCaller,
                format!(
                    "the caller has as many open subscriptions on this instance as --limit-subscriptions allows ({max}); \
                     close a subscription"
                ),
            ));
        }
        *all.entry(caller.clone()).or_insert(0) += 1;
        Ok(Self { counts: Arc::clone(counts), caller })
    }
}

impl Drop for PlaceOfCaller {
    fn drop(&mut self) {
        let mut all = lock(&self.counts.of_callers);
        if let Some(open) = all.get_mut(&self.caller) {
            *open -= 1;
            if *open == 0 {
                all.remove(&self.caller);
            }
        }
    }
}
