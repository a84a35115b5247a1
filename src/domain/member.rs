//! Members of rooms: what each member may do, and which part of the log it may read.

use serde::{Deserialize, Serialize};

use super::MemberId;

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
    /// The epoch to which `from` belongs. All messages of a later epoch are newer, so the member may read all of
    /// them.
    #[serde(rename = "visible_epoch")]
    pub epoch: i64,
}

impl Visible {
    /// Returns the last sequence of this epoch that the member must not read; 0: none.
    #[must_use]
    pub fn hidden_through(self, epoch: i64) -> u64 {
        if self.epoch == epoch { self.from.saturating_sub(1) } else { 0 }
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

    #[test]
    fn a_later_life_of_the_log_is_visible_as_a_whole() {
        let visible = Visible { from: 10, epoch: 1 };
        assert_eq!(visible.hidden_through(1), 9);
        assert_eq!(visible.hidden_through(2), 0);
        assert_eq!(Visible::default().hidden_through(0), 0);
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
