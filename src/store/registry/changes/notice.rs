//! What instances tell each other, as it goes over NATS.

use serde::{Deserialize, Serialize};

use crate::{
    domain::RoomId,
    store::registry::{self, members},
};

/// A notice, with who says it and where: so that one cannot be passed on to somebody else.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Envelope {
    pub from: String,
    pub subject: String,
    pub notice: Notice,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Notice {
    /// The instance is there; if `asks`, the others say so too.
    Present { asks: bool },
    /// It is going.
    Leaving,
    /// It has changed something, which is confirmed with `Heard`.
    Change { number: u64, change: Change },
    /// It knows of the change.
    Heard { number: u64 },
}

/// What was changed.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::store) enum Change {
    Member(members::change::MemberChange),
    Room(registry::RoomChange),
    /// A single message of this life of the room's log was deleted.
    MessageDeleted {
        room_id: RoomId,
        epoch: i64,
        sequence: u64,
    },
}
