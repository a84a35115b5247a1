//! Randomness that can be had again.

use std::{fmt::Display, ops::Range};

use fastrand::Rng;

/// A sequence of numbers that its seed decides.
pub(crate) struct Random(Rng);

impl Random {
    /// A sequence of this run's own, or the one that `UNIBUS_TEST_SEED` asks for. Prints the seed, which is shown when
    /// the test fails.
    pub(crate) fn seeded() -> Self {
        let given = std::env::var("UNIBUS_TEST_SEED").ok().map(|seed| seed.parse().expect("a number"));
        let seed = given.unwrap_or_else(|| uuid::Uuid::new_v4().as_u64_pair().0);
        note(format_args!("to run this test with the same choices: UNIBUS_TEST_SEED={seed}"));
        Self(Rng::with_seed(seed))
    }

    /// The next number of the range.
    pub(crate) fn within(&mut self, range: Range<u64>) -> u64 {
        self.0.u64(range)
    }

    /// A count of the range.
    pub(crate) fn count(&mut self, range: Range<usize>) -> usize {
        self.0.usize(range)
    }

    /// One of the items.
    pub(crate) fn choice<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.0.usize(0..items.len())]
    }

    /// Another sequence, which this one decides.
    pub(crate) fn fork(&mut self) -> Self {
        Self(self.0.fork())
    }

    /// The items in another order.
    pub(crate) fn shuffled<T>(&mut self, mut items: Vec<T>) -> Vec<T> {
        self.0.shuffle(&mut items);
        items
    }
}

/// Says what was chosen; shown when the test fails.
#[allow(clippy::print_stdout, reason = "the test harness keeps it for a failure")]
pub(crate) fn note(choice: impl Display) {
    println!("{choice}");
}
