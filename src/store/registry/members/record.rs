//! The keys and values of the bucket of members.
//!
//! There are two kinds of keys. `<key of the room's id>.<base64url of the member's id>` holds the role of a member
//! and what it may see; base64url makes any id a safe key. `<key of the room's id>.=owners` holds all owners;
//! base64url without padding never contains `=`. All owners are one value, so two concurrent removals cannot leave a
//! room without an owner. A room without such a value is owned by its creator.

use std::{collections::BTreeMap, time::SystemTime};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use crate::domain::{MemberId, Role, Room, RoomId, Visible, rfc3339};

const OWNERS: &str = "=owners";

/// A value of the bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(super) enum MembershipRecord {
    Member(MemberRecord),
    Owners(OwnersRecord),
}

/// The role of a member, and what it may see. For an owner, the value that remains when it stops being an owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MemberRecord {
    pub room_id: RoomId,
    /// Distinguishes this room from an earlier room with the same id, which had other members.
    #[serde(with = "rfc3339")]
    pub room_created_at: SystemTime,
    pub member_id: MemberId,
    pub role: Role,
    #[serde(flatten)]
    pub visible: Visible,
    #[serde(flatten)]
    pub grant: Grant,
}

/// The owners of a room. Once a room has an owner, it always has one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct OwnersRecord {
    pub room_id: RoomId,
    #[serde(with = "rfc3339")]
    pub room_created_at: SystemTime,
    pub owners: Owners,
}

/// The owners of a room, each with its grant.
pub(crate) type Owners = BTreeMap<MemberId, Grant>;

/// When a role was granted, and by which caller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Grant {
    #[serde(with = "rfc3339")]
    pub since: SystemTime,
    /// Empty if authorisation was off.
    pub by: String,
}

impl MembershipRecord {
    pub(super) fn room_id(&self) -> &RoomId {
        match self {
            Self::Member(record) => &record.room_id,
            Self::Owners(record) => &record.room_id,
        }
    }

    /// Returns true if the value belongs to this room, not to another room with the same id.
    pub(super) fn is_of(&self, room: &Room) -> bool {
        let created_at = match self {
            Self::Member(record) => record.room_created_at,
            Self::Owners(record) => record.room_created_at,
        };
        *self.room_id() == room.room_id && created_at == room.created_at
    }
}

pub(super) fn member_key(room: &RoomId, member: &MemberId) -> String {
    format!("{}.{}", room.key(), URL_SAFE_NO_PAD.encode(member.as_str()))
}

pub(super) fn owners_key(room: &RoomId) -> String {
    format!("{}.{OWNERS}", room.key())
}

/// A parsed key.
pub(super) enum ParsedKey {
    Member { room: RoomId, member: MemberId },
    Owners { room: RoomId },
}

/// Parses a key. `None` for a key that the service does not create.
pub(super) fn read_key(key: &str) -> Option<ParsedKey> {
    let (room, rest) = key.split_once('.')?;
    let room = RoomId::of_key(room)?;
    if rest == OWNERS {
        return Some(ParsedKey::Owners { room });
    }
    let member = String::from_utf8(URL_SAFE_NO_PAD.decode(rest).ok()?).ok()?;
    Some(ParsedKey::Member { room, member: MemberId::parse("member_id", member).ok()? })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_id_is_safe_as_a_key_and_comes_back(room in "[!-~à-ÿ一-龥а-я🦀]{1,128}", member in "[!-~à-ÿ一-龥а-я🦀]{1,126}") {
            let room = RoomId::parse("room_id", room).unwrap();
            let member = MemberId::parse("member_id", member).unwrap();
            let key = member_key(&room, &member);
            let safe = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'=' | b'.');
            prop_assert!(key.bytes().all(safe), "{}", key);
            match read_key(&key) {
                Some(ParsedKey::Member { room: of, member: found }) => {
                    prop_assert_eq!(of, room);
                    prop_assert_eq!(found, member);
                }
                _ => panic!("{key}"),
            }
        }

        #[test]
        fn foreign_keys_are_no_panic(key in any::<String>()) {
            let _ = read_key(&key);
        }
    }
}
