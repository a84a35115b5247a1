//! Room, subscriber and member ids.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{characters, nats_names};
use crate::{
    error::{Error, Result},
    limits::{MEMBER_ID_CHARS_MAX, ROOM_ID_CHARS_MAX, SUBSCRIBER_ID_CHARS_MAX},
};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $max:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks `id`. An error names `field`.
            pub fn parse(field: &str, id: impl Into<String>) -> Result<Self> {
                let id = id.into();
                match problem(&id, $max) {
                    None => Ok(Self(id)),
                    Some(problem) => Err(Error::field(field, problem)),
                }
            }

            /// The id as given.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// Returns the id as a token of a bucket key. No other id has the same token.
            #[must_use]
            pub fn key(&self) -> String {
                nats_names::key(&self.0)
            }

            /// Returns the id that has this key.
            #[must_use]
            pub fn of_key(token: &str) -> Option<Self> {
                Self::parse("id", nats_names::id_of_key(token)?).ok()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;

            fn try_from(id: String) -> Result<Self> {
                Self::parse("id", id)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }
    };
}

id!(
    /// A room id: 1 to 128 characters in NFC, without white space and invisible characters, the first no combining mark.
    RoomId,
    ROOM_ID_CHARS_MAX
);
id!(
    /// The id of a durable subscriber: 1 to 126 characters in NFC, without white space and invisible characters, the first no
    /// combining mark.
    SubscriberId,
    SUBSCRIBER_ID_CHARS_MAX
);
id!(
    /// The id of a member, which its token or certificate gives: 1 to 126 characters in NFC, without white space and
    /// invisible characters, the first no combining mark.
    MemberId,
    MEMBER_ID_CHARS_MAX
);

fn problem(id: &str, chars_max: usize) -> Option<String> {
    let chars = id.chars().count();
    if chars == 0 {
        Some(format!("must not be empty; give 1 to {chars_max} characters"))
    } else if chars > chars_max {
        Some(format!("has {chars} characters; at most {chars_max} are allowed"))
    } else {
        characters::problem(id).map(ToOwned::to_owned)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn parsing_never_panics_and_keeps_the_id(id in any::<String>()) {
            if let Ok(room) = RoomId::parse("room_id", id.clone()) {
                prop_assert_eq!(room.as_str(), id.as_str());
            }
        }
    }

    #[test]
    fn bounds_are_inclusive() {
        assert!(RoomId::parse("room_id", "é".repeat(128)).is_ok());
        assert!(RoomId::parse("room_id", "a".repeat(129)).is_err());
        assert!(RoomId::parse("room_id", "").is_err());
        assert!(RoomId::parse("room_id", "a b").is_err());
        assert!(SubscriberId::parse("subscriber", "a\n").is_err());
        assert!(SubscriberId::parse("subscriber", "x".repeat(126)).is_ok());
        assert!(SubscriberId::parse("subscriber", "x".repeat(127)).is_err());
    }
}
