//! What each caller may take of this instance: rates of publishing, and rooms. Without names all callers are one.

use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use governor::{
    Quota, RateLimiter,
    clock::{Clock, DefaultClock},
    middleware::NoOpMiddleware,
    state::keyed::HashMapStateStore,
};
use tokio::{
    sync::{Mutex as AsyncMutex, OwnedMutexGuard},
    time,
};
use tokio_util::sync::CancellationToken;

use crate::{
    domain::{Caller, MemberId},
    error::{Error, Reason, Result},
    sync::lock,
};

/// How often callers are forgotten whose allowance is whole again.
const FORGET_INTERVAL: Duration = Duration::from_secs(60);
/// The bucket's clock counts nanoseconds; with at most so many units in a second what they round is below a thousandth.
const UNITS_PER_SECOND_MAX: u32 = 1_000_000;
const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// What an operator allows each caller; `None` is no bound.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Quotas {
    /// Messages in a second.
    pub publishes: Option<u32>,
    /// Bytes of payloads, headers and message ids in a second.
    pub publish_bytes: Option<u32>,
    /// Open subscriptions.
    pub subscriptions: Option<u32>,
    /// Rooms that exist.
    pub rooms: Option<u32>,
}

type Key = Option<MemberId>;

/// What callers have left of it.
#[derive(Debug)]
pub(super) struct Allowances {
    publishes: Option<Rate>,
    publish_bytes: Option<Rate>,
    rooms: Option<u32>,
    /// Who creates a room just now.
    creating: Mutex<HashMap<Key, Weak<AsyncMutex<()>>>>,
}

impl Allowances {
    pub(super) fn new(quotas: Quotas) -> Self {
        Self {
            publishes: quotas.publishes.map(|max| Rate::new("--limit-publishes", max, DefaultClock::default())),
            publish_bytes: quotas
                .publish_bytes
                .map(|max| Rate::new("--limit-publish-bytes", max, DefaultClock::default())),
            rooms: quotas.rooms,
            creating: Mutex::default(),
        }
    }

    /// Takes what these messages need, or nothing of the rate that they exceed.
    ///
    /// # Errors
    /// `RATE_LIMITED` with the time after which there is enough; `LIMIT_REACHED` when there never is.
    pub(super) fn publish(&self, caller: &Caller, messages: usize, bytes: usize) -> Result<()> {
        // a refusal for the bytes has taken the messages: they are whole again in no more than the second that it takes
        if let Some(publishes) = &self.publishes {
            publishes.take(caller, messages)?;
        }
        if let Some(publish_bytes) = &self.publish_bytes {
            publish_bytes.take(caller, bytes)?;
        }
        Ok(())
    }

    /// Waits until no other room is being created for this caller: it is counted before the next one.
    ///
    /// # Cancel safety
    /// May be dropped at any point.
    pub(super) async fn turn_to_create(&self, caller: &Caller) -> Option<OwnedMutexGuard<()>> {
        self.rooms?;
        let turn = {
            let mut creating = lock(&self.creating);
            creating.retain(|_, turn| turn.strong_count() > 0);
            let known = creating.entry(caller.id().cloned()).or_default();
            known.upgrade().unwrap_or_else(|| {
                let turn = Arc::default();
                *known = Arc::downgrade(&turn);
                turn
            })
        };
        Some(turn.lock_owned().await)
    }

    /// Checks that the caller may create one more room; `count` says how many a creator has.
    ///
    /// # Errors
    /// `LIMIT_REACHED`.
    pub(super) fn create(&self, caller: &Caller, count: impl FnOnce(&str) -> usize) -> Result<()> {
        let Some(max) = self.rooms else { return Ok(()) };
        let creator = caller.id().map_or("", MemberId::as_str);
        if u32::try_from(count(creator)).is_ok_and(|count| count < max) {
            return Ok(());
        }
        Err(Error::limit_reached(
            "--limit-rooms",
            format!("the caller has created as many rooms as --limit-rooms allows ({max}); delete one"),
        ))
    }

    /// Forgets callers that have not published for a while, until `stop`.
    pub(super) async fn forget_idle(self: Arc<Self>, stop: CancellationToken) {
        while stop.run_until_cancelled(time::sleep(FORGET_INTERVAL)).await.is_some() {
            for rate in [&self.publishes, &self.publish_bytes].into_iter().flatten() {
                rate.buckets.retain_recent();
                rate.buckets.shrink_to_fit();
            }
        }
    }
}

/// So much in a second, and at once what a second allows.
#[derive(Debug)]
struct Rate<C: Clock = DefaultClock> {
    buckets: RateLimiter<Key, HashMapStateStore<Key>, C, NoOpMiddleware<C::Instant>>,
    /// What the buckets count one for.
    unit: u32,
    max: u32,
    flag: &'static str,
}

impl<C: Clock> Rate<C> {
    fn new(flag: &'static str, max: u32, clock: C) -> Self {
        let unit = max.div_ceil(UNITS_PER_SECOND_MAX).max(1);
        let burst = NonZeroU32::new(max / unit).unwrap_or(NonZeroU32::MIN);
        // rounded up: never more than is allowed
        let period = Duration::from_nanos(NANOS_PER_SECOND.div_ceil(burst.get().into()));
        let quota = Quota::with_period(period).unwrap_or_else(|| Quota::per_second(burst)).allow_burst(burst);
        Self { buckets: RateLimiter::new(quota, HashMapStateStore::default(), clock), unit, max, flag }
    }

