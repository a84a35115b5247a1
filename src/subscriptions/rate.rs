//! Rates: the amount that each caller may take in a second.

use std::{num::NonZeroU32, time::Duration};

use governor::{
    Quota, RateLimiter,
    clock::{Clock, DefaultClock},
    middleware::NoOpMiddleware,
    state::keyed::HashMapStateStore,
};
use tokio::time;

use crate::{
    domain::{Caller, MemberId},
    error::{Error, Limit, Reason, Result},
};

/// A caller. Callers without names share one key.
pub(crate) type CallerKey = Option<MemberId>;

/// Maximum number of units in a second. The bucket's clock counts nanoseconds; up to this number its rounding error
/// is below a thousandth.
const UNITS_PER_SECOND_MAX: u32 = 1_000_000;
const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// An amount per second for each caller. The burst is the amount of one second.
#[derive(Debug)]
pub(crate) struct Rate<C: Clock = DefaultClock> {
    buckets: RateLimiter<CallerKey, HashMapStateStore<CallerKey>, C, NoOpMiddleware<C::Instant>>,
    /// The amount that the buckets count as one unit.
    unit: u32,
    max: u32,
    limit: Limit,
}

impl Rate {
    pub(crate) fn new(limit: Limit, max: u32) -> Self {
        Self::with_clock(limit, max, DefaultClock::default())
    }
}

impl<C: Clock> Rate<C> {
    fn with_clock(limit: Limit, max: u32, clock: C) -> Self {
        let unit = max.div_ceil(UNITS_PER_SECOND_MAX).max(1);
        let burst = NonZeroU32::new(max / unit).unwrap_or(NonZeroU32::MIN);
        // rounded up, so the rate never exceeds `max`
        let period = Duration::from_nanos(NANOS_PER_SECOND.div_ceil(burst.get().into()));
        let quota = Quota::with_period(period).unwrap_or_else(|| Quota::per_second(burst)).allow_burst(burst);
        Self { buckets: RateLimiter::new(quota, HashMapStateStore::default(), clock), unit, max, limit }
    }

    /// Takes `amount`, or nothing.
    ///
    /// # Errors
    /// `RATE_LIMITED` with the time to wait. `LIMIT_REACHED` if `amount` exceeds the burst. Nothing was taken.
    pub(crate) fn take(&self, caller: &Caller, amount: usize) -> Result<()> {
        let Some(units) = self.units(amount) else { return Ok(()) };
        let Self { limit, max, .. } = self;
        let flag = limit.name();
        match self.buckets.check_key_n(&caller.id().cloned(), units) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(until)) => {
                let delay = until.wait_time_from(self.buckets.clock().now());
                let message = format!(
                    "the caller publishes faster than {flag} allows ({max} per second); wait as long as RetryInfo says"
                );
                Err(Error::new(Reason::RateLimited, message).with("limit", flag).retry_in(delay))
            }
            Err(_) => Err(Error::limit_reached(
                *limit,
                format!(
                    "the call publishes {amount} at once, and {flag} allows {max} per second; publish less at once, or raise the flag"
                ),
            )),
        }
    }

    /// Waits until `amount` is available, and takes it. The amount may exceed the burst.
    ///
    /// # Cancel safety
    /// May be dropped at any point; a part of the amount may have been taken.
    pub(crate) async fn pay(&self, caller: &Caller, amount: usize) {
        let burst = (self.max - self.max % self.unit).max(self.unit) as usize;
        let mut left = amount;
        while left > 0 {
            let part = left.min(burst);
            if let Some(units) = self.units(part)
                && let Ok(Err(until)) = self.buckets.check_key_n(&caller.id().cloned(), units)
            {
                time::sleep(until.wait_time_from(self.buckets.clock().now())).await;
                continue;
            }
            left -= part;
        }
    }

    /// Removes the callers whose buckets are full.
    pub(crate) fn forget_idle(&self) {
        self.buckets.retain_recent();
        self.buckets.shrink_to_fit();
    }

    fn units(&self, amount: usize) -> Option<NonZeroU32> {
        NonZeroU32::new(u32::try_from(amount.div_ceil(self.unit as usize)).unwrap_or(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use governor::clock::FakeRelativeClock;
    use proptest::prelude::*;

    use super::*;
    use crate::domain::{Identity, MemberId};

    fn known(id: &str) -> Caller {
        let id = MemberId::parse("id", id).unwrap();
        Caller::Known(Arc::new(Identity { id, administrator: false, expires_at: None }))
    }

    fn rate(max: u32) -> (Rate<FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        (Rate::with_clock(Limit::PublishBytesOfCaller, max, clock.clone()), clock)
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

    #[tokio::test]
    async fn more_than_a_burst_is_paid_in_parts_and_takes_its_time() {
        let rate = Rate::new(Limit::ReadBytesOfCaller, 1_000_000);
        let (caller, started) = (known("ann"), std::time::Instant::now());
        rate.pay(&caller, 1_200_000).await;
        assert!(started.elapsed() >= Duration::from_millis(150), "{:?}", started.elapsed());
        // what is paid is gone
        assert_eq!(rate.take(&caller, 1_000_000).unwrap_err().reason(), Reason::RateLimited);
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
