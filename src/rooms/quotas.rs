//! Quotas of each caller on this instance: rates of publishing, rooms, and reads. Callers without names share one
//! allowance.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use clap::Args;
use tokio::{
    sync::{Mutex, OwnedMutexGuard},
    time,
};
use tokio_util::sync::CancellationToken;

use crate::{
    domain::{Caller, MemberId},
    error::{Error, Limit, Result, Violations},
    flags,
    limits::{
        CALLS_PER_CALLER, DURABLE_SUBSCRIBERS_PER_CALLER, READ_BYTES_PER_CALLER, READS_PER_CALLER, ROOMS_PER_CALLER,
        STORED_BYTES_PER_CALLER, SUBSCRIPTIONS_PER_CALLER,
    },
    subscriptions::{
        rate::{CallerKey, Rate},
        reads::{CallerReads, Reads},
    },
    sync::PerKey,
};

/// How often callers with a full allowance are removed.
const FORGET_INTERVAL: Duration = Duration::from_secs(60);

/// The quotas of each caller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Args)]
pub struct CallerLimits {
    /// Messages that a caller may publish per second; unset: no bound
    #[arg(long = "limit-publishes", env = "UNIBUS_LIMIT_PUBLISHES", value_name = "COUNT", value_parser = flags::count())]
    pub publishes: Option<u32>,

    /// Bytes of payloads, headers and message ids that a caller may publish per second; unset: no bound
    #[arg(long = "limit-publish-bytes", env = "UNIBUS_LIMIT_PUBLISH_BYTES", value_name = "BYTES", value_parser = flags::count())]
    pub publish_bytes: Option<u32>,

    /// Open calls of a caller on all its connections; 0: no bound. Unset: 4000 with `--auth enforce`, else 0
    #[arg(long = "limit-calls", env = "UNIBUS_LIMIT_CALLS", value_name = "COUNT")]
    pub calls: Option<u32>,

    /// Open subscriptions of a caller; 0: no bound but `--max-subscriptions`. Unset: 1000 with `--auth enforce`, else
    /// 0
    #[arg(long = "limit-subscriptions", env = "UNIBUS_LIMIT_SUBSCRIPTIONS", value_name = "COUNT")]
    pub subscriptions: Option<u32>,

    /// Durable subscribers of a caller in all rooms; 0: no bound but that of NATS. Unset: 10000 with `--auth
    /// enforce`, else 0
    #[arg(long = "limit-durable-subscribers", env = "UNIBUS_LIMIT_DURABLE_SUBSCRIBERS", value_name = "COUNT")]
    pub durable_subscribers: Option<u32>,

    /// Rooms that a caller created and owns; 0: no bound but that of NATS. Unset: 100 with `--auth enforce`, else 0
    #[arg(long = "limit-rooms", env = "UNIBUS_LIMIT_ROOMS", value_name = "COUNT")]
    pub rooms: Option<u32>,

    /// Stored bytes in all rooms that a caller created; 0: no bound but that of NATS. Unset: 1 GiB with `--auth
    /// enforce`, else 0
    #[arg(long = "limit-stored-bytes", env = "UNIBUS_LIMIT_STORED_BYTES", value_name = "BYTES")]
    pub stored_bytes: Option<u64>,

    /// Pages of history that a caller may read at the same time; 0: no bound. Unset: 64 with `--auth enforce`, else 0
    #[arg(long = "limit-reads", env = "UNIBUS_LIMIT_READS", value_name = "COUNT")]
    pub reads: Option<u32>,

    /// Bytes of pages and backlogs that a caller may read per second; 0: no bound. Unset: 32 MiB with `--auth
    /// enforce`, else 0
    #[arg(long = "limit-read-bytes", env = "UNIBUS_LIMIT_READ_BYTES", value_name = "BYTES")]
    pub read_bytes: Option<u32>,
}

impl CallerLimits {
    /// Adds the fields with values that their flags refuse to `wrong`.
    pub(super) fn check(&self, wrong: &mut Violations) {
        for (field, limit) in [("limit_publishes", self.publishes), ("limit_publish_bytes", self.publish_bytes)] {
            if let Some(limit) = limit {
                flags::check_count(field, limit, wrong);
            }
        }
    }

