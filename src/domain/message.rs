//! Messages: what a publisher sends, what readers get, and what an acknowledgement contains.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use bytes::Bytes;

use super::{Caller, MemberId};
use crate::{
    error::{Error, Result, Violations},
    limits::{HEADER_NAME_CHARS_MAX, HEADERS_BYTES_MAX, HEADERS_MAX, MESSAGE_ID_CHARS_MAX},
};

/// Bytes that a message counts for in a page of history beside its texts and payload.
const PAGE_OVERHEAD_BYTES: usize = 128;
/// Bytes that a header counts for in a page of history beside its name and value.
const PAGE_HEADER_OVERHEAD_BYTES: usize = 8;

/// Beginnings of the header names that NATS and the service use for themselves, in upper or lower case.
const RESERVED_PREFIXES: &[&str] = &["nats-", "unibus-"];

/// A stored or live message as a reader gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The place of the message in the log; 0 in an ephemeral room.
    pub sequence: u64,
    /// The bytes that the publisher sent.
    pub payload: Bytes,
    /// The publisher's headers.
    pub headers: Headers,
    /// When NATS stored the message; in an ephemeral room, when the service received it.
    pub published_at: SystemTime,
    /// The message id that the publisher gave, or empty.
    pub message_id: String,
    /// The authenticated id of the sender, or empty.
    pub sender: String,
}

impl Message {
    /// The bytes that the message counts for in a page of history: payload, headers and overhead.
    pub(crate) fn page_bytes(&self) -> usize {
        let headers: usize =
            self.headers.iter().map(|(name, value)| name.len() + value.len() + PAGE_HEADER_OVERHEAD_BYTES).sum();
        self.payload.len() + headers + self.message_id.len() + self.sender.len() + PAGE_OVERHEAD_BYTES
    }
}

/// A checked message of a publisher.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Draft {
    /// Opaque bytes.
    pub payload: Bytes,
    /// Checked headers.
    pub headers: Headers,
    /// The message id. A second message with the same id is not stored.
    pub message_id: Option<String>,
    /// The required last sequence of the room.
    pub expected_last_sequence: Option<u64>,
    /// The lifetime of the message, in whole seconds.
    pub ttl: Option<Duration>,
    /// The authenticated id of the sender, if it has one.
    pub sender: Option<MemberId>,
}

impl Draft {
    /// Returns the message with this caller as its sender.
    #[must_use]
    pub fn by(self, caller: &Caller) -> Self {
        Self { sender: caller.id().cloned(), ..self }
    }

    /// The bytes of payload, headers and message id.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        self.payload.len() + headers + self.message_id.as_ref().map_or(0, String::len)
    }

    /// Adds every field that NATS would refuse or change to `violations`. `prefix` is put before the field names.
    pub fn check(&self, prefix: &str, violations: &mut Violations) {
        if let Some(id) = &self.message_id
            && (id.len() > MESSAGE_ID_CHARS_MAX || !id.bytes().all(|b| b.is_ascii_graphic()))
        {
            violations.add(
                format!("{prefix}message_id"),
                format!("must be 1 to {MESSAGE_ID_CHARS_MAX} printable ASCII characters without spaces"),
            );
        }
        if let Some(ttl) = self.ttl
            && (ttl < Duration::from_secs(1) || ttl.subsec_nanos() != 0)
        {
            violations.add(format!("{prefix}ttl"), "must be whole seconds, and at least 1 s");
        }
    }
}

/// The checked headers of a publisher.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(HashMap<String, String>);

impl Headers {
    /// Checks names, values and size.
    pub fn parse(field: &str, pairs: HashMap<String, String>) -> Result<Self> {
        let mut violations = Violations::default();
        for (name, value) in &pairs {
            if let Some(problem) = name_problem(name).or_else(|| value_problem(value)) {
                violations.add(format!("{field}[{name:?}]"), problem);
            }
        }
        if pairs.len() > HEADERS_MAX {
            violations.add(field, format!("has {} headers; at most {HEADERS_MAX} are allowed", pairs.len()));
        }
        let bytes: usize = pairs.iter().map(|(name, value)| name.len() + value.len()).sum();
        if bytes > HEADERS_BYTES_MAX {
            violations
                .add(field, format!("has {bytes} bytes of names and values; at most {HEADERS_BYTES_MAX} are allowed"));
        }
        violations.finish().map(|()| Self(pairs))
    }

