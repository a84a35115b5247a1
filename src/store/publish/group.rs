//! Group commit: selects the waiting publishes of a room that are sent together as one atomic batch (ADR-50).
//!
//! A server that syncs every write syncs once for each plain publish, and once for a whole batch. But it first writes
//! a batch to a separate file, which costs about as much as twenty plain publishes. The table was measured against
//! nats-server 2.15.1 with `sync_interval: always`, one replica, everything sent at once. It shows the milliseconds
//! until all was acknowledged, as plain publishes / as a batch, medians of 15 (from 250 on: 5):
//!
//! | messages | 256 B | 4 KiB | 16 KiB | 64 KiB |
//! |---|---|---|---|---|
//! | 10 | 3.7 / 4.8 | 3.2 / 4.6 | | 4.0 / 6.1 |
//! | 20 | 5.5 / 4.3 | 7.2 / 4.8 | 6.1 / 6.9 | 10 / 11 |
//! | 25 | 5.9 / 4.1 | 8.7 / 4.9 | 7.9 / 6.8 | 14 / 19 |
//! | 64 | 19 / 7.0 | 17 / 6.4 | 23 / 14 | 32 / 38 |
//! | 250 | 63 / 7.3 | 61 / 13 | 59 / 32 | 116 / 157 |
//! | 500 | 100 / 10 | 133 / 22 | | 255 / 303 |
//! | 1000 | 234 / 20 | 250 / 36 | | 724 / 544 |
//!
//! A batch is faster from about twenty messages on, but not for large messages. Beyond 500 messages in one batch it
//! gains little, and all of them wait for the last. The threshold is above the break-even, because a batch answers
//! all its messages at its end, and plain publishes answer the first ones early. With more replicas the server groups
//! syncs itself. Without syncs a plain publish is cheap. In both cases every message is published plainly.

use std::collections::{HashSet, VecDeque};

use tokio::time::{Duration, Instant};

use super::room_queue::{Job, Work};
use crate::{
    domain::{Draft, Durability, Room},
    limits::HEADROOM_BYTES,
};

/// Minimum number of messages in a group. Fewer messages are published plainly.
pub(super) const GROUP_MESSAGES_MIN: usize = 32;
/// Maximum number of messages in a group.
pub(super) const GROUP_MESSAGES_MAX: usize = 500;
/// Maximum bytes of a group.
const GROUP_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Maximum average bytes of a group's messages. Larger messages are published plainly.
const GROUP_AVERAGE_BYTES_MAX: usize = 16 * 1024;
/// A message with less time than this before its deadline joins no group, because the group would wait no longer than
/// that deadline.
const GROUP_TIME_MIN: Duration = Duration::from_secs(2);

/// Maximum number of plain publishes in flight in a room with groups. The number keeps the server busy and delays a
/// group only briefly.
pub(super) const PLAIN_IN_FLIGHT: usize = 8;

/// Returns true if groups are faster in this room.
pub(super) fn is_faster(durability: Durability, room: &Room) -> bool {
    durability == Durability::Synced && room.replicas <= 1
}

/// How the first jobs are published.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum First {
    /// This number of jobs as one group.
    Together(usize),
    /// This number of jobs one by one, at least one.
    Plainly(usize),
}

/// Decides how the first of the waiting jobs are published.
pub(super) fn first_of(jobs: &VecDeque<Job>) -> First {
    let by = Instant::now() + GROUP_TIME_MIN;
    let subject = jobs.front().map(|job| &job.registered.room.subject);
    let mut ids = HashSet::new();
    let mut bytes = 0;
    let mut count = 0;
    for job in jobs.iter().take(GROUP_MESSAGES_MAX) {
        let Work::One(message) = &job.work else { break };
        let draft = &message.draft;
        if !may_join(job, draft)
            || job.deadline < by
            || Some(&job.registered.room.subject) != subject
            || bytes + job.bytes > GROUP_BYTES_MAX
            || draft.message_id.as_ref().is_some_and(|id| !ids.insert((draft.sender.as_ref(), id)))
        {
            break;
        }
        bytes += job.bytes;
        count += 1;
    }
    if bytes > count * GROUP_AVERAGE_BYTES_MAX {
        First::Plainly(count)
    } else if count >= GROUP_MESSAGES_MIN {
        First::Together(count)
    } else {
        // including the job that could not join
        First::Plainly(count + 1)
    }
}

/// Returns true if the message may be part of a group. A message with an expected sequence may not, because JetStream
/// checks the expectation for the whole batch. The headers of a batch must not make a message larger than the room
/// can keep.
fn may_join(job: &Job, draft: &Draft) -> bool {
    let bytes = (draft.payload.len() + HEADROOM_BYTES) as u64;
    draft.expected_last_sequence.is_none() && job.registered.room.content_bytes_max().is_none_or(|max| bytes <= max)
}
