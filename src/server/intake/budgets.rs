//! The bytes of messages that are being received: how many there may be, for each caller and for all.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    domain::MemberId,
    limits::{REQUEST_BYTES_MAX, REQUEST_BYTES_PER_CALLER_MAX, REQUESTS_WAITING_MAX, REQUESTS_WAITING_PER_CALLER_MAX},
    sync::PerKey,
};

/// Bytes, and places to wait for some.
#[derive(Debug)]
pub(in crate::server) struct Budget {
    bytes: Arc<Semaphore>,
    places: Arc<Semaphore>,
    bytes_max: usize,
}

impl Budget {
    fn new(bytes_max: usize, waiting_max: usize) -> Self {
        Self { bytes: Arc::new(Semaphore::new(bytes_max)), places: Arc::new(Semaphore::new(waiting_max)), bytes_max }
    }

    /// What one caller may have.
    pub(in crate::server) fn of_one() -> Self {
        Self::new(REQUEST_BYTES_PER_CALLER_MAX, REQUESTS_WAITING_PER_CALLER_MAX)
    }

    /// A message larger than all of it is received alone.
    fn permits(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.min(self.bytes_max)).unwrap_or(u32::MAX)
    }
}

/// What all callers may have together, and each.
#[derive(Debug)]
pub(super) struct Budgets {
    all: Arc<Budget>,
    callers: PerKey<MemberId, Budget>,
}

impl Default for Budgets {
    fn default() -> Self {
        let all = Arc::new(Budget::new(REQUEST_BYTES_MAX, REQUESTS_WAITING_MAX));
        Self { all, callers: PerKey::default() }
    }
}

impl Budgets {
    /// What a call is charged to: its caller, or where that has no name its connection; and all.
    pub(super) fn share(self: &Arc<Self>, caller: Option<&MemberId>, connection: Option<Arc<Budget>>) -> Share {
        let of_one = match (caller, connection) {
            (Some(id), _) => OfOne::Caller(id.clone()),
            (None, Some(budget)) => OfOne::Connection(budget),
            (None, None) => OfOne::None,
        };
        Share { budgets: Arc::clone(self), of_one }
    }
}

/// What a call is charged to.
#[derive(Clone, Debug)]
pub(super) struct Share {
    budgets: Arc<Budgets>,
    of_one: OfOne,
}

#[derive(Clone, Debug)]
enum OfOne {
    Caller(MemberId),
    Connection(Arc<Budget>),
    None,
}

/// What is held while a message is received.
#[derive(Debug)]
pub(super) struct Charge {
    _of_one: Option<(OwnedSemaphorePermit, Arc<Budget>)>,
    _of_all: OwnedSemaphorePermit,
}

impl Share {
    fn of_one(&self) -> Option<Arc<Budget>> {
        match &self.of_one {
            OfOne::Caller(id) => Some(self.budgets.callers.get_or_make(id.clone(), Budget::of_one)),
            OfOne::Connection(budget) => Some(Arc::clone(budget)),
            OfOne::None => None,
        }
    }

    /// Room for so many bytes, if there is some just now.
    pub(super) fn try_charge(&self, bytes: usize) -> Option<Charge> {
        let of_one = match self.of_one() {
            Some(budget) => {
                let permit = Arc::clone(&budget.bytes).try_acquire_many_owned(budget.permits(bytes)).ok()?;
                Some((permit, budget))
            }
            None => None,
        };
        let all = &self.budgets.all;
        let of_all = Arc::clone(&all.bytes).try_acquire_many_owned(all.permits(bytes)).ok()?;
        Some(Charge { _of_one: of_one, _of_all: of_all })
    }

    /// Waits until there is room for so many bytes; `None` when too many wait already.
    pub(super) fn charge(&self, bytes: usize) -> Option<impl Future<Output = Option<Charge>> + Send + 'static> {
        let all = Arc::clone(&self.budgets.all);
        let place = Arc::clone(&all.places).try_acquire_owned().ok()?;
        let of_one = match self.of_one() {
            Some(budget) => Some((Arc::clone(&budget.places).try_acquire_owned().ok()?, budget)),
            None => None,
        };
        Some(async move {
            // the caller's first: who waits for all others holds up nobody with what is its own
            let of_one = match of_one {
                Some((_place, budget)) => {
                    let permits = budget.permits(bytes);
                    Some((Arc::clone(&budget.bytes).acquire_many_owned(permits).await.ok()?, budget))
                }
                None => None,
            };
            let of_all = Arc::clone(&all.bytes).acquire_many_owned(all.permits(bytes)).await.ok()?;
            drop(place);
            Some(Charge { _of_one: of_one, _of_all: of_all })
        })
    }
}
