//! Group commit: which of the publishes that wait for a room go together as one atomic batch (ADR-50).
//!
//! A server that syncs every write syncs once for each plain publish, however many wait, and once for a whole batch; but
//! a batch is first written to a file of its own, which costs about as much as twenty plain publishes. Measured against
//! nats-server 2.15.1 with `sync_interval: always`, one replica, everything sent at once; milliseconds until all was
//! acknowledged, plainly / as a batch, medians of 15 (from 250 on: 5):
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
//! So it pays from some twenty messages on, not for large ones, and not much more beyond 500 in one batch, while all of
//! these wait for the last. The threshold lies above the break-even, because a batch answers all of its messages at its
//! end, and plain publishes answer the first ones early. With more replicas the server groups syncs by itself, and
//! without them a plain publish is cheap: there everything goes plainly.

use std::collections::{HashSet, VecDeque};

use tokio::time::{Duration, Instant};

use super::room_queue::{Job, Work};
use crate::{
    domain::{Draft, Durability, Room},
    limits::HEADROOM_BYTES,
};

/// Fewer than this go plainly.
pub(super) const GROUP_MESSAGES_MIN: usize = 32;
/// Messages of one batch.
pub(super) const GROUP_MESSAGES_MAX: usize = 500;
/// Bytes of one batch.
const GROUP_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Messages that are larger on average go plainly.
const GROUP_AVERAGE_BYTES_MAX: usize = 16 * 1024;
/// What is about to time out does not go together with others, which would wait for no longer than that.
const GROUP_TIME_MIN: Duration = Duration::from_secs(2);

/// Plain publishes under way where groups may be committed: enough to keep the server busy, few enough that a group is
/// not held up by them.
pub(super) const PLAIN_IN_FLIGHT: usize = 8;

/// Whether groups pay in this room.
pub(super) fn pays(durability: Durability, room: &Room) -> bool {
    durability == Durability::Synced && room.replicas <= 1
}

/// How the first jobs go.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum First {
    /// So many together.
    Together(usize),
    /// So many each by itself, one at least.
    Plainly(usize),
}

/// How the first of many jobs go.
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
        // with the one that could not join
        First::Plainly(count + 1)
    }
}

/// An expectation is looked at for the batch as a whole. The headers of a batch must not make a message larger than the room
/// can keep.
fn may_join(job: &Job, draft: &Draft) -> bool {
    let bytes = (draft.payload.len() + HEADROOM_BYTES) as u64;
    draft.expected_last_sequence.is_none() && job.registered.room.content_bytes_max().is_none_or(|max| bytes <= max)
}
