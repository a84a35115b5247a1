//! Bounds on the bulk reads of each caller: pages of history, and backlogs.

use std::sync::Arc;

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time,
};

use super::rate::{CallerKey, Rate};
use crate::{
    domain::Caller,
    error::{Error, Limit, Reason, Result},
    limits::{BATCH_BYTES_MAX, HISTORY_PAGE_BYTES_MAX, LARGE_BATCHES_BYTES_MAX, READ_WAIT_MAX, READS_AT_ONCE_MAX},
    sync::PerKey,
};

/// The bounds on the reads of all callers.
#[derive(Debug)]
pub(crate) struct Reads {
    /// Pages that one caller may read or wait for. `None`: no bound.
    max: Option<u32>,
    rate: Option<Arc<Rate>>,
    callers: PerKey<CallerKey, CallerPlaces>,
}

/// One caller's places.
#[derive(Debug)]
struct CallerPlaces {
    /// One permit for each page that is being read or waits.
    pages: Arc<Semaphore>,
    /// Permits for pages that are being read.
    pages_at_once: Arc<Semaphore>,
    /// Permits for backlogs that are being read.
    backlogs_at_once: Arc<Semaphore>,
    /// One permit for each KiB of large batches that wait for the caller's clients.
    large_batches: Arc<Semaphore>,
    max: u32,
}

/// The reads of one caller. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct CallerReads {
    caller: Caller,
    places: Option<Arc<CallerPlaces>>,
    rate: Option<Arc<Rate>>,
}

/// The place of a page. Dropping the last clone releases it. The code that sends the page keeps the place until the
/// client has taken the page.
#[derive(Clone, Debug)]
pub(crate) struct ReadPlace(#[expect(dead_code, reason = "held")] Option<Arc<[OwnedSemaphorePermit; 2]>>);

/// The bytes of a batch beyond [`BATCH_BYTES_MAX`]. They are charged to the caller until this is dropped.
#[derive(Debug, Default)]
pub(crate) struct ReadCharge(Option<OwnedSemaphorePermit>);

impl ReadCharge {
    /// Keeps the charge of a batch of `bytes` bytes, and releases the rest.
    pub(crate) fn shrink_to(&mut self, bytes: usize) {
        let Some(held) = &mut self.0 else { return };
        let unused = held.num_permits().saturating_sub(beyond(bytes) as usize);
        drop(held.split(unused));
    }
}

/// The KiB that a batch of `bytes` bytes is charged.
fn beyond(bytes: usize) -> u32 {
    let kib = bytes.saturating_sub(BATCH_BYTES_MAX).div_ceil(1024);
    u32::try_from(kib.min(LARGE_BATCHES_BYTES_MAX / 1024)).unwrap_or(u32::MAX)
}

impl Reads {
    pub(crate) fn new(max: Option<u32>, bytes_per_second: Option<u32>) -> Self {
        let rate = bytes_per_second.map(|max| Arc::new(Rate::new(Limit::ReadBytesOfCaller, max)));
        Self { max, rate, callers: PerKey::default() }
    }

    pub(crate) fn of(&self, caller: &Caller) -> CallerReads {
        let places = self.max.map(|max| self.callers.get_or_make(caller.id().cloned(), || CallerPlaces::new(max)));
        CallerReads { caller: caller.clone(), places, rate: self.rate.clone() }
    }

    /// Removes the state of callers that read nothing.
    pub(crate) fn forget_idle(&self) {
        if let Some(rate) = &self.rate {
            rate.forget_idle();
        }
    }
}

impl CallerPlaces {
    fn new(max: u32) -> Self {
        Self {
            pages: Arc::new(Semaphore::new(usize::try_from(max).unwrap_or(Semaphore::MAX_PERMITS))),
            pages_at_once: Arc::new(Semaphore::new(READS_AT_ONCE_MAX)),
            backlogs_at_once: Arc::new(Semaphore::new(READS_AT_ONCE_MAX)),
            large_batches: Arc::new(Semaphore::new(LARGE_BATCHES_BYTES_MAX / 1024)),
            max,
        }
    }
}

impl CallerReads {
    /// Waits for a place for one page of at most `bytes_max` bytes.
    ///
    /// # Errors
    /// `RATE_LIMITED` when the caller has too many pages, or waits longer than [`READ_WAIT_MAX`].
    ///
    /// # Cancel safety
    /// May be dropped at any point.
    pub(crate) async fn page(&self, bytes_max: usize) -> Result<ReadPlace> {
        let Some(places) = &self.places else { return Ok(ReadPlace(None)) };
        let refused = || {
            let message = format!(
                "the caller reads as many pages of history at the same time as --limit-reads allows ({}); wait for one",
                places.max
            );
            Error::new(Reason::RateLimited, message).with("limit", Limit::ReadsOfCaller.name())
        };
        let under_way = Arc::clone(&places.pages).try_acquire_owned().map_err(|_| refused())?;
        let weight = (bytes_max / HISTORY_PAGE_BYTES_MAX).clamp(1, READS_AT_ONCE_MAX);
        let acquiring = Arc::clone(&places.pages_at_once).acquire_many_owned(u32::try_from(weight).unwrap_or(1));
        match time::timeout(READ_WAIT_MAX, acquiring).await {
            Ok(Ok(at_once)) => Ok(ReadPlace(Some(Arc::new([under_way, at_once])))),
            Ok(Err(_)) | Err(_) => Err(refused()),
        }
    }

    /// Waits until the caller's rate admits `bytes` bytes.
    ///
    /// # Cancel safety
    /// May be dropped at any point.
    pub(crate) async fn pay(&self, bytes: usize) {
        if let Some(rate) = &self.rate {
            rate.pay(&self.caller, bytes).await;
        }
    }

    /// Waits until a batch of `bytes` bytes may wait for one of the caller's clients.
    ///
    /// # Cancel safety
    /// May be dropped at any point.
    pub(crate) async fn charge(&self, bytes: usize) -> ReadCharge {
        let (Some(places), kib @ 1..) = (&self.places, beyond(bytes)) else { return ReadCharge(None) };
        ReadCharge(Arc::clone(&places.large_batches).acquire_many_owned(kib).await.ok())
    }

    /// As [`Self::charge`], without waiting. `None` if it would have to wait.
    pub(crate) fn try_charge(&self, bytes: usize) -> Option<ReadCharge> {
        let (Some(places), kib @ 1..) = (&self.places, beyond(bytes)) else { return Some(ReadCharge(None)) };
        Arc::clone(&places.large_batches).try_acquire_many_owned(kib).ok().map(|held| ReadCharge(Some(held)))
    }

    /// The permits for backlogs that the caller reads at the same time. `None`: no bound.
    pub(crate) fn backlogs_at_once(&self) -> Option<Arc<Semaphore>> {
        self.places.as_ref().map(|places| Arc::clone(&places.backlogs_at_once))
    }
}