    fn take(&self, caller: &Caller, amount: usize) -> Result<()> {
        let units = u32::try_from(amount.div_ceil(self.unit as usize)).unwrap_or(u32::MAX);
        let Some(units) = NonZeroU32::new(units) else { return Ok(()) };
        let Self { flag, max, .. } = self;
        match self.buckets.check_key_n(&caller.id().cloned(), units) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(until)) => {
                let delay = until.wait_time_from(self.buckets.clock().now());
                let message = format!("the caller publishes faster than {flag} allows ({max} in a second); wait");
                Err(Error::new(Reason::RateLimited, message).with("limit", flag).retry_in(delay))
            }
            Err(_) => Err(Error::limit_reached(
                flag,
                format!(
                    "is more at once ({amount}) than {flag} ever allows ({max}); publish less at once, or raise it"
                ),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use governor::clock::FakeRelativeClock;
    use proptest::prelude::*;

    use super::*;
    use crate::domain::Identity;

    fn known(id: &str) -> Caller {
        let id = MemberId::parse("id", id).unwrap();
        Caller::Known(Arc::new(Identity { id, administrator: false, expires_at: None }))
    }

    fn rate(max: u32) -> (Rate<FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        (Rate::new("--limit-publish-bytes", max, clock.clone()), clock)
    }

    /// An amount, up to a little more than is ever allowed, and the nanoseconds before it.
    fn steps(max: u32) -> impl Strategy<Value = (u32, Vec<(u64, usize)>)> {
        let amount = 0..=(max as usize) + (max as usize) / 8 + 1;
        let pause = prop_oneof![0..1_000_u64, 0..1_000_000_u64, 0..NANOS_PER_SECOND, 0..4 * NANOS_PER_SECOND];
        (Just(max), prop::collection::vec((pause, amount), 1..60))
    }

    proptest! {
        #[test]
        fn in_any_window_no_more_is_admitted_than_a_burst_and_the_rate(
            (max, steps) in prop_oneof![1..50_u32, 1..5_000_000_u32, any::<u32>().prop_map(|max| max.max(1))]
                .prop_flat_map(steps)
        ) {
            let (rate, clock) = rate(max);
            let caller = known("ann");
            let (mut now, mut admitted) = (0_u64, Vec::new());
            for (pause, amount) in steps {
                clock.advance(Duration::from_nanos(pause));
                now += pause;
                match rate.take(&caller, amount) {
                    Ok(()) => admitted.push((now, amount as u128)),
                    Err(error) if error.reason() == Reason::LimitReached => {
                        // never is never: also of a whole allowance
                        prop_assert!(amount as u64 > u64::from(max) - u64::from(max % rate.unit));
                        prop_assert_eq!(error.retry_after(), None);
                    }
                    Err(error) => {
                        prop_assert_eq!(error.reason(), Reason::RateLimited);
                        let delay = error.retry_after().unwrap();
                        prop_assert!(delay <= Duration::from_millis(1002), "{:?}", delay);
                        clock.advance(delay);
                        now += u64::try_from(delay.as_nanos()).unwrap();
                        prop_assert!(rate.take(&caller, amount).is_ok(), "not after {:?}", delay);
                        admitted.push((now, amount as u128));
                    }
                }
            }
            for (first, (begin, _)) in admitted.iter().enumerate() {
                let mut sum = 0;
                for (end, amount) in admitted.iter().skip(first) {
                    sum += amount;
                    let window = u128::from(end - begin);
                    let allowed = u128::from(max) * (u128::from(NANOS_PER_SECOND) + window);
                    prop_assert!(sum * u128::from(NANOS_PER_SECOND) <= allowed, "{} in {} ns of {}", sum, window, max);
                }
            }
        }
    }

    #[test]
    fn what_is_allowed_is_given_to_nearly_the_last() {
        // Goal: rounding does not cost callers more than a thousandth. Method: everything at once, and then for ten seconds
        // whatever is there.
        for max in [1, 3, 999, 1_000_000, 3_000_000, 333_333_333, u32::MAX] {
            let (rate, clock) = rate(max);
            let caller = known("ann");
            let whole = (max - max % rate.unit) as usize;
            rate.take(&caller, whole).unwrap();
            let mut admitted = 0_u64;
            for _ in 0..10 {
                clock.advance(Duration::from_millis(1002));
                if rate.take(&caller, whole).is_ok() {
                    admitted += whole as u64;
                }
            }
            assert!(admitted * 1001 >= u64::from(max) * 10 * 1000, "{admitted} of {max}");
        }
    }

    #[test]
    fn each_caller_has_its_own_and_the_nameless_share_one() {
        let (rate, clock) = rate(10);
        for caller in [known("ann"), known("bob"), Caller::Anyone] {
            rate.take(&caller, 10).unwrap();
            assert_eq!(rate.take(&caller, 1).unwrap_err().reason(), Reason::RateLimited);
        }
        assert_eq!(rate.take(&Caller::Anyone, 1).unwrap_err().reason(), Reason::RateLimited);
        assert_eq!(rate.buckets.len(), 3);
        clock.advance(Duration::from_secs(2));
        rate.take(&known("ann"), 1).unwrap();
        rate.buckets.retain_recent();
        assert_eq!(rate.buckets.len(), 1, "who is idle takes no memory");
    }
}
