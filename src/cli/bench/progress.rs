//! The progress bar of a benchmark, on a terminal's standard error.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

use super::{
    pace::PhaseEnd,
    run::{Phase, Shared},
};

/// How often the bar is drawn again.
pub(super) const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// The look of the bar.
const TEMPLATE: &str = "{prefix:9} [{bar:30}] {percent:>3}%  {msg}";

/// Shows how far the measurement is.
pub(super) struct BenchProgress {
    bar: ProgressBar,
    end: PhaseEnd,
    begun: Option<Instant>,
}

impl BenchProgress {
    /// A bar, or nothing that is seen: without a terminal, and with `--quiet`.
    pub(super) fn new(end: PhaseEnd, is_shown: bool) -> Self {
        let length = match end {
            PhaseEnd::Messages(messages) => messages,
            PhaseEnd::After(length) => u64::try_from(length.as_millis()).unwrap_or(u64::MAX),
        };
        let bar = if is_shown { ProgressBar::new(length) } else { ProgressBar::hidden() };
        if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_prefix("warm-up");
        Self { bar, end, begun: None }
    }

    /// Draws what is counted now.
    pub(super) fn draw(&mut self, shared: &Shared) {
        let counts = shared.counts_of(Phase::Measured);
        let acknowledged = counts.acknowledged.load(Ordering::Relaxed);
        let delivered = counts.delivered.load(Ordering::Relaxed);
        if acknowledged == 0 {
            self.bar.tick();
            return;
        }
        let begun = *self.begun.get_or_insert_with(Instant::now);
        let position = match self.end {
            PhaseEnd::Messages(_) => acknowledged,
            PhaseEnd::After(length) => u64::try_from(begun.elapsed().min(length).as_millis()).unwrap_or(u64::MAX),
        };
        self.bar.set_prefix("measuring");
        self.bar.set_position(position);
        self.bar.set_message(format!("{acknowledged} published, {delivered} delivered"));
    }

    /// Removes the bar.
    pub(super) fn end(self) {
        self.bar.finish_and_clear();
    }
}
