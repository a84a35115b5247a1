//! Bounds the bytes of messages that are being received, for each caller and for all callers together.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    domain::MemberId,
    limits::{
        INFLATIONS_MAX, REQUEST_BYTES_MAX, REQUEST_BYTES_PER_CALLER_MAX, REQUESTS_WAITING_MAX,
        REQUESTS_WAITING_PER_CALLER_MAX,
    },
    sync::PerKey,
};

/// A number of bytes, places to wait for them, and turns to inflate a message.
#[derive(Debug)]
pub(in crate::server) struct Budget {
    bytes: Arc<Semaphore>,
    places: Arc<Semaphore>,
    inflations: Arc<Semaphore>,
    bytes_max: usize,
}

impl Budget {
    fn new(bytes_max: usize, waiting_max: usize, inflations_max: usize) -> Self {
        let [bytes, places, inflations] =
            [bytes_max, waiting_max, inflations_max].map(|count| Arc::new(Semaphore::new(count)));
        Self { bytes, places, inflations, bytes_max }
    }

    /// The budget of one caller.
    pub(in crate::server) fn for_caller() -> Self {
        Self::new(REQUEST_BYTES_PER_CALLER_MAX, REQUESTS_WAITING_PER_CALLER_MAX, 1)
    }

    /// The permits for a message of `bytes` bytes. A message larger than the whole budget takes the whole budget, and
    /// is received alone.
    fn permits(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.min(self.bytes_max)).unwrap_or(u32::MAX)
    }
}

/// The budget of all callers together, and the budgets of each.
#[derive(Debug)]
pub(in crate::server) struct Budgets {
    all: Arc<Budget>,
    callers: PerKey<MemberId, Budget>,
}

impl Default for Budgets {
    fn default() -> Self {
        let all = Arc::new(Budget::new(REQUEST_BYTES_MAX, REQUESTS_WAITING_MAX, INFLATIONS_MAX));
        Self { all, callers: PerKey::default() }
    }
}

impl Budgets {
    /// The bytes of the budget of all callers that are in use.
    pub(in crate::server) fn bytes(&self) -> usize {
        self.all.bytes_max.saturating_sub(self.all.bytes.available_permits())
    }

    /// The budgets that a call is charged to: the budget of all callers, and the budget of its caller, or of its
    /// connection when the caller has no id.
    pub(super) fn of_call(self: &Arc<Self>, caller: Option<&MemberId>, connection: Option<Arc<Budget>>) -> CallBudgets {
        let of_caller = match (caller, connection) {
            (Some(id), _) => ChargedTo::Caller(id.clone()),
            (None, Some(budget)) => ChargedTo::Connection(budget),
            (None, None) => ChargedTo::None,
        };
        CallBudgets { budgets: Arc::clone(self), of_caller }
    }
}

/// The budgets that a call is charged to.
#[derive(Clone, Debug)]
pub(super) struct CallBudgets {
    budgets: Arc<Budgets>,
    of_caller: ChargedTo,
}

#[derive(Clone, Debug)]
enum ChargedTo {
    Caller(MemberId),
    Connection(Arc<Budget>),
    None,
}

/// The bytes that a message holds while it is received.
#[derive(Debug)]
pub(super) struct Charge {
    _of_caller: Option<(OwnedSemaphorePermit, Arc<Budget>)>,
    _of_all: OwnedSemaphorePermit,
}

/// The turn of a call to inflate a message. A call that has it waits for nothing else.
#[derive(Debug)]
pub(super) struct InflationTurn {
    // the budget stays while the permit is in use, so that the caller gets no other one
    _of_caller: Option<(OwnedSemaphorePermit, Arc<Budget>)>,
    _of_all: OwnedSemaphorePermit,
}

impl CallBudgets {
    /// Waits until the caller inflates no other message, and few are inflated in all.
    pub(super) fn inflation_turn(&self) -> impl Future<Output = Option<InflationTurn>> + Send + 'static {
        let (of_caller, of_all) = (self.of_caller(), Arc::clone(&self.budgets.all.inflations));
        async move {
            let of_caller = match of_caller {
                Some(budget) => Some((Arc::clone(&budget.inflations).acquire_owned().await.ok()?, budget)),
                None => None,
            };
            Some(InflationTurn { _of_caller: of_caller, _of_all: of_all.acquire_owned().await.ok()? })
        }
    }

    fn of_caller(&self) -> Option<Arc<Budget>> {
        match &self.of_caller {
            ChargedTo::Caller(id) => Some(self.budgets.callers.get_or_make(id.clone(), Budget::for_caller)),
            ChargedTo::Connection(budget) => Some(Arc::clone(budget)),
            ChargedTo::None => None,
        }
    }

    /// Charges `bytes`, if the budgets have that many bytes left now.
    pub(super) fn try_charge(&self, bytes: usize) -> Option<Charge> {
        let of_caller = match self.of_caller() {
            Some(budget) => {
                let permit = Arc::clone(&budget.bytes).try_acquire_many_owned(budget.permits(bytes)).ok()?;
                Some((permit, budget))
            }
            None => None,
        };
        let all = &self.budgets.all;
        let of_all = Arc::clone(&all.bytes).try_acquire_many_owned(all.permits(bytes)).ok()?;
        Some(Charge { _of_caller: of_caller, _of_all: of_all })
    }

    /// Waits until the budgets have `bytes` left, and charges them. Returns `None` when no place to wait is free.
    pub(super) fn charge(&self, bytes: usize) -> Option<impl Future<Output = Option<Charge>> + Send + 'static> {
        let all = Arc::clone(&self.budgets.all);
        let place = Arc::clone(&all.places).try_acquire_owned().ok()?;
        let of_caller = match self.of_caller() {
            Some(budget) => Some((Arc::clone(&budget.places).try_acquire_owned().ok()?, budget)),
            None => None,
        };
        Some(async move {
            // the caller's budget first: a call that waits for its own caller must not hold bytes of the budget of all
            let of_caller = match of_caller {
                Some((_place, budget)) => {
                    let permits = budget.permits(bytes);
                    Some((Arc::clone(&budget.bytes).acquire_many_owned(permits).await.ok()?, budget))
                }
                None => None,
            };
            let of_all = Arc::clone(&all.bytes).acquire_many_owned(all.permits(bytes)).await.ok()?;
            drop(place);
            Some(Charge { _of_caller: of_caller, _of_all: of_all })
        })
    }
}
