//! Delivery in an ephemeral room: current messages are delivered, and the messages that a slow reader misses are
//! counted.

use super::{
    Step,
    batch::{Item, ItemKind},
    deliver,
};
use crate::domain::{Gap, GapReason};

/// The delivery of an ephemeral room to one subscription.
///
/// Invariant: each message that arrived since the opening was delivered once, or counted once as dropped.
#[derive(Clone, Debug)]
pub(crate) struct EphemeralDelivery {
    /// The number of the last entry that was delivered, reported or dropped.
    position: u64,
    /// Disconnections among the entries up to `position`.
    disconnections: u64,
}

impl EphemeralDelivery {
    /// Opens a subscription after the entry `position`. `disconnections` is the number of disconnections up to there.
    pub(crate) fn open(position: u64, disconnections: u64) -> Self {
        Self { position, disconnections }
    }

    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// The steps for the next batch.
    pub(crate) fn arrive(&mut self, items: &[Item]) -> Vec<Step> {
        let mut steps = Vec::new();
        let mut from = 0;
        for (index, item) in items.iter().enumerate() {
            if item.kind == ItemKind::Disconnected {
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

    /// The steps when the ring has dropped the entries up to `after`. `disconnections` is the number of disconnections
    /// among all of the room's entries up to `after`.
    pub(crate) fn lagged(&mut self, after: u64, disconnections: u64) -> Vec<Step> {
        let missed_disconnections = disconnections.saturating_sub(self.disconnections);
        let dropped = after.saturating_sub(self.position).saturating_sub(missed_disconnections);
        self.position = self.position.max(after);
        self.disconnections = self.disconnections.max(disconnections);
        let dropped = (dropped > 0).then(|| lost(GapReason::SlowReader, dropped));
        dropped.into_iter().chain((missed_disconnections > 0).then(|| lost(GapReason::Disconnected, 0))).collect()
    }
}

fn lost(reason: GapReason, dropped: u64) -> Step {
    Step::Gap(Gap { from: 0, to: 0, reason, dropped })
}
