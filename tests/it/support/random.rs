//! Randomness that can be had again.

use std::{fmt::Display, ops::Range};

/// A sequence of numbers that its seed decides.
pub(crate) struct Random(u64);

impl Random {
    /// A sequence of this run's own, or the one that `UNIBUS_TEST_SEED` asks for. Prints the seed, which is shown when
    /// the test fails.
    pub(crate) fn seeded() -> Self {
        let given = std::env::var("UNIBUS_TEST_SEED").ok().map(|seed| seed.parse().expect("a number"));
        let seed = given.unwrap_or_else(|| uuid::Uuid::new_v4().as_u64_pair().0);
        note(format_args!("to run this test with the same choices: UNIBUS_TEST_SEED={seed}"));
        Self(seed)
    }

    /// The next number of the range.
    pub(crate) fn within(&mut self, range: Range<u64>) -> u64 {
        range.start + self.next() % (range.end - range.start)
    }

    /// The items in another order.
    pub(crate) fn shuffled<T>(&mut self, mut items: Vec<T>) -> Vec<T> {
        for end in (1..items.len()).rev() {
            let place = usize::try_from(self.within(0..end as u64 + 1)).expect("a small number");
            items.swap(end, place);
        }
        items
    }

    // SplitMix64, of Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (2014).
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// Says what was chosen; shown when the test fails.
#[allow(clippy::print_stdout, reason = "the test harness keeps it for a failure")]
pub(crate) fn note(choice: impl Display) {
    println!("{choice}");
}
