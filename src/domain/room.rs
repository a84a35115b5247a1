//! Rooms: their fixed settings, their retention, and the state of their log.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

use super::{DedupeWindow, NatsName, RoomId, StreamName, Subject, characters};
use crate::{
    error::{Error, Result, Violations},
    limits::{LABEL_NAME_CHARS_MAX, LABELS_BYTES_MAX, LABELS_MAX, MAX_AGE_MIN, STORED_OVERHEAD_BYTES},
};

/// A registered room.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Room {
    /// The room id.
    pub room_id: RoomId,
    /// The name of its stream. An ephemeral room has a stream name too.
    pub stream: StreamName,
    /// The NATS subject of its messages.
    pub subject: Subject,
    /// Whether messages are stored.
    pub persist: bool,
    /// Bounds on the stored messages, if the room is persisted.
    #[serde(default)]
    pub retention: Retention,
    /// How long the room remembers message ids, if it is persisted.
    #[serde(default, skip_serializing_if = "DedupeWindow::is_default")]
    pub dedupe: DedupeWindow,
    /// The number of copies of the log in a cluster; 0 if the room is ephemeral.
    #[serde(default)]
    pub replicas: u32,
    /// Whether a message may have its own lifetime.
    #[serde(default)]
    pub allow_message_ttl: bool,
    /// Free key-value pairs.
    #[serde(default)]
    pub labels: Labels,
    /// When the room was registered.
    #[serde(with = "rfc3339")]
    pub created_at: SystemTime,
    /// The authenticated id of the creator, or empty.
    #[serde(default)]
    pub creator: String,
    /// The newest purge, in this epoch of the log or an earlier one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purged: Option<Purged>,
    /// The purge that was announced and has not been concluded. The caller that announced it may have stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purging: Option<Purged>,
}

/// How far a log was purged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Purged {
    /// The epoch of the log: [`RoomState::epoch`].
    pub epoch: i64,
    /// The last sequence that the purge removed. Some messages before it may have been removed earlier.
    pub through: u64,
}

#[cfg(test)]
#[allow(clippy::expect_used)]
impl Room {
    /// A persisted room with default settings.
    pub(crate) fn example(id: &str, created_at: SystemTime) -> Self {
        let room_id = RoomId::parse("room_id", id).expect("a valid id");
        let [name, ..] = NatsName::of_room(&room_id);
        let stream = StreamName::of(name);
        Self {
            subject: Subject::default_of(&stream),
            stream,
            room_id,
            persist: true,
            retention: Retention::default(),
            dedupe: DedupeWindow::Default,
            replicas: 1,
            allow_message_ttl: false,
            labels: Labels::default(),
            created_at,
            creator: String::new(),
            purged: None,
            purging: None,
        }
    }
}

impl Room {
    /// Whether a request for `other` asks for this room: all settings that a creator can choose are as requested.
    #[must_use]
    pub fn same_settings(&self, other: &Self) -> bool {
        let Self {
            room_id,
            stream,
            subject,
            persist,
            retention,
            dedupe,
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
            && dedupe.is_wanted(other.dedupe)
            && *replicas == other.replicas
            && *allow_message_ttl == other.allow_message_ttl
            && *labels == other.labels
    }

    /// How long the room remembers a message id, if it is persisted.
    #[must_use]
    pub fn dedupe_window(&self) -> Duration {
        self.dedupe.length(self.retention.max_age)
    }

    /// The bytes that `max_bytes` leaves for the headers and payload of one message, as NATS encodes them; 0 if it
    /// leaves none.
    #[must_use]
    pub fn content_bytes_max(&self) -> Option<u64> {
        let max = u64::try_from(self.retention.max_bytes?).unwrap_or_default();
        Some(max.saturating_sub((STORED_OVERHEAD_BYTES + self.subject.as_str().len()) as u64))
    }

    /// The last sequence that was purged in the epoch `epoch` of the log; 0 if none was.
    #[must_use]
    pub fn purged_through(&self, epoch: i64) -> u64 {
        self.purged.filter(|purged| purged.epoch == epoch).map_or(0, |purged| purged.through)
    }
}

/// A new room. Its registration gives it its NATS names.
#[derive(Clone, Debug)]
pub struct NewRoom {
    /// Has the preferred stream, and the subject that belongs to it.
    preferred: Room,
    is_subject_given: bool,
}

impl NewRoom {
    /// Makes a new room. If `is_subject_given`, the creator chose the subject of `room`; otherwise the subject follows
    /// from the NATS name that the room gets.
    #[must_use]
    pub fn new(room: Room, is_subject_given: bool) -> Self {
        Self { preferred: room, is_subject_given }
    }

