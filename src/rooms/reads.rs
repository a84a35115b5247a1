//! What each caller reads in bulk: pages of history, and backlogs.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, Weak},
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time,
};

use super::{quotas::Key, rate::Rate};
use crate::{
    domain::Caller,
    error::{Error, Reason, Result},
    limits::{READ_WAIT_MAX, READS_AT_ONCE_MAX},
    sync::lock,
};

/// The reads of all callers.
#[derive(Debug)]
pub(super) struct Reads {
    /// Pages that one caller may read or wait for; `None` is no bound.
    max: Option<u32>,
    rate: Option<Arc<Rate>>,
    callers: Mutex<HashMap<Key, Weak<Places>>>,
}

/// One caller's places.
#[derive(Debug)]
struct Places {
    /// Pages that are read or wait.
    pages: Arc<Semaphore>,
    /// Pages that are read.
    pages_at_once: Arc<Semaphore>,
    /// Backlogs that are read.
    backlogs_at_once: Arc<Semaphore>,
    max: u32,
}

/// The reads of one caller. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct CallerReads {
    caller: Caller,
    places: Option<Arc<Places>>,
    rate: Option<Arc<Rate>>,
}

/// The place of a page that is read; free again when it is dropped.
#[derive(Debug)]
pub(super) struct ReadPlace(#[expect(dead_code, reason = "held")] Option<[OwnedSemaphorePermit; 2]>);

impl Reads {
    pub(super) fn new(max: Option<u32>, bytes_per_second: Option<u32>) -> Self {
        let rate = bytes_per_second.map(|max| Arc::new(Rate::new("--limit-read-bytes", max)));
        Self { max, rate, callers: Mutex::default() }
    }

    pub(super) fn of(&self, caller: &Caller) -> CallerReads {
        let places = self.max.map(|max| {
            let mut callers = lock(&self.callers);
            let known = callers.entry(caller.id().cloned()).or_default();
            known.upgrade().unwrap_or_else(|| {
                let places = Arc::new(Places::new(max));
                *known = Arc::downgrade(&places);
                places
            })
        });
        CallerReads { caller: caller.clone(), places, rate: self.rate.clone() }
    }

    /// Forgets callers who read nothing.
    pub(super) fn forget_idle(&self) {
        if let Some(rate) = &self.rate {
            rate.forget_idle();
        }
        let mut callers = lock(&self.callers);
        callers.retain(|_, places| places.strong_count() > 0);
        callers.shrink_to_fit();
    }
}

impl Places {
    fn new(max: u32) -> Self {
        Self {
            pages: Arc::new(Semaphore::new(usize::try_from(max).unwrap_or(Semaphore::MAX_PERMITS))),
            pages_at_once: Arc::new(Semaphore::new(READS_AT_ONCE_MAX)),
            backlogs_at_once: Arc::new(Semaphore::new(READS_AT_ONCE_MAX)),
            max,
        }
    }
}

impl CallerReads {
    /// A place for one page, once the caller reads few enough at the same time.
    ///
    /// # Errors
    /// `RATE_LIMITED` when the caller has too many pages under way, or waits for too long.
    ///
    /// # Cancel safety
    /// May be dropped at any point.
    pub(super) async fn page(&self) -> Result<ReadPlace> {
        let Some(places) = &self.places else { return Ok(ReadPlace(None)) };
        let refused = || {
            let message = format!(
                "the caller reads as many pages of history at the same time as --limit-reads allows ({}); wait",
                places.max
            );
            Error::new(Reason::RateLimited, message).with("limit", "--limit-reads")
        };
        let under_way = Arc::clone(&places.pages).try_acquire_owned().map_err(|_| refused())?;
        let acquiring = Arc::clone(&places.pages_at_once).acquire_owned();
        match time::timeout(READ_WAIT_MAX, acquiring).await {
            Ok(Ok(at_once)) => Ok(ReadPlace(Some([under_way, at_once]))),
            Ok(Err(_)) | Err(_) => Err(refused()),
        }
    }

    /// Returns when the caller may have read these bytes.
    ///
    /// # Cancel safety
    /// May be dropped at any point.
    pub(super) async fn pay(&self, bytes: usize) {
        if let Some(rate) = &self.rate {
            rate.pay(&self.caller, bytes).await;
        }
    }

    /// The places of backlogs that are read at the same time.
    pub(super) fn backlogs_at_once(&self) -> Option<Arc<Semaphore>> {
        self.places.as_ref().map(|places| Arc::clone(&places.backlogs_at_once))
    }
}
