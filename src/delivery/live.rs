//! Delivery in an ephemeral room: what passes by is delivered, and what a slow reader loses is counted.

use super::{
    Step,
    batch::{Item, Kind},
    deliver,
};
use crate::domain::{Gap, GapReason};

/// One subscription's way through what an ephemeral room lets pass.
///
/// Invariant: every message heard since the opening was delivered or counted as dropped, once.
#[derive(Clone, Debug)]
pub(crate) struct LiveDelivery {
    /// Number of the last entry that was delivered, told or dropped.
    position: u64,
    /// Disconnections among the entries up to there.
    disconnections: u64,
}

impl LiveDelivery {
    /// A subscription that begins after the entry `position`, up to which there were so many disconnections.
    pub(crate) fn open(position: u64, disconnections: u64) -> Self {
        Self { position, disconnections }
    }

    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// The batch that follows.
    pub(crate) fn arrive(&mut self, items: &[Item]) -> Vec<Step> {
        let mut steps = Vec::new();
        let mut from = 0;
        for (index, item) in items.iter().enumerate() {
            if item.kind == Kind::Disconnected {
                deliver(from..index, &mut steps);
                from = index + 1;
                self.disconnections += 1;
                steps.push(lost(GapReason::Disconnected, 0));
            }
            self.position = item.sequence;
        }
        deliver(from..items.len(), &mut steps);
        steps
    }

    /// The entries up to `after` are gone, with so many disconnections among all that were ever before it.
    pub(crate) fn lagged(&mut self, after: u64, disconnections: u64) -> Vec<Step> {
        let unheard = disconnections.saturating_sub(self.disconnections);
        let dropped = after.saturating_sub(self.position).saturating_sub(unheard);
        self.position = self.position.max(after);
        self.disconnections = self.disconnections.max(disconnections);
        let dropped = (dropped > 0).then(|| lost(GapReason::SlowReader, dropped));
        dropped.into_iter().chain((unheard > 0).then(|| lost(GapReason::Disconnected, 0))).collect()
    }
}

fn lost(reason: GapReason, dropped: u64) -> Step {
    Step::Gap(Gap { from: 0, to: 0, reason, dropped })
}
