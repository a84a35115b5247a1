//! Quotas of each caller on this instance: rates of publishing, rooms, and reads. Callers without names share one
//! allowance.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Mutex, OwnedMutexGuard},
    time,
};
use tokio_util::sync::CancellationToken;

use crate::{
    domain::{Caller, MemberId},
    error::{Error, Limit, Result},
    subscriptions::{
        rate::{CallerKey, Rate},
        reads::{CallerReads, Reads},
    },
    sync::PerKey,
};

/// How often callers with a full allowance are removed.
const FORGET_INTERVAL: Duration = Duration::from_secs(60);

/// The quotas of each caller. `None`: no bound.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Quotas {
    /// Messages per second.
    pub publishes: Option<u32>,
    /// Bytes of payloads, headers and message ids per second.
    pub publish_bytes: Option<u32>,
    /// Open subscriptions.
    pub subscriptions: Option<u32>,
    /// Durable subscribers, in all rooms.
    pub durable_subscribers: Option<u32>,
    /// Rooms that the caller created and owns.
    pub rooms: Option<u32>,
    /// Pages of history that are being read or wait.
    pub reads: Option<u32>,
    /// Bytes of pages and backlogs per second.
    pub read_bytes: Option<u32>,
    /// Bytes in the rooms that the caller created.
    pub stored_bytes: Option<u64>,
}

/// The allowances of all callers.
#[derive(Debug)]
pub(super) struct Allowances {
    publishes: Option<Rate>,
    publish_bytes: Option<Rate>,
    rooms: Option<u32>,
    reads: Reads,
    /// One lock for each caller that is creating a room.
    creating: PerKey<CallerKey, Mutex<()>>,
}

impl Allowances {
    pub(super) fn new(quotas: Quotas) -> Self {
        Self {
            publishes: quotas.publishes.map(|max| Rate::new(Limit::PublishesOfCaller, max)),
            publish_bytes: quotas.publish_bytes.map(|max| Rate::new(Limit::PublishBytesOfCaller, max)),
            rooms: quotas.rooms,
            reads: Reads::new(quotas.reads, quotas.read_bytes),
            creating: PerKey::default(),
        }
    }

    /// Charges the messages to the caller. A rate that they exceed is not charged.
    ///
    /// # Errors
    /// `RATE_LIMITED` with the time to wait. `LIMIT_REACHED` if the messages exceed a burst.
    pub(super) fn publish(&self, caller: &Caller, messages: usize, bytes: usize) -> Result<()> {
        // a refusal for the bytes has already charged the messages; the rate restores them within a second
        if let Some(publishes) = &self.publishes {
            publishes.take(caller, messages)?;
        }
        if let Some(publish_bytes) = &self.publish_bytes {
            publish_bytes.take(caller, bytes)?;
        }
        Ok(())
    }

    /// The bounds on the caller's bulk reads.
    pub(super) fn reads(&self, caller: &Caller) -> CallerReads {
        self.reads.of(caller)
    }

    /// Waits until no other room is being created for this caller, so that each room is counted before the next.
    ///
    /// # Cancel safety
    /// May be dropped at any point.
    pub(super) async fn turn_to_create(&self, caller: &Caller) -> Option<OwnedMutexGuard<()>> {
        self.rooms?;
        let turn = self.creating.get_or_make(caller.id().cloned(), Mutex::default);
        Some(turn.lock_owned().await)
    }

    /// Checks that the caller may create one more room. `count` returns the number of its rooms.
    ///
    /// # Errors
    /// `LIMIT_REACHED`.
    pub(super) fn create(&self, caller: &Caller, count: impl FnOnce(Option<&MemberId>) -> usize) -> Result<()> {
        let Some(max) = self.rooms else { return Ok(()) };
        if u32::try_from(count(caller.id())).is_ok_and(|count| count < max) {
            return Ok(());
        }
        Err(Error::limit_reached(
            Limit::RoomsOfCaller,
            format!(
                "the caller has as many rooms that it created and owns as --limit-rooms allows ({max}); delete a room"
            ),
        ))
    }

    /// Removes callers with a full allowance, until `stop`.
    pub(super) async fn forget_idle(self: Arc<Self>, stop: CancellationToken) {
        while stop.run_until_cancelled(time::sleep(FORGET_INTERVAL)).await.is_some() {
            for rate in [&self.publishes, &self.publish_bytes].into_iter().flatten() {
                rate.forget_idle();
            }
            self.reads.forget_idle();
        }
    }
}
