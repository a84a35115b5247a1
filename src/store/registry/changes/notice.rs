//! The notices that instances send to each other over NATS.

use serde::{Deserialize, Serialize};

use crate::{
    domain::RoomId,
    store::registry::{self, members},
};

/// A notice with its sender and its subject, so that it cannot be replayed on another subject.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Envelope {
    pub from: String,
    pub subject: String,
    pub notice: Notice,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Notice {
    /// The instance is present. If `asks` is true, the others announce themselves too.
    Present { asks: bool },
    /// The instance leaves.
    Leaving,
    /// The instance has changed something. The receiver confirms with `Confirmed`.
    Change { number: u64, change: Change },
    /// The instance knows the change.
    #[serde(rename = "heard")]
    Confirmed { number: u64 },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::store) enum Change {
    Member(members::change::MemberChange),
    Room(registry::RoomChange),
    /// A single message of the room's log with this epoch was deleted.
    MessageDeleted {
        room_id: RoomId,
        epoch: i64,
        sequence: u64,
    },
}
