//! The NATS subject of a room.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{NatsName, RoomId, StreamName};
use crate::{
    error::{Error, Result},
    limits::SUBJECT_CHARS_MAX,
};

/// The first token of the subjects that the service uses for itself.
const OWN_TOKEN: &str = "unibus";
const DEFAULT_PREFIX: &str = "unibus.room.";

/// A subject without wildcards that neither NATS nor the service uses for itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Subject(String);

impl Subject {
    /// Returns the default subject of the room with this stream. It is reserved for the room even if the creator
    /// chose another subject.
    #[must_use]
    pub fn default_of(stream: &StreamName) -> Self {
        Self(format!("{DEFAULT_PREFIX}{}", stream.room()))
    }

    /// Whether this is the default subject of a room.
    #[must_use]
    pub fn is_default(&self) -> bool {
        self.0.starts_with(DEFAULT_PREFIX)
    }

    /// Checks the subject of `room`. `room` is `None` if its id is invalid.
    pub fn parse(field: &str, subject: &str, room: Option<&RoomId>) -> Result<Self> {
        let is_own =
            |room| NatsName::of_room(room).map(StreamName::of).iter().any(|name| subject == Self::default_of(name).0);
        if room.is_some_and(is_own) {
            return Ok(Self(subject.to_owned()));
        }
        match problem(subject) {
            None => Ok(Self(subject.to_owned())),
            Some(problem) => Err(Error::field(field, problem)),
        }
    }

    /// The subject as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn problem(subject: &str) -> Option<String> {
    let chars = subject.chars().count();
    if chars > SUBJECT_CHARS_MAX {
        return Some(format!("has {chars} characters; at most {SUBJECT_CHARS_MAX} are allowed"));
    }
    if subject.split('.').any(str::is_empty) {
        return Some("has an empty token; join the tokens by single dots".to_owned());
    }
    if !subject.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')) {
        return Some(
            "must only have the characters A-Z a-z 0-9 _ - and dots; wildcards, spaces and $ are not allowed"
                .to_owned(),
        );
    }
    let first = subject.split('.').next().unwrap_or_default();
    // NATS and its clients reserve tokens such as _INBOX and _R_
    (first == OWN_TOKEN || first.starts_with('_'))
        .then(|| format!("must not begin with {first:?}: tokens that begin with _ and {OWN_TOKEN:?} are reserved"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn parse(subject: &str) -> Result<Subject> {
        Subject::parse("subject", subject, Some(&RoomId::parse("room_id", "a-b").unwrap()))
    }

    #[test]
    fn dangerous_subjects_are_refused() {
        for bad in [
            "",
            ".",
            "a.",
            ".a",
            "a..b",
            "a.*",
            ">",
            "a.>",
            "a b",
            "a\tb",
            "a\r\nb",
            "$JS.x",
            "$SYS.x",
            "_INBOX.x",
            "_R_.x",
            "unibus.sys.x",
            "unibus.room.other",
            "é.x",
            "a.$b",
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
        assert!(parse(&"x".repeat(201)).is_err());
    }

    #[test]
    fn ordinary_subjects_and_the_rooms_own_default_are_taken() {
        for good in ["room.general", "a", "Team-1.room_2", "unibus.room.a_b", "unibus.room.a_b_2rbwfvt5si", "unibusx.y"]
        {
            assert_eq!(parse(good).unwrap().as_str(), good);
        }
        assert!(parse(&"x".repeat(200)).is_ok());
    }

    proptest! {
        #[test]
        fn what_is_taken_is_a_literal_subject(subject in "[A-Za-z0-9_.$*> -]{0,40}") {
            if let Ok(subject) = parse(&subject) {
                prop_assert!(subject.as_str().split('.').all(|token| !token.is_empty()));
                prop_assert!(!subject.as_str().contains(['*', '>', ' ', '$']));
            }
        }
    }
}
