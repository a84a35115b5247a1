//! Delivery from a log: each message once and in order. A gap names every missing sequence.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    Step,
    batch::{Item, ItemKind},
    deliver,
    ring::Ring,
};
use crate::domain::{Gap, GapReason, Removals, RoomState};

/// Where a subscription reads the next messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadFrom {
    /// In the log of the room, because the ring no longer has them.
    Log,
    /// In the ring that the subscriptions of the room share.
    Ring,
}

/// The delivery of a log to one subscription. Its messages come from the log or from the room's ring, and may
/// alternate between them, because both have the same sequences.
///
/// Invariants:
/// - `position` never falls.
/// - Each sequence after the start and up to `position` was delivered once, or named once in a gap.
/// - `CaughtUp` occurs once.
#[derive(Clone, Debug)]
pub(crate) struct LogDelivery {
    position: u64,
    /// The last sequence when the subscription opened.
    backlog_end: u64,
    caught_up: bool,
    /// Whether the room's retention removes messages.
    expires: bool,
    /// Messages that are known to be removed. Batches may still contain them.
    removals: Removals,
    source: ReadFrom,
}

impl LogDelivery {
    /// Opens a subscription after `position`, in a log with this `state` from which `removals` were removed. Returns
    /// the first steps too.
    pub(crate) fn open(position: u64, state: &RoomState, expires: bool, removals: Removals) -> (Self, Vec<Step>) {
        let backlog_end = state.last_sequence;
        let mut delivery = Self { position, backlog_end, caught_up: false, expires, removals, source: ReadFrom::Log };
        let mut steps = Vec::new();
        delivery.skip_to(state.first_sequence.saturating_sub(1), state.first_sequence, &mut steps);
        delivery.check_caught_up(&mut steps);
        (delivery, steps)
    }

    /// The last sequence that was delivered or named in a gap.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    pub(crate) fn is_caught_up(&self) -> bool {
        self.caught_up
    }

    /// Where to read the next messages, given the room's ring.
    pub(crate) fn source(&mut self, ring: &Ring) -> ReadFrom {
        self.source = match self.source {
            ReadFrom::Log if ring.welcomes(self.position) => ReadFrom::Ring,
            ReadFrom::Ring if !ring.reaches(self.position) => ReadFrom::Log,
            unchanged => unchanged,
        };
        self.source
    }

    /// Records that `removals` were removed. Those that were not delivered yet will not be delivered, even if a batch
    /// contains them.
    pub(crate) fn removed(&mut self, removals: Removals) {
        let purged = self.removals.purged.max(removals.purged);
        self.removals = Removals { purged, ..removals };
    }

    /// The steps for a batch. With `ends_log`, the batch was read after the opening, and the log then had no message
    /// after it.
    pub(crate) fn arrive(&mut self, items: &[Item], ends_log: bool) -> Vec<Step> {
        let mut steps = Vec::new();
        let purged = self.removals.purged;
        let mut from = items.partition_point(|item| item.sequence <= self.position.max(purged));
        let deleted = self.deleted_among(items);
        let mut newest_kept = 0;
        for (index, item) in items.iter().enumerate().skip(from) {
            let ItemKind::Message { first_kept } = item.kind else { continue };
            newest_kept = newest_kept.max(first_kept);
            if item.sequence > self.position + 1 {
                deliver(from..index, &mut steps);
                from = index;
                self.skip_to(item.sequence - 1, first_kept, &mut steps);
                self.check_caught_up(&mut steps);
            }
            if deleted.as_ref().is_some_and(|deleted| deleted.contains(&item.sequence)) {
                deliver(from..index, &mut steps);
                from = index + 1;
                self.gap_to(item.sequence, GapReason::Deleted, &mut steps);
                self.check_caught_up(&mut steps);
                continue;
            }
            self.position = item.sequence;
            if !self.caught_up && self.position >= self.backlog_end {
                deliver(from..index + 1, &mut steps);
                from = index + 1;
                self.check_caught_up(&mut steps);
            }
        }
        deliver(from..items.len(), &mut steps);
        // a batch that was purged completely leaves only a gap
        let last = items.last().map_or(0, |item| item.sequence).min(purged);
        self.skip_to(last, 0, &mut steps);
        self.check_caught_up(&mut steps);
        if ends_log && !self.caught_up {
            // the sequences that are missing up to the end of the backlog were deleted
            self.skip_to(self.backlog_end, newest_kept, &mut steps);
            self.check_caught_up(&mut steps);
        }
        steps
    }

    /// The steps when the log, in this `state`, holds no message after the position.
    pub(crate) fn nothing_follows(&mut self, state: &RoomState) -> Vec<Step> {
        let mut steps = Vec::new();
        self.skip_to(state.last_sequence, state.first_sequence, &mut steps);
        self.check_caught_up(&mut steps);
        steps
    }

    fn skip_to(&mut self, to: u64, first_kept: u64, steps: &mut Vec<Step>) {
        // purged sequences get a gap of their own, before sequences that are missing for another reason
        let purged = self.removals.purged.min(to);
        self.gap_to(purged, GapReason::Purged, steps);
        let reason = match (to < first_kept, self.expires) {
            (false, _) => GapReason::Deleted,
            (true, true) => GapReason::Expired,
            (true, false) => GapReason::Purged,
        };
        self.gap_to(to, reason, steps);
    }

    /// The set of deleted messages; `None` when it contains none of `items`.
    fn deleted_among(&self, items: &[Item]) -> Option<Arc<BTreeSet<u64>>> {
        let span = items.first()?.sequence..=items.last()?.sequence;
        self.removals.deleted.clone().filter(|deleted| deleted.range(span).next().is_some())
    }

    fn gap_to(&mut self, to: u64, reason: GapReason, steps: &mut Vec<Step>) {
        if to > self.position {
            if let Some(Step::Gap(last)) = steps.last_mut()
                && last.reason == reason
                && last.to == self.position
            {
                last.to = to;
                self.position = to;
                return;
            }
            steps.push(Step::Gap(Gap { from: self.position + 1, to, reason, dropped: 0 }));
            self.position = to;
        }
    }

    fn check_caught_up(&mut self, steps: &mut Vec<Step>) {
        if !self.caught_up && self.position >= self.backlog_end {
            self.caught_up = true;
            steps.push(Step::CaughtUp(self.position));
        }
    }
}