    /// Returns the quotas in force; `None`: no bound.
    pub(super) fn in_force(self, is_enforced: bool) -> Self {
        let bound = |given, by_default| flags::bound(given, by_default, is_enforced);
        Self {
            publishes: self.publishes,
            publish_bytes: self.publish_bytes,
            calls: bound(self.calls, CALLS_PER_CALLER),
            subscriptions: bound(self.subscriptions, SUBSCRIPTIONS_PER_CALLER),
            durable_subscribers: bound(self.durable_subscribers, DURABLE_SUBSCRIBERS_PER_CALLER),
            rooms: bound(self.rooms, ROOMS_PER_CALLER),
            stored_bytes: flags::bound(self.stored_bytes, STORED_BYTES_PER_CALLER, is_enforced),
            reads: bound(self.reads, READS_PER_CALLER),
            read_bytes: bound(self.read_bytes, READ_BYTES_PER_CALLER),
        }
    }
}

/// The allowances of all callers. Their bounds may change.
#[derive(Debug)]
pub(super) struct Allowances {
    in_force: ArcSwap<Quotas>,
    /// One lock for each caller that is creating a room.
    creating: PerKey<CallerKey, Mutex<()>>,
}

/// The bounds, and what callers have used of them.
#[derive(Debug)]
struct Quotas {
    limits: CallerLimits,
    publishes: Option<Arc<Rate>>,
    publish_bytes: Option<Arc<Rate>>,
    reads: Arc<Reads>,
}

impl Quotas {
    fn new(limits: CallerLimits) -> Self {
        let rate = |limit, max: Option<u32>| max.map(|max| Arc::new(Rate::new(limit, max)));
        Self {
            publishes: rate(Limit::PublishesOfCaller, limits.publishes),
            publish_bytes: rate(Limit::PublishBytesOfCaller, limits.publish_bytes),
            reads: Arc::new(Reads::new(limits.reads, limits.read_bytes)),
            limits,
        }
    }

    /// Returns the quotas with other limits. Where a limit stays, what callers have used of it stays too.
    fn with(&self, limits: CallerLimits) -> Self {
        let (old, mut new) = (&self.limits, Self::new(limits));
        if old.publishes == limits.publishes {
            new.publishes.clone_from(&self.publishes);
        }
        if old.publish_bytes == limits.publish_bytes {
            new.publish_bytes.clone_from(&self.publish_bytes);
        }
        if (old.reads, old.read_bytes) == (limits.reads, limits.read_bytes) {
            new.reads = Arc::clone(&self.reads);
        }
        new
    }
}

impl Allowances {
    pub(super) fn new(limits: &CallerLimits) -> Self {
        Self { in_force: ArcSwap::from_pointee(Quotas::new(*limits)), creating: PerKey::default() }
    }

    /// Changes the bounds. Calls that are open keep the bounds on their reads.
    pub(super) fn set(&self, limits: &CallerLimits) {
        self.in_force.store(Arc::new(self.in_force.load().with(*limits)));
    }

    /// Charges the messages to the caller. A rate that they exceed is not charged.
    ///
    /// # Errors
    /// `RATE_LIMITED` with the time to wait. `LIMIT_REACHED` if the messages exceed a burst.
    pub(super) fn publish(&self, caller: &Caller, messages: usize, bytes: usize) -> Result<()> {
        // a refusal for the bytes has already charged the messages; the rate restores them within a second
        let in_force = self.in_force.load();
        if let Some(publishes) = &in_force.publishes {
            publishes.take(caller, messages)?;
        }
        if let Some(publish_bytes) = &in_force.publish_bytes {
            publish_bytes.take(caller, bytes)?;
        }
        Ok(())
    }

    /// The bounds on the caller's bulk reads.
    pub(super) fn reads(&self, caller: &Caller) -> CallerReads {
        self.in_force.load().reads.of(caller)
    }

    /// Waits until no other room is being created for this caller, so that each room is counted before the next.
    ///
    /// # Cancel safety
    /// May be dropped at any point.
    pub(super) async fn turn_to_create(&self, caller: &Caller) -> Option<OwnedMutexGuard<()>> {
        self.in_force.load().limits.rooms?;
        let turn = self.creating.get_or_make(caller.id().cloned(), Mutex::default);
        Some(turn.lock_owned().await)
    }

    /// Checks that the caller may create one more room. `count` returns the number of its rooms.
    ///
    /// # Errors
    /// `LIMIT_REACHED`.
    pub(super) fn create(&self, caller: &Caller, count: impl FnOnce(Option<&MemberId>) -> usize) -> Result<()> {
        let Some(max) = self.in_force.load().limits.rooms else { return Ok(()) };
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
            let in_force = self.in_force.load_full();
            for rate in [&in_force.publishes, &in_force.publish_bytes].into_iter().flatten() {
                rate.forget_idle();
            }
            in_force.reads.forget_idle();
        }
    }
}
