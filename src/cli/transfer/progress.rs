//! A bar on the terminal that shows how far an export or import has come.

use std::fmt::Write;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use crate::cli::{output::Printer, text};

/// What a bar counts.
#[derive(Clone, Copy, Debug)]
pub(super) enum BarUnit {
    Messages,
    Bytes,
}

impl BarUnit {
    fn template(self) -> &'static str {
        match self {
            Self::Messages => "{prefix} [{bar:30}] {human_pos}/{human_len} messages, {rate}, {msg}, {eta} left",
            Self::Bytes => {
                "{prefix} [{bar:30}] {binary_bytes}/{binary_total_bytes}, {binary_bytes_per_sec}, {msg}, {eta} left"
            }
        }
    }
}

/// The bar, and the remarks that must not break it. Shows nothing unless a person watches.
#[derive(Clone, Debug)]
pub(super) struct TransferBar {
    out: Printer,
    bar: ProgressBar,
}

impl TransferBar {
    /// A bar that is not shown yet.
    pub(super) fn hidden(out: &Printer) -> Self {
        Self { out: out.clone(), bar: ProgressBar::hidden() }
    }

    /// Begins to show the bar, at a place that was reached earlier. All clones show the same bar.
    pub(super) fn begin(&self, what: &'static str, unit: BarUnit, length: u64, reached: u64) {
        let target = if self.out.has_watcher() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let style = ProgressStyle::with_template(unit.template()).unwrap_or_else(|_| ProgressStyle::default_bar());
        self.bar.set_style(style.progress_chars("=> ").with_key("rate", rate));
        self.bar.set_prefix(what);
        self.bar.set_length(length);
        self.bar.reset();
        self.bar.set_position(reached);
        // the rate is that of this run
        self.bar.reset_eta();
        self.bar.set_draw_target(target);
    }

    /// Shows the place that is reached, and the bytes so far.
    pub(super) fn reached(&self, place: u64, bytes: u64) {
        self.bar.set_message(text::bytes(bytes));
        self.bar.set_position(place);
    }

    /// Shows the place that is reached, and the messages so far.
    pub(super) fn reached_messages(&self, place: u64, messages: u64) {
        self.bar.set_message(text::count(messages, "message"));
        self.bar.set_position(place);
    }

    /// Removes the bar.
    pub(super) fn end(&self) {
        self.bar.finish_and_clear();
    }

    /// Writes a remark to standard error.
    pub(super) fn notice(&self, text: &str) {
        self.bar.suspend(|| self.out.notice(text));
    }
}

/// Messages in a second, without the fraction.
fn rate(state: &ProgressState, out: &mut dyn Write) {
    let _ = write!(out, "{:.0}/s", state.per_sec());
}
