//! Rooms: what their creator fixed, what is kept, what is stored now.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

use super::{NatsName, RoomId, StreamName, Subject, characters};
use crate::{
    error::{Error, Result, Violations},
    limits::{LABEL_NAME_CHARS_MAX, LABELS_BYTES_MAX, LABELS_MAX, MAX_AGE_MIN, STORED_OVERHEAD_BYTES},
};

/// A room as it is registered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Room {
    /// Its name.
    pub room_id: RoomId,
    /// Its name in NATS, also if it has no stream.
    pub stream: StreamName,
    /// Where its messages travel in NATS.
    pub subject: Subject,
    /// Whether messages are stored.
    pub persist: bool,
    /// What is kept, if persisted.
    #[serde(default)]
    pub retention: Retention,
    /// Copies in a cluster; 0 if not persisted.
    #[serde(default)]
    pub replicas: u32,
    /// Whether a message may have a lifetime of its own.
    #[serde(default)]
    pub allow_message_ttl: bool,
    /// The creator's key-value pairs.
    #[serde(default)]
    pub labels: Labels,
    /// When it was registered.
    #[serde(with = "rfc3339")]
    pub created_at: SystemTime,
    /// The authenticated creator, or empty.
    #[serde(default)]
    pub creator: String,
    /// What was purged, if anything was in the present life of the log or an earlier one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purged: Option<Purged>,
    /// What is being purged, or was about to be when whoever did it stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purging: Option<Purged>,
}

/// How far a room was purged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Purged {
    /// The life of the log: [`RoomState::epoch`].
    pub epoch: i64,
    /// The last sequence that a purge removed. What is missing up to it may also have gone before.
    pub through: u64,
}

impl Room {
    /// Whether a request for `other` asks for this very room: all that a creator can choose is the same.
    #[must_use]
    pub fn same_settings(&self, other: &Self) -> bool {
        let Self {
            room_id,
            stream,
            subject,
            persist,
            retention,
            replicas,
            allow_message_ttl,
            labels,
            created_at: _,
            creator: _,
            purged: _,
            purging: _,
        } = self;
        *room_id == other.room_id
            && *stream == other.stream
            && *subject == other.subject
            && *persist == other.persist
            && *retention == other.retention
            && *replicas == other.replicas
            && *allow_message_ttl == other.allow_message_ttl
            && *labels == other.labels
    }

    /// What `max_bytes` leaves for one message's headers and payload, as NATS encodes them; 0 if it leaves nothing.
    #[must_use]
    pub fn content_bytes_max(&self) -> Option<u64> {
        let max = u64::try_from(self.retention.max_bytes?).unwrap_or_default();
        Some(max.saturating_sub((STORED_OVERHEAD_BYTES + self.subject.as_str().len()) as u64))
    }

    /// The last sequence that was purged in the life `epoch` of the log; 0 if none was.
    #[must_use]
    pub fn purged_through(&self, epoch: i64) -> u64 {
        self.purged.filter(|purged| purged.epoch == epoch).map_or(0, |purged| purged.through)
    }
}

/// A room that is to be registered, and gets its names in NATS by that.
#[derive(Clone, Debug)]
pub struct NewRoom {
    /// With the preferred stream and the subject that goes with it.
    preferred: Room,
    is_subject_given: bool,
}

impl NewRoom {
    /// The subject of `room` was given by the creator, or goes with whatever name the room gets.
    #[must_use]
    pub fn new(room: Room, is_subject_given: bool) -> Self {
        Self { preferred: room, is_subject_given }
    }

    /// The room with the names that it has if they are free.
    #[must_use]
    pub fn preferred(&self) -> &Room {
        &self.preferred
    }

    /// The names that its stream may have, the preferred one first.
    #[must_use]
    pub fn streams(&self) -> [StreamName; 3] {
        NatsName::of_room(&self.preferred.room_id).map(StreamName::of)
    }

    /// The room with this stream.
    #[must_use]
    pub fn named(&self, stream: StreamName) -> Room {
        let subject = if self.is_subject_given { self.preferred.subject.clone() } else { Subject::default_of(&stream) };
        Room { stream, subject, ..self.preferred.clone() }
    }
}

/// The creator's key-value pairs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Labels(BTreeMap<String, String>);

