//! Delivery from a log: every message once, in order, and nothing missing but what a gap names.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    Step,
    batch::{Item, Kind},
    deliver,
    ring::Ring,
};
use crate::domain::{Gap, GapReason, Removals, RoomState};

/// Where a subscription finds what follows its position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadFrom {
    /// It is behind: in the room's log.
    Log,
    /// In the ring that all subscribers of the room share.
    Ring,
}

/// One subscription's way through a log, read from the log itself or from the room's ring, in any alternation: both speak
/// of the same sequences.
///
/// Invariants: `position` never falls; every sequence up to it was delivered or named in a gap, once; `CaughtUp` is
/// told once.
#[derive(Clone, Debug)]
pub(crate) struct LogDelivery {
    position: u64,
    /// The last sequence when the subscription opened.
    backlog_end: u64,
    caught_up: bool,
    /// Whether the room's retention removes messages.
    expires: bool,
    /// What is known to have been removed, though it may be at hand.
    removals: Removals,
    source: ReadFrom,
}

impl LogDelivery {
    /// A subscription that starts after `position` in a log that holds `state` and from which `removals` were removed; with
    /// the first steps.
    pub(crate) fn open(position: u64, state: &RoomState, expires: bool, removals: Removals) -> (Self, Vec<Step>) {
        let backlog_end = state.last_sequence;
        let mut delivery = Self { position, backlog_end, caught_up: false, expires, removals, source: ReadFrom::Log };
        let mut steps = Vec::new();
        delivery.skip_to(state.first_sequence.saturating_sub(1), state.first_sequence, &mut steps);
        delivery.note_end(&mut steps);
        (delivery, steps)
    }

    /// Everything up to this sequence was delivered or named in a gap.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    pub(crate) fn is_caught_up(&self) -> bool {
        self.caught_up
    }

    /// Where to look for what follows, given the room's ring.
    pub(crate) fn source(&mut self, ring: &Ring) -> ReadFrom {
        self.source = match self.source {
            ReadFrom::Log if ring.welcomes(self.position) => ReadFrom::Ring,
            ReadFrom::Ring if !ring.reaches(self.position) => ReadFrom::Log,
            unchanged => unchanged,
        };
        self.source
    }

    /// This was removed: what of it was not delivered yet will not be, though it may be at hand.
    pub(crate) fn removed(&mut self, removals: Removals) {
        let purged = self.removals.purged.max(removals.purged);
        self.removals = Removals { purged, ..removals };
    }

    /// A batch arrived. `ends_log`: when it was read, and that was after the opening, nothing was stored after it.
    pub(crate) fn arrive(&mut self, items: &[Item], ends_log: bool) -> Vec<Step> {
        let mut steps = Vec::new();
        let purged = self.removals.purged;
        let mut from = items.partition_point(|item| item.sequence <= self.position.max(purged));
        let deleted = self.deleted_among(items);
        let mut newest_kept = 0;
        for (index, item) in items.iter().enumerate().skip(from) {
            let Kind::Message { first_kept } = item.kind else { continue };
            newest_kept = newest_kept.max(first_kept);
            if item.sequence > self.position + 1 {
                deliver(from..index, &mut steps);
                from = index;
                self.skip_to(item.sequence - 1, first_kept, &mut steps);
                self.note_end(&mut steps);
            }
            if deleted.as_ref().is_some_and(|deleted| deleted.contains(&item.sequence)) {
                deliver(from..index, &mut steps);
                from = index + 1;
                self.gap_to(item.sequence, GapReason::Deleted, &mut steps);
                self.note_end(&mut steps);
                continue;
            }
            self.position = item.sequence;
            if !self.caught_up && self.position >= self.backlog_end {
                deliver(from..index + 1, &mut steps);
                from = index + 1;
                self.note_end(&mut steps);
            }
        }
        deliver(from..items.len(), &mut steps);
        // of a batch that was purged as a whole nothing is left
        let last = items.last().map_or(0, |item| item.sequence).min(purged);
        self.skip_to(last, 0, &mut steps);
        self.note_end(&mut steps);
        if ends_log && !self.caught_up {
            // what is missing up to the end was deleted
            self.skip_to(self.backlog_end, newest_kept, &mut steps);
            self.note_end(&mut steps);
        }
        steps
    }

    /// The log holds nothing after the position, and `state` otherwise.
    pub(crate) fn nothing_follows(&mut self, state: &RoomState) -> Vec<Step> {
        let mut steps = Vec::new();
        self.skip_to(state.last_sequence, state.first_sequence, &mut steps);
        self.note_end(&mut steps);
        steps
    }

    fn skip_to(&mut self, to: u64, first_kept: u64, steps: &mut Vec<Step>) {
        // what was purged is told apart from what went for another reason behind it
        let purged = self.removals.purged.min(to);
        self.gap_to(purged, GapReason::Purged, steps);
        let reason = match (to < first_kept, self.expires) {
            (false, _) => GapReason::Deleted,
            (true, true) => GapReason::Expired,
            (true, false) => GapReason::Purged,
        };
        self.gap_to(to, reason, steps);
    }

    /// The deleted messages, if any of these is one.
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

    fn note_end(&mut self, steps: &mut Vec<Step>) {
        if !self.caught_up && self.position >= self.backlog_end {
            self.caught_up = true;
            steps.push(Step::CaughtUp(self.position));
        }
    }
}
