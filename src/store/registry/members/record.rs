//! What the bucket of members holds.
//!
//! Two kinds of keys: `<key of the room's id>.<base64url of the member's id>`, so that any id is safe as a key, with what a
//! member may do and see; and `<key of the room's id>.=owners` (no base64url without padding has that character), with all owners. The
//! owners are one value, so that two removals at the same moment cannot leave a room without one. A room that has no such
//! value is owned by its creator.

use std::{collections::BTreeMap, time::SystemTime};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use crate::domain::{MemberId, Role, Room, RoomId, Visible, rfc3339};

const OWNERS: &str = "=owners";

/// A value of the bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(super) enum Record {
    Member(MemberRecord),
    Owners(OwnersRecord),
}

/// What a member may do and see. For an owner it says what remains when it is none any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MemberRecord {
    pub room_id: RoomId,
    /// Tells this room from an earlier one of the same name, whose members are not this one's.
    #[serde(with = "rfc3339")]
    pub room_created_at: SystemTime,
    pub member_id: MemberId,
    pub role: Role,
    #[serde(flatten)]
    pub visible: Visible,
    #[serde(flatten)]
    pub grant: Grant,
}

/// The value of the owners, who are never none once there was one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct OwnersRecord {
    pub room_id: RoomId,
    #[serde(with = "rfc3339")]
    pub room_created_at: SystemTime,
    pub owners: Owners,
}

/// The owners of a room, each with what made it one.
pub(crate) type Owners = BTreeMap<MemberId, Grant>;

/// Since when, and by whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Grant {
    #[serde(with = "rfc3339")]
    pub since: SystemTime,
    /// Empty: somebody, while authorisation was off.
    pub by: String,
}

impl Record {
    pub(super) fn room_id(&self) -> &RoomId {
        match self {
            Self::Member(record) => &record.room_id,
            Self::Owners(record) => &record.room_id,
        }
    }

    /// Whether it is of this very room.
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

/// What a key stands for.
pub(super) enum Key {
    Member { room: RoomId, member: MemberId },
    Owners { room: RoomId },
}

/// `None`: a key that the service does not make.
pub(super) fn read_key(key: &str) -> Option<Key> {
    let (room, rest) = key.split_once('.')?;
    let room = RoomId::of_key(room)?;
    if rest == OWNERS {
        return Some(Key::Owners { room });
    }
    let member = String::from_utf8(URL_SAFE_NO_PAD.decode(rest).ok()?).ok()?;
    Some(Key::Member { room, member: MemberId::parse("member_id", member).ok()? })
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
                Some(Key::Member { room: of, member: found }) => {
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
