//! The names that rooms and subscribers have in NATS, and the keys that ids have in buckets.
//!
//! An id gets its mapped name, which native programs also compute, unless that name belongs to another id. Then it
//! gets its mapped name and a part of its hash.

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    limits::{ROOM_ID_CHARS_MAX, SUBSCRIBER_ID_CHARS_MAX},
};

/// The prefix of the name of a stream, before the name of the room.
const STREAM_PREFIX: &str = "UNIBUS_";
/// The alphabet of RFC 4648 in lower case. NATS allows it in names of streams and consumers and in subjects.
const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
/// Characters of the hash in a hashed name.
const HASH_CHARS: usize = 10;
/// Characters of the hash in a name that cannot be the mapped name of another id.
const RESERVED_HASH_CHARS: usize = 20;
/// The prefix of an encoded key. No plain key begins with it.
const ENCODED: char = '=';

/// Returns the mapped name of `id`: every character outside `[A-Za-z0-9_]` becomes `_`. Several ids can have the same
/// mapped name.
#[must_use]
fn mapped(id: &str) -> String {
    id.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).collect()
}

/// The NATS name of a room or a subscriber. It is a part of the names of streams, consumers and subjects.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NatsName(String);

impl NatsName {
    /// Returns the names that a room can have, the preferred name first.
    #[must_use]
    pub fn of_room(room: &super::RoomId) -> [Self; 3] {
        Self::of(room.as_str(), ROOM_ID_CHARS_MAX)
    }

    /// Returns the names that a subscriber can have, the preferred name first.
    #[must_use]
    pub fn of_subscriber(subscriber: &super::SubscriberId, endpoint: Option<&super::MemberId>) -> [Self; 3] {
        let [mapped, hashed, _] = Self::of(subscriber.as_str(), SUBSCRIBER_ID_CHARS_MAX);
        // no id has a line break
        let whose = format!("{subscriber}\n{}", endpoint.map_or("", super::MemberId::as_str));
        [mapped, hashed, Self::reserved(subscriber.as_str(), &whose, SUBSCRIBER_ID_CHARS_MAX)]
    }

    /// Returns the common beginning of all names that a subscriber can have.
    #[must_use]
    pub fn stem_of_subscriber(id: &str) -> String {
        cut(id, SUBSCRIBER_ID_CHARS_MAX - 1 - RESERVED_HASH_CHARS)
    }

    /// Returns three names: the mapped name; the mapped name with a part of the hash; and the mapped name with more
    /// of the hash after a character that no mapped name contains, so that no other id can have it. No name is longer
    /// than an id may be.
    fn of(id: &str, chars_max: usize) -> [Self; 3] {
        let hashed = format!("{}_{}", cut(id, chars_max - 1 - HASH_CHARS), hash(id, HASH_CHARS));
        [Self(mapped(id)), Self(hashed), Self::reserved(id, id, chars_max)]
    }

    fn reserved(id: &str, hashed: &str, chars_max: usize) -> Self {
        let hash = hash(hashed, RESERVED_HASH_CHARS);
        Self(format!("{}-{hash}", cut(id, chars_max - 1 - RESERVED_HASH_CHARS)))
    }

    /// Parses the name that follows the name of the room in the name of a consumer.
    ///
    /// # Errors
    /// Returns an error if it cannot be such a name.
    pub fn parse(name: impl Into<String>) -> Result<Self> {
        let name = name.into();
        let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
        if is_name { Ok(Self(name)) } else { Err(Error::internal().because("a name that NATS does not take")) }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NatsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for NatsName {
    type Error = Error;

    fn try_from(name: String) -> Result<Self> {
        Self::parse(name)
    }
}

impl From<NatsName> for String {
    fn from(name: NatsName) -> Self {
        name.0
    }
}

/// The name of the stream of a room. An ephemeral room has one too, since its subject is made from it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StreamName {
    full: String,
    room: NatsName,
}

impl StreamName {
    /// Returns the stream name of the room with this NATS name.
    #[must_use]
    pub fn of(room: NatsName) -> Self {
        Self { full: format!("{STREAM_PREFIX}{room}"), room }
    }

    /// The name as NATS has it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.full
    }

    /// The NATS name of the room.
    #[must_use]
    pub fn room(&self) -> &NatsName {
        &self.room
    }
}

impl fmt::Display for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.full)
    }
}

impl TryFrom<String> for StreamName {
    type Error = Error;

