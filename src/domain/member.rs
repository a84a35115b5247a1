//! Members of rooms: what each may do, and what of a room's log it may see.

use serde::{Deserialize, Serialize};

use super::MemberId;

/// What a member may do; each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Reads.
    Reader,
    /// And publishes.
    Writer,
    /// And changes the room and its members.
    Owner,
}

/// What of a room's log a member may see. By default all of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Visible {
    /// The first sequence; 0: all.
    #[serde(rename = "visible_from")]
    pub from: u64,
    /// The life of the log that it belongs to: what is stored in a later one is newer, so all of that is visible.
    #[serde(rename = "visible_epoch")]
    pub epoch: i64,
}

impl Visible {
    /// The last sequence that must not be seen in this life of the log; 0: there is none.
    #[must_use]
    pub fn hidden_through(self, epoch: i64) -> u64 {
        if self.epoch == epoch { self.from.saturating_sub(1) } else { 0 }
    }

    /// Whether something is hidden by this that `before` shows.
    #[must_use]
    pub fn is_narrower_than(self, before: Self) -> bool {
        self.from > before.from || (self.from > 0 && self.epoch != before.epoch)
    }
}

/// What a caller is in a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Membership {
    /// What it may do.
    pub role: Role,
    /// What it may see.
    pub visible: Visible,
}

/// A member of a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The endpoint id.
    pub id: MemberId,
    /// What it may do and see.
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
