//! How long to wait before something is tried again.

use std::time::{Duration, Instant};

use super::failure::Failure;

/// The wait after the first failure. It doubles with each further failure.
const WAIT_MIN: Duration = Duration::from_millis(100);
/// The longest wait.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// Counts the failures since the last progress.
#[derive(Debug)]
pub(crate) struct Retries {
    /// How long to try without progress; `None`: for ever.
    give_up_after: Option<Duration>,
    failures: u32,
    failing_since: Option<Instant>,
}

impl Retries {
    /// Nothing has failed yet.
    pub(crate) fn new(give_up_after: Option<Duration>) -> Self {
        Self { give_up_after, failures: 0, failing_since: None }
    }

    /// Something has succeeded.
    pub(crate) fn progress(&mut self) {
        (self.failures, self.failing_since) = (0, None);
    }

    /// How long to wait after this failure; `None`: give up.
    pub(crate) fn next_wait(&mut self, failure: &Failure) -> Option<Duration> {
        let since = self.failing_since.get_or_insert_with(Instant::now).elapsed();
        if self.give_up_after.is_some_and(|limit| since >= limit) {
            return None;
        }
        let doubled = WAIT_MIN.saturating_mul(1 << self.failures.min(10));
        self.failures += 1;
        Some(doubled.max(failure.retry_after().unwrap_or_default()).min(WAIT_MAX))
    }

    /// Whether something failed since the last progress.
    pub(crate) fn has_failed(&self) -> bool {
        self.failures > 0
    }

    /// Whether only one failure followed the last progress.
    pub(crate) fn is_first(&self) -> bool {
        self.failures == 1
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Retries;
    use crate::cli::{exit::Exit, failure::Failure};

    #[test]
    fn waits_double_up_to_two_seconds_and_begin_again_after_progress() {
        let mut retries = Retries::new(None);
        let failure = Failure::new(Exit::Unreachable, "gone");
        let mut waits = || retries.next_wait(&failure).unwrap_or_default().as_millis();
        assert_eq!(std::array::from_fn(|_| waits()), [100, 200, 400, 800, 1600, 2000, 2000]);
        retries.progress();
        assert_eq!(retries.next_wait(&failure), Some(Duration::from_millis(100)));
        assert_eq!(Retries::new(Some(Duration::ZERO)).next_wait(&failure), None);
    }
}