    fn try_from(name: String) -> Result<Self> {
        let room = name.strip_prefix(STREAM_PREFIX).ok_or_else(|| Error::internal().because("no room's stream"))?;
        NatsName::parse(room).map(Self::of)
    }
}

impl From<StreamName> for String {
    fn from(name: StreamName) -> Self {
        name.full
    }
}

/// Returns the id as a token of a key that no other id has: the id itself if a key may contain all its characters.
#[must_use]
pub(super) fn key(id: &str) -> String {
    if !id.is_empty() && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-')) {
        return id.to_owned();
    }
    format!("{ENCODED}{}", URL_SAFE_NO_PAD.encode(id))
}

/// Returns the id that has this key; `None` if no id has it.
pub(super) fn id_of_key(token: &str) -> Option<String> {
    let id = match token.strip_prefix(ENCODED) {
        Some(encoded) => String::from_utf8(URL_SAFE_NO_PAD.decode(encoded).ok()?).ok()?,
        None => token.to_owned(),
    };
    (key(&id) == token).then_some(id)
}

fn cut(id: &str, chars_max: usize) -> String {
    let mut mapped = mapped(id);
    mapped.truncate(chars_max);
    mapped
}

/// Returns the first characters of the SHA-256 of `id` in base32.
fn hash(id: &str, chars: usize) -> String {
    let digest = digest(&SHA256, id.as_bytes());
    let bits = digest.as_ref().iter().flat_map(|byte| (0..8).rev().map(move |bit| (byte >> bit) & 1));
    let bits: Vec<u8> = bits.take(chars * 5).collect();
    let value = |bits: &[u8]| bits.iter().fold(0, |value, bit| value << 1 | usize::from(*bit));
    bits.chunks(5).filter_map(|bits| BASE32.get(value(bits))).map(|letter| char::from(*letter)).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;
    use crate::domain::RoomId;

    fn names(id: &str) -> [String; 3] {
        NatsName::of_room(&RoomId::parse("room_id", id).unwrap()).map(String::from)
    }

    #[test]
    fn names_are_those_of_the_contract() {
        // printf %s a-b | sha256sum | xxd -r -p | base32 | tr A-Z a-z
        let [mapped, hashed, reserved] = names("a-b");
        assert_eq!((mapped.as_str(), hashed.as_str()), ("a_b", "a_b_2rbwfvt5si"));
        assert!(reserved.starts_with("a_b-2rbwfvt5si"), "{reserved}");
        assert_eq!(StreamName::of(NatsName(mapped)).as_str(), "UNIBUS_a_b");
    }

    #[test]
    fn nobody_else_can_have_the_last_name() {
        let [_, hashed, reserved] = names("a-b");
        assert_eq!(names(&hashed)[0], hashed, "an id may be another id's hashed name");
        assert!(names(&reserved).iter().all(|name| *name != reserved));
    }

    proptest! {
        #[test]
        fn mapping_keeps_length_and_charset(id in "\\PC{1,128}") {
            let name = mapped(&id);
            prop_assert_eq!(name.len(), id.chars().count());
            prop_assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'));
        }

        #[test]
        fn mapping_is_the_identity_on_safe_ids(id in "[A-Za-z0-9_]{1,128}") {
            prop_assert_eq!(mapped(&id), id);
        }

        #[test]
        fn names_differ_and_fit(id in "[a-z日/]{1,128}") {
            let [mapped, hashed, reserved] = names(&id);
            prop_assert!(mapped != hashed && hashed != reserved);
            for name in [mapped, hashed, reserved] {
                prop_assert!(name.len() <= ROOM_ID_CHARS_MAX, "{}", name);
                let stream = StreamName::of(NatsName::parse(name).unwrap());
                prop_assert_eq!(StreamName::try_from(stream.to_string()).unwrap(), stream);
            }
        }

        #[test]
        fn a_key_is_safe_and_one_ids_alone(id in any::<String>()) {
            let token = key(&id);
            let safe = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'=');
            prop_assert!(!token.is_empty() && token.bytes().all(safe), "{}", token);
            prop_assert_eq!(id_of_key(&token), Some(id));
        }

        #[test]
        fn a_key_that_no_id_has_is_none(token in any::<String>()) {
            if let Some(id) = id_of_key(&token) {
                prop_assert_eq!(key(&id), token);
            }
        }
    }
}
