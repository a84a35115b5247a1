//! Members of rooms: what each member may do, and which part of the log it may read.

use serde::{Deserialize, Serialize};

use super::{MemberId, RoomState};

/// What a member may do. Each role includes the roles before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// May read.
    Reader,
    /// May also publish.
    Writer,
    /// May also change the room and its members.
    Owner,
}

/// The part of a log that a member may read. By default the whole log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Visible {
    /// The first sequence that the member may read; 0: all.
    #[serde(rename = "visible_from")]
    pub from: u64,
    /// The epoch to which `from` belongs. All messages of a later log are newer, so the member may read all of them.
    #[serde(rename = "visible_epoch")]
    pub epoch: i64,
}

impl Visible {
    /// Returns the last sequence of the log in this state that the member must not read; 0: none.
    #[must_use]
    pub fn hidden_through(self, log: &RoomState) -> u64 {
        if log.continues(self.epoch) { self.from.saturating_sub(1) } else { 0 }
    }

    /// Whether this hides messages that `before` shows.
    #[must_use]
    pub fn is_narrower_than(self, before: Self) -> bool {
        self.from > before.from || (self.from > 0 && self.epoch != before.epoch)
    }
}

/// The role and the visible part of the log of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Membership {
    /// What the member may do.
    pub role: Role,
    /// The part of the log that it may read.
    pub visible: Visible,
}

/// A member of a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The authenticated id.
    pub id: MemberId,
    /// The role of the member, and what it may read.
    pub membership: Membership,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In nanoseconds.
    const DAY: i64 = 86_400_000_000_000;

    #[test]
    fn a_later_life_of_the_log_is_visible_as_a_whole() {
        let visible = Visible { from: 10, epoch: 1 };
        let log = |epoch, oldest| RoomState { epoch, oldest, ..RoomState::default() };
        for (epoch, oldest, expected) in [(1, 1, 9), (1, 7, 9), (2, 2, 0), (2, 7, 0), (DAY, DAY, 0), (DAY, 2 * DAY, 0)]
        {
            assert_eq!(visible.hidden_through(&log(epoch, oldest)), expected, "{epoch} {oldest}");
        }
        assert_eq!(Visible::default().hidden_through(&RoomState::default()), 0);
    }

    #[test]
    fn a_restored_log_hides_what_the_log_hid() {
        let visible = Visible { from: 10, epoch: 3 * DAY };
        let restored = |oldest| RoomState { epoch: 9 * DAY, oldest, ..RoomState::default() };
        // the last one: the clock of the server that dated the message was behind
        for oldest in [3 * DAY, 5 * DAY, 3 * DAY - 1] {
            assert_eq!(visible.hidden_through(&restored(oldest)), 9, "{oldest}");
        }
        // the epoch is that of a later log than the restored one
        assert_eq!(visible.hidden_through(&restored(2 * DAY)), 0);
    }

    #[test]
    fn narrower_is_what_hides_more() {
        let visible = |from, epoch| Visible { from, epoch };
        assert!(visible(2, 1).is_narrower_than(visible(1, 1)));
        assert!(visible(2, 1).is_narrower_than(Visible::default()));
        assert!(visible(2, 2).is_narrower_than(visible(3, 1)));
        assert!(!visible(2, 1).is_narrower_than(visible(2, 1)));
        assert!(!visible(1, 1).is_narrower_than(visible(2, 1)));
        assert!(!Visible::default().is_narrower_than(visible(2, 1)));
    }
}
