//! Reads single messages from a stream's leader, as JSON. Only this way also works for a message that the NATS client
//! cannot parse.
//!
//! Any program may store headers that are not UTF-8, contain a bare CR in a value, or are not headers at all. On such
//! a message the NATS client breaks its connection, or ends (async-nats 0.51). Here the headers come as base64, and
//! unreadable headers are left out.

use std::{str::from_utf8, time::SystemTime};

use async_nats::{HeaderMap, HeaderName, HeaderValue, jetstream::ErrorCode};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;
use serde_json::json;
use tracing::warn;

use super::message::StoredMessage;
use crate::{
    domain::Room,
    error::{Error, Result},
    nats::Nats,
};

/// The message to read.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) enum Wanted {
    At(u64),
    /// The first message at or after this sequence.
    From(u64),
    Last,
}

/// A message from the leader.
#[derive(Debug)]
pub(in crate::store) struct Raw {
    pub stored: StoredMessage,
    /// True if the NATS client can parse the message.
    pub is_parsable: bool,
}

#[derive(Deserialize)]
struct MessageAnswer {
    message: FoundMessage,
}

#[derive(Deserialize)]
struct FoundMessage {
    seq: u64,
    time: String,
    #[serde(default)]
    hdrs: String,
    #[serde(default)]
    data: String,
}

/// Reads one message from the leader. `None` if it does not exist. A message that the NATS client cannot parse is
/// logged, and the room becomes suspect.
pub(in crate::store) async fn get(nats: &Nats, room: &Room, wanted: Wanted) -> Result<Option<Raw>> {
    let request = match wanted {
        Wanted::At(sequence) => json!({ "seq": sequence }),
        Wanted::From(sequence) => json!({ "seq": sequence, "next_by_subj": ">" }),
        Wanted::Last => json!({ "last_by_subj": ">" }),
    };
    let subject = format!("STREAM.MSG.GET.{}", room.stream);
    let found: FoundMessage = match nats.api::<_, MessageAnswer>(subject, &request).await {
        Ok(MessageAnswer { message }) => message,
        Err(error) if error.is(ErrorCode::NO_MESSAGE_FOUND) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let raw = decode(found).ok_or_else(Error::internal)?;
    if !raw.is_parsable {
        let sequence = raw.stored.message.sequence;
        warn!(
            room = %room.room_id, sequence,
            "another program stored a message with headers that cannot be parsed; it is delivered with the headers that can be read"
        );
        nats.suspects().add(&room.room_id);
    }
    Ok(Some(raw))
}

fn decode(FoundMessage { seq, time, hdrs, data }: FoundMessage) -> Option<Raw> {
    let (headers, payload) = (STANDARD.decode(hdrs).ok()?, STANDARD.decode(data).ok()?);
    let time: SystemTime = humantime::parse_rfc3339(&time).ok()?;
    let (headers, is_parsable) = parse(&headers);
    Some(Raw { stored: StoredMessage::new(seq, time, Some(&headers), payload.into()), is_parsable })
}

/// The readable headers. True: these are all headers.
fn parse(block: &[u8]) -> (HeaderMap, bool) {
    let mut headers = HeaderMap::new();
    let Some(block) = block.strip_prefix(b"NATS/1.0") else { return (headers, block.is_empty()) };
    let mut is_parsable = true;
    let mut lines = block.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    // the rest of the version line is a status, which no stored message has
    is_parsable &= lines.next().is_some_and(<[u8]>::is_empty);
    for line in lines.filter(|line| !line.is_empty()) {
        let pair = from_utf8(line).ok().and_then(|line| line.split_once(':'));
        let pair = pair.and_then(|(name, value)| {
            let name = name.parse::<HeaderName>().ok()?;
            value.trim().parse::<HeaderValue>().ok().map(|value| (name, value))
        });
        match pair {
            Some((name, value)) => headers.append(name, value),
            None => is_parsable = false,
        }
    }
    (headers, is_parsable)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn names(block: &[u8]) -> (Vec<String>, bool) {
        let (headers, is_parsable) = parse(block);
        let mut names: Vec<String> =
            headers.iter().map(|(name, values)| format!("{name}={}", values.first().unwrap().as_str())).collect();
        names.sort();
        (names, is_parsable)
    }

    #[test]
    fn what_can_be_read_of_headers_is_kept() {
        for (block, kept, is_parsable) in [
            (&b""[..], &[][..], true),
            (b"NATS/1.0\r\n\r\n", &[], true),
            (b"NATS/1.0\r\nA: b\r\nC:d\r\n\r\n", &["A=b", "C=d"], true),
            (b"NATS/1.0\r\nA: caf\xe9\r\nC: d\r\n\r\n", &["C=d"], false),
            (b"NATS/1.0\r\nA: b\rc\r\nC: d\r\n\r\n", &["C=d"], false),
            (b"NATS/1.0\r\nno colon\r\nC: d\r\n\r\n", &["C=d"], false),
            (b"NATS/1.0\r\nA b: c\r\nC: d\r\n\r\n", &["C=d"], false),
            (b"NATS/1.0 204 EOB\r\nC: d\r\n\r\n", &["C=d"], false),
            (b"garbage", &[], false),
        ] {
            let kept: Vec<String> = kept.iter().map(ToString::to_string).collect();
            assert_eq!(names(block), (kept, is_parsable), "{:?}", String::from_utf8_lossy(block));
        }
    }
}
