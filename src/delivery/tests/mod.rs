//! Single cases of the state machines. `model` tests them with random events.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::cast_possible_truncation)]

mod model;
mod pages;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::BytesMut;

use super::{Batch, BatchBuilder, LogDelivery, Next, ReadFrom, Ring, RingBudget, RingLimits, Sizes, Step};
use crate::domain::{Gap, GapReason, Removals, RoomState};

const MESSAGE_BYTES: usize = 7;

fn state(first: u64, last: u64, messages: u64) -> RoomState {
    RoomState { first_sequence: first, last_sequence: last, messages, ..RoomState::default() }
}

fn ring(after: u64) -> Ring {
    let limits = RingLimits { messages_max: 6, bytes_max: 100_000 };
    Ring::new(after, limits, &RingBudget::new(usize::MAX))
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn purged(purged: u64) -> Removals {
    Removals { purged, deleted: None }
}

fn deleted(deleted: impl IntoIterator<Item = u64>) -> Removals {
    Removals { purged: 0, deleted: Some(Arc::new(deleted.into_iter().collect())) }
}

/// A batch of one message that was stored at second `stored_at`, and whose own lifetime ends at `ends_at`.
fn expiring(sequence: u64, stored_at: u64, ends_at: Option<u64>) -> Arc<Batch> {
    let mut batch = BatchBuilder::default();
    batch.lasts(at(stored_at), ends_at.map(at));
    batch.message(sequence, 0, Sizes::default(), |bytes| bytes.extend_from_slice(&[sequence as u8; MESSAGE_BYTES]));
    batch.finish().unwrap()
}

fn batch(sequences: impl IntoIterator<Item = (u64, u64)>) -> Arc<Batch> {
    let mut batch = BatchBuilder::default();
    for (sequence, first_kept) in sequences {
        let encode = |bytes: &mut BytesMut| bytes.extend_from_slice(&[sequence as u8; MESSAGE_BYTES]);
        batch.message(sequence, first_kept, Sizes::default(), encode);
    }
    batch.finish().unwrap()
}

#[test]
fn an_empty_room_is_caught_up_at_once() {
    let (_, steps) = LogDelivery::open(0, &state(1, 0, 0), false, Removals::default());
    assert_eq!(steps, [Step::CaughtUp(0)]);
}

#[test]
fn a_start_before_the_first_kept_message_is_a_gap() {
    let (delivery, steps) = LogDelivery::open(2, &state(6, 9, 4), true, Removals::default());
    assert_eq!(steps, [Step::Gap(Gap { from: 3, to: 5, reason: GapReason::Expired, dropped: 0 })]);
    assert_eq!(delivery.position(), 5);
}

#[test]
fn a_purged_room_is_one_gap_and_caught_up() {
    let (_, steps) = LogDelivery::open(0, &state(10, 9, 0), false, Removals::default());
    assert_eq!(steps, [Step::Gap(Gap { from: 1, to: 9, reason: GapReason::Purged, dropped: 0 }), Step::CaughtUp(9)]);
}

#[test]
fn a_deleted_end_of_the_backlog_still_ends_it() {
    let (mut delivery, _) = LogDelivery::open(0, &state(1, 3, 2), false, Removals::default());
    assert_eq!(
        delivery.arrive(batch([(1, 0)]).items(), true),
        [
            Step::Deliver(0..1),
            Step::Gap(Gap { from: 2, to: 3, reason: GapReason::Deleted, dropped: 0 }),
            Step::CaughtUp(3)
        ]
    );
}

#[test]
fn the_end_of_the_backlog_is_told_between_two_messages_of_a_batch() {
    let (mut delivery, _) = LogDelivery::open(0, &state(1, 2, 2), false, Removals::default());
    let steps = delivery.arrive(batch([(1, 0), (2, 0), (3, 0)]).items(), false);
    assert_eq!(steps, [Step::Deliver(0..2), Step::CaughtUp(2), Step::Deliver(2..3)]);
}

#[test]
fn what_was_purged_is_told_apart_and_not_delivered_from_memory() {
    let (mut delivery, _) = LogDelivery::open(0, &state(1, 4, 4), true, Removals::default());
    delivery.removed(purged(2));
    let steps = delivery.arrive(batch([(1, 0), (2, 0), (4, 4)]).items(), false);
    let gap = |from, to, reason| Step::Gap(Gap { from, to, reason, dropped: 0 });
    let expected =
        [gap(1, 2, GapReason::Purged), gap(3, 3, GapReason::Expired), Step::Deliver(2..3), Step::CaughtUp(4)];
    assert_eq!(steps, expected);
    delivery.removed(purged(6));
    assert_eq!(delivery.arrive(batch([(5, 0), (6, 0)]).items(), false), [gap(5, 6, GapReason::Purged)]);
    let (_, steps) = LogDelivery::open(0, &state(5, 4, 0), true, purged(3));
    assert_eq!(steps, [gap(1, 3, GapReason::Purged), gap(4, 4, GapReason::Expired), Step::CaughtUp(4)]);
}

#[test]
fn what_was_deleted_is_left_out_of_a_batch_that_is_at_hand() {
    let gap = |from, to| Step::Gap(Gap { from, to, reason: GapReason::Deleted, dropped: 0 });
    let (mut delivery, _) = LogDelivery::open(0, &state(1, 7, 7), false, Removals::default());
    delivery.removed(deleted([1, 3, 4, 7, 9]));
    let steps = delivery.arrive(batch((1..=8).map(|sequence| (sequence, 0))).items(), false);
    let expected = [
        gap(1, 1),
        Step::Deliver(1..2),
        gap(3, 4),
        Step::Deliver(4..6),
        gap(7, 7),
        Step::CaughtUp(7),
        Step::Deliver(7..8),
    ];
    assert_eq!(steps, expected);
    assert_eq!(delivery.arrive(batch([(9, 0)]).items(), false), [gap(9, 9)]);
}

#[test]
fn expired_messages_leave_the_ring_with_all_that_are_older() {
    let mut ring = ring(0);
    for (sequence, ends_at) in [(1, None), (2, Some(20)), (3, None), (4, Some(50))] {
        ring.push(expiring(sequence, 10, ends_at), at(10));
    }
    assert_eq!(ring.expires_at(None), Some(at(20)));
    ring.expire(at(19), None);
    assert!(ring.reaches(0));
    ring.expire(at(20), None);
    assert!(!ring.reaches(1) && ring.reaches(2));
    // the room's `max_age`, which an update may set later
    assert_eq!(ring.expires_at(Some(Duration::from_secs(30))), Some(at(40)));
    ring.expire(at(40), Some(Duration::from_secs(30)));
    assert!(ring.is_empty() && ring.reaches(4));
    // a clock that is ahead does not drop messages before subscriptions have read them
    ring.push(expiring(5, 10, Some(11)), at(60));
    ring.expire(at(60), None);
    assert!(ring.reaches(4));
    assert_eq!(ring.expires_at(None), Some(at(61)));
    ring.expire(at(61), None);
    assert!(ring.is_empty());
}

#[test]
fn what_is_in_doubt_nobody_joins_and_it_goes_at_the_second_turn() {
    let mut ring = ring(0);
    ring.compare(&state(1, 0, 0));
    (1..=2).for_each(|sequence| ring.push(batch([(sequence, 0)]), at(0)));
    ring.compare(&state(1, 2, 2));
    assert!(ring.welcomes(0));
    // one message in the middle was removed
    ring.compare(&state(1, 2, 1));
    assert!(!ring.welcomes(1) && ring.welcomes(2) && ring.reaches(0));
    ring.turn();
    assert!(ring.reaches(0), "who reads along has a turn to take it");
    ring.push(batch([(3, 0)]), at(0));
    ring.compare(&state(1, 3, 2));
    ring.turn();
    assert!(!ring.reaches(1) && ring.reaches(2) && ring.welcomes(2));
}

#[test]
fn in_a_room_that_keeps_one_message_who_reads_along_gets_every_one() {
    let mut ring = ring(0);
    ring.compare(&state(1, 0, 0));
    let (mut delivery, _) = LogDelivery::open(0, &state(1, 0, 0), true, Removals::default());
    for sequence in 1..=50 {
        ring.push(batch([(sequence, 0)]), at(sequence));
        ring.compare(&state(sequence, sequence, 1));
        ring.turn();
        assert_eq!(delivery.source(&ring), ReadFrom::Ring);
        let Next::Batch(next) = ring.next(delivery.position()) else { panic!("{sequence} is not there") };
        assert_eq!(delivery.arrive(next.items(), false), [Step::Deliver(0..1)]);
    }
    assert!(!ring.reaches(40), "what the log has not kept is not kept for long");
}

#[test]
fn all_rings_together_keep_to_the_budget() {
    let budget = RingBudget::new(4 * batch([(1, 0)]).size());
    let limits = RingLimits { messages_max: 100, bytes_max: 100_000 };
    let mut rings = [Ring::new(0, limits, &budget), Ring::new(0, limits, &budget)];
    for sequence in 1..=20 {
        for ring in &mut rings {
            ring.push(batch([(sequence, 0)]), at(0));
        }
    }
    let kept: usize = rings.iter().map(Ring::batches_kept).sum();
    assert!((2..=5).contains(&kept), "{kept}");
    drop(rings);
    assert!(!budget.is_exceeded());
    let mut alone = Ring::new(0, limits, &budget);
    (1..=3).for_each(|sequence| alone.push(batch([(sequence, 0)]), at(0)));
    assert!(alone.reaches(0), "what the others held was given back");
}