impl Labels {
    /// Checks number and size.
    pub fn parse(field: &str, pairs: impl IntoIterator<Item = (String, String)>) -> Result<Self> {
        let labels: BTreeMap<_, _> = pairs.into_iter().collect();
        let bytes: usize = labels.iter().map(|(name, value)| name.len() + value.len()).sum();
        if labels.len() > LABELS_MAX {
            return Err(Error::field(field, format!("has {} labels; at most {LABELS_MAX} are allowed", labels.len())));
        }
        if bytes > LABELS_BYTES_MAX {
            return Err(Error::field(
                field,
                format!("has {bytes} bytes of names and values; at most {LABELS_BYTES_MAX} are allowed"),
            ));
        }
        match labels.keys().find(|name| name.is_empty() || name.chars().count() > LABEL_NAME_CHARS_MAX) {
            None => {}
            Some(_) => {
                return Err(Error::field(
                    field,
                    format!("has a name that does not have 1 to {LABEL_NAME_CHARS_MAX} characters"),
                ));
            }
        }
        match labels.keys().find_map(|name| characters::problem_but_for_spaces(name)) {
            None => Ok(Self(labels)),
            Some(problem) => Err(Error::field(field, format!("has a name that {problem}"))),
        }
    }

    /// The pairs by ascending name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// Bounds on what a persisted room keeps; `None` is no bound.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Retention {
    /// Age of the oldest message.
    #[serde(with = "duration_text", skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Duration>,
    /// Bytes stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<i64>,
    /// Messages stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_messages: Option<i64>,
    /// Payload bytes of one message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_message_bytes: Option<i32>,
}

impl Retention {
    /// Whether messages leave the room by themselves.
    #[must_use]
    pub fn expires(&self) -> bool {
        self.max_age.is_some() || self.max_bytes.is_some() || self.max_messages.is_some()
    }

    /// Names each bound that NATS would refuse; `payload_bytes_max` is what the server takes.
    pub fn check(&self, field: &str, payload_bytes_max: usize, violations: &mut Violations) {
        if self.max_age.is_some_and(|age| age < MAX_AGE_MIN) {
            violations.add(format!("{field}.max_age"), "must be at least 100 ms; 0 or unset means no bound");
        }
        for (name, value) in [
            ("max_bytes", self.max_bytes),
            ("max_messages", self.max_messages),
            ("max_message_bytes", self.max_message_bytes.map(i64::from)),
        ] {
            if value.is_some_and(i64::is_negative) {
                violations.add(format!("{field}.{name}"), "must not be negative; 0 or unset means no bound");
            }
        }
        if let Some(bytes) = self.max_message_bytes
            && usize::try_from(bytes).is_ok_and(|bytes| bytes > payload_bytes_max)
        {
            violations.add(
                format!("{field}.max_message_bytes"),
                format!("is {bytes}; the service accepts payloads of at most {payload_bytes_max} bytes"),
            );
        }
    }
}

/// What a persisted room holds at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RoomState {
    /// Oldest message kept; one more than `last_sequence` when there is none.
    pub first_sequence: u64,
    /// Newest message ever stored; 0 when there was none.
    pub last_sequence: u64,
    /// Messages kept.
    pub messages: u64,
    /// Bytes kept.
    pub bytes: u64,
    /// Creation time of the log in nanoseconds since 1970: tells one life of it from another.
    pub epoch: i64,
}

impl RoomState {
    /// Whether every sequence from the first to the last is still there.
    #[must_use]
    pub fn is_dense(&self) -> bool {
        self.last_sequence + 1 == self.first_sequence + self.messages
    }
}

/// Times in stored JSON, exact to the nanosecond.
pub(crate) mod rfc3339 {
    use std::time::SystemTime;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_rfc3339_nanos(*time))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SystemTime, D::Error> {
        humantime::parse_rfc3339(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

mod duration_text {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    #[expect(clippy::ref_option, reason = "the signature is serde's")]
    pub(super) fn serialize<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        match duration {
            Some(duration) => serializer.collect_str(&humantime::format_duration(*duration)),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        Option::<String>::deserialize(deserializer)?
            .map(|text| humantime::parse_duration(&text).map_err(D::Error::custom))
            .transpose()
    }
}