    /// Returns the room with its preferred names.
    #[must_use]
    pub fn preferred(&self) -> &Room {
        &self.preferred
    }

    /// Returns the names that its stream can have, the preferred name first.
    #[must_use]
    pub fn streams(&self) -> [StreamName; 3] {
        NatsName::of_room(&self.preferred.room_id).map(StreamName::of)
    }

    /// Returns the room with this stream.
    #[must_use]
    pub fn named(&self, stream: StreamName) -> Room {
        let subject = if self.is_subject_given { self.preferred.subject.clone() } else { Subject::default_of(&stream) };
        Room { stream, subject, ..self.preferred.clone() }
    }
}

/// Free key-value pairs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Labels(BTreeMap<String, String>);

impl Labels {
    /// Checks the number and size of the pairs.
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

    /// Returns the pairs by ascending name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// Bounds on the stored messages of a persisted room; `None` is no bound.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Retention {
    /// The largest age of a stored message.
    #[serde(with = "optional_duration_text", skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Duration>,
    /// The largest number of stored bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<i64>,
    /// The largest number of stored messages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_messages: Option<i64>,
    /// The largest payload of one message in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_message_bytes: Option<i32>,
}

impl Retention {
    /// Whether one of the bounds can remove messages.
    #[must_use]
    pub fn expires(&self) -> bool {
        self.max_age.is_some() || self.max_bytes.is_some() || self.max_messages.is_some()
    }

    /// Adds each bound that NATS would refuse to `violations`. `payload_bytes_max` is the largest payload of the
    /// service.
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

/// The state of the log of a persisted room at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RoomState {
    /// The sequence of the oldest stored message; `last_sequence` + 1 if no message is stored.
    pub first_sequence: u64,
    /// The sequence of the newest message that was ever stored; 0 if none was.
    pub last_sequence: u64,
    /// The number of stored messages.
    pub messages: u64,
    /// The size of the stored messages in bytes.
    pub bytes: u64,
    /// The epoch of the log: the creation time of its stream in nanoseconds since 1970.
    pub epoch: i64,
    /// The time of the oldest stored message in nanoseconds since 1970; `epoch` if no message is stored.
    pub oldest: i64,
}

/// Difference of the clocks of two NATS servers that is allowed for. One server dates the creation of a stream, and
/// another server may date its messages.
const CLOCKS_DIFFER_BY: i64 = 100_000_000;

impl RoomState {
    /// Whether this log had the epoch `epoch`, before a restore or since. NATS gives a stream that it restores from a
    /// backup a new creation time, so the messages of a restored log are older than its stream. Such a log may have had
    /// each epoch that began before its oldest message.
    #[must_use]
    pub fn continues(&self, epoch: i64) -> bool {
        let oldest = self.oldest.saturating_add(CLOCKS_DIFFER_BY);
        epoch == self.epoch || (epoch <= oldest && oldest < self.epoch)
    }

    /// Whether every message from the first to the last sequence is still stored.
    #[must_use]
    pub fn is_dense(&self) -> bool {
        self.last_sequence + 1 == self.first_sequence + self.messages
    }
}

/// Times in stored JSON, with a precision of a nanosecond.
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

/// Durations in stored JSON.
pub(super) mod duration_text {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(in crate::domain) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(*duration))
    }

    pub(in crate::domain) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        humantime::parse_duration(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

mod optional_duration_text {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use super::duration_text;

    #[expect(clippy::ref_option, reason = "the signature is serde's")]
    pub(super) fn serialize<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        match duration {
            Some(duration) => duration_text::serialize(duration, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        Option::<String>::deserialize(deserializer)?
            .map(|text| humantime::parse_duration(&text).map_err(D::Error::custom))
            .transpose()
    }
}