    /// Converts headers from NATS. Leaves out the headers that NATS or the service uses, and joins the values of
    /// repeated headers.
    pub fn from_stored<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut headers: HashMap<String, String> = HashMap::new();
        for (name, value) in pairs.into_iter().filter(|(name, _)| !is_reserved(name)) {
            headers
                .entry(name.to_owned())
                .and_modify(|joined| {
                    joined.push_str(", ");
                    joined.push_str(value);
                })
                .or_insert_with(|| value.to_owned());
        }
        Self(headers)
    }

    /// The pairs, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The pairs.
    #[must_use]
    pub fn into_map(self) -> HashMap<String, String> {
        self.0
    }
}

fn is_reserved(name: &str) -> bool {
    RESERVED_PREFIXES
        .iter()
        .any(|prefix| name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix)))
}

fn name_problem(name: &str) -> Option<String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if name.is_empty() || name.len() > HEADER_NAME_CHARS_MAX || !name.bytes().all(allowed) {
        Some(format!("the name must have 1 to {HEADER_NAME_CHARS_MAX} characters of A-Z a-z 0-9 - _ ."))
    } else if is_reserved(name) {
        Some("the name must not begin with Nats- or Unibus-, which are reserved".to_owned())
    } else {
        None
    }
}

fn value_problem(value: &str) -> Option<String> {
    if value.contains(['\r', '\n', '\0']) {
        Some("the value must not contain CR, LF or NUL".to_owned())
    } else if value.trim() != value {
        Some("the value must not begin or end with white space, which NATS would strip".to_owned())
    } else {
        None
    }
}

/// How a pipeline of messages is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PublishAcks {
    /// One answer for each message, with its sequence.
    #[default]
    Each,
    /// One answer for all messages up to one. The sequences of the others are not needed.
    Cumulative,
}

/// The acknowledgement of a publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acknowledged {
    /// The sequence of the message, or of the first message if `duplicate` is true; 0 in an ephemeral room, and where the
    /// caller did without it.
    pub sequence: u64,
    /// True if a message with this id was stored earlier. This message was then not stored.
    pub duplicate: bool,
    /// When the service learned that the message is stored.
    pub published_at: SystemTime,
    /// What the message survives.
    pub durability: Durability,
}

/// What an acknowledged message survives. The contract defines each value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    Unknown,
    None,
    Buffered,
    Synced,
    Quorum,
    QuorumSynced,
}

impl Draft {
    /// Refuses the fields that need a log, for a room without a log.
    pub fn check_ephemeral(&self) -> Result<()> {
        let mut violations = Violations::default();
        for (field, given) in [
            ("message_id", self.message_id.is_some()),
            ("expected_last_sequence", self.expected_last_sequence.is_some()),
            ("ttl", self.ttl.is_some()),
        ] {
            if given {
                violations.add(field, "needs a persisted room; leave it out");
            }
        }
        violations.because(crate::error::Reason::RoomNotPersisted).finish().map_err(|error| {
            Error::new(crate::error::Reason::RoomNotPersisted, format!("the room is ephemeral: {}", error.message()))
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parse(name: &str, value: &str) -> Result<Headers> {
        Headers::parse("headers", HashMap::from([(name.to_owned(), value.to_owned())]))
    }

    #[test]
    fn reserved_or_broken_headers_are_refused() {
        for (name, value) in [
            ("", "x"),
            ("Nats-Msg-Id", "x"),
            ("nats-ttl", "x"),
            ("UNIBUS-Sender", "x"),
            ("a b", "x"),
            ("a:b", "x"),
            ("é", "x"),
            ("a", "x\r\ny"),
            ("a", "x\n"),
            ("a", " x"),
            ("a", "x\t"),
            ("a", "\0"),
        ] {
            assert!(parse(name, value).is_err(), "{name:?}: {value:?}");
        }
        assert!(parse("natsy", "").is_ok());
        assert!(parse("X-Key.id_1", "é ü").is_ok());
    }

    #[test]
    fn stored_headers_lose_the_services_own_and_join_repeats() {
        let headers =
            Headers::from_stored([("Nats-Msg-Id", "1"), ("a", "1"), ("unibus-sender", "eve"), ("a", "2")]).into_map();
        assert_eq!(headers, HashMap::from([("a".to_owned(), "1, 2".to_owned())]));
    }
}
